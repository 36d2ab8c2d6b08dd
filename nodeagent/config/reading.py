"""One look at the mounted file: the document in it, or why there is none."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.config import selection
from nodeagent.config.selection import REVISION_NAME
from nodeagent.model.config import Document, Unreadable
from nodeagent.model.node import Selection

_ABSENT: Final = "cannot read config: there is no such file"
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


def read_document(path: Path, default: str | None = None) -> Document | Unreadable:
    """The document that `path`, a file or a directory, holds now, with the revision beside it. Never raises OSError.
    `default` is the name of that of a directory, if it is given.

    Document and revision are of one moment: both are read from behind the same `..data` link, and read again when it
    was swapped meanwhile.
    """
    if not is_directory(path):
        return _read(path)
    return _read_named(path, Selection(), default)


def read_selected(path: Path, chosen: Selection | None, default: str | None = None) -> Document | Unreadable | None:
    """The same, where labels of the Node select the document of a directory. None: it is a directory, and what they
    select is not known.
    """
    if not is_directory(path):
        return _read(path)
    return None if chosen is None else _read_named(path, chosen, default)


def _read_named(path: Path, chosen: Selection, default: str | None) -> Document | Unreadable:
    """The first of the files that are looked for; where nothing is said of a node also the only one that there is."""
    names = selection.file_names(chosen, default)
    for name in names:
        found = _read(path / name)
        if not isinstance(found, Unreadable) or not found.missing:
            return found
    if any(map(os.path.islink, (path / name for name in names))):  # leads nowhere: nobody means another one
        return Unreadable(str(path / names[0]), missing=True, message=_ABSENT)
    present, unlisted = _names(path)
    if chosen.value is None and default is None and (only := selection.only_one(present)) is not None:
        return _read(path / only)
    where = path / names[0] if names else path
    if unlisted:
        message = f"cannot read config: {selection.unlisted(chosen, unlisted, default)}"
        return Unreadable(str(where), missing=True, message=message)
    if names[:1] == (selection.FILE_NAME,) and not any(map(selection.readable, present)):
        return Unreadable(str(where), missing=True, message=_ABSENT)
    reason = selection.unknown(chosen, present, default)
    return Unreadable(str(where), missing=True, message=f"cannot read config: {reason}")


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
        return Unreadable(str(file), missing=True, message=_ABSENT)
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
    """The files that are there, which a link that leads nowhere is not, and why they cannot be known."""
    try:
        return [name for name in os.listdir(directory) if (directory / name).is_file()], ""  # noqa: PTH208 - names
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
    return revision_in(text)


def revision_in(text: str) -> str | None:
    """The first line of what a pipeline wrote, shortened; None where it says nothing."""
    line = text[:_LONGEST_REVISION].strip().partition("\n")[0].strip()
    return "".join(character for character in line if character.isprintable()) or None
