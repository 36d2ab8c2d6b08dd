"""One look at the mounted file: the document in it, or why there is none."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.config import selection
from nodeagent.config.selection import FILE_NAME
from nodeagent.model.config import Document, Unreadable
from nodeagent.model.node import Selection

REVISION_NAME: Final = "revision"

_LARGEST: Final = 16 << 20
_LONGEST_REVISION: Final = 200
_TRIES: Final = 5
_KINDS: Final = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def read_document(path: Path) -> Document | Unreadable:
    """The document that `path`, a file or a directory, holds now, with the revision beside it. Never raises OSError.

    Document and revision are of one moment: both are read from behind the same `..data` link, and read again when it
    was swapped meanwhile.
    """
    return _read(path / FILE_NAME if is_directory(path) else path)


def read_selected(path: Path, chosen: Selection | None) -> Document | Unreadable | None:
    """The same, where labels of the Node select the document of a directory. None: it is a directory, and what they
    select is not known.
    """
    if not is_directory(path):
        return _read(path)
    if chosen is None:
        return None
    name = selection.file_name(chosen)
    found = _read(path / name) if name is not None else Unreadable(str(path), missing=True, message="")
    if not isinstance(found, Unreadable) or not found.missing:
        return found
    names, unlisted = _names(path)
    reason = selection.unknown(chosen, names) if not unlisted else selection.unlisted(chosen, unlisted)
    return Unreadable(found.path, missing=True, message=f"cannot read config: {reason}")


def _read(file: Path) -> Document | Unreadable:
    try:
        for _ in range(_TRIES):
            real = file.resolve()
            data = _read_file(real)
            revision = _read_revision(real.parent) or _read_revision(file.parent)
            if file.resolve() == real:
                return Document(str(file), data, revision)
        return Unreadable(str(file), missing=False, message="cannot read config: it keeps changing while it is read")
    except FileNotFoundError:
        return Unreadable(str(file), missing=True, message="cannot read config: there is no such file")
    except (OSError, RuntimeError, ValueError) as error:
        return Unreadable(str(file), missing=False, message=f"cannot read config: {_reason(error, file)}")


def _reason(error: Exception, file: Path) -> str:
    """Why it cannot be read, with its path where the kernel refuses: that may be one of a directory above it."""
    if isinstance(error, RuntimeError) or (isinstance(error, OSError) and error.errno == errno.ELOOP):
        return "it is a loop of links"  # Python 3.11 and 3.12 raise RuntimeError for one
    if isinstance(error, BlockingIOError):
        return "it gives nothing without waiting"
    if isinstance(error, OSError) and error.errno is not None:
        real = Path(os.fsdecode(error.filename)) if error.filename is not None else file
        return f"{file}: {refusals.words(error, real)}"
    return str(error)


def is_directory(path: Path) -> bool:
    """Whether there is a directory, which an unreadable path is not."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _names(directory: Path) -> tuple[list[str], str]:
    """The names of all files in it, and why they cannot be known."""
    try:
        return os.listdir(directory), ""  # noqa: PTH208 - names are what is wanted
    except OSError as error:
        return [], f"{directory} cannot be listed: {refusals.words(error, directory)}"


def _read_file(path: Path) -> bytes:
    """Raises OSError. What is no file is not even opened: that alone does something to many a device."""
    _check_kind(path.stat())
    # It may be another one by now. Without O_NONBLOCK, opening a pipe that nobody writes to would block for ever.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _check_kind(os.fstat(descriptor))
        parts: list[bytes] = []
        left = _LARGEST + 1
        while left > 0 and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    if left <= 0:
        raise OSError(f"it has more than {_LARGEST >> 20} MiB")
    return b"".join(parts)


def _check_kind(about: os.stat_result) -> None:
    kind = stat.S_IFMT(about.st_mode)
    if kind != stat.S_IFREG:
        raise OSError(f"it is {_KINDS.get(kind, 'not a regular file')}, not a regular file")


def _read_revision(directory: Path) -> str | None:
    """The first line of the file `revision`, whatever a pipeline wrote there; None where it says nothing."""
    try:
        text = _read_file(directory / REVISION_NAME)[:_LONGEST_REVISION].decode("utf-8", "replace")
    except OSError:
        return None
    line = text.strip().partition("\n")[0].strip()
    return "".join(character for character in line if character.isprintable()) or None
