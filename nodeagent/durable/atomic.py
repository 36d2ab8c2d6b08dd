"""Files that are whole or absent, whatever happens while they are written.

A reader sees the old bytes or the new ones, never a mixture: the new ones go to a temporary file in the same
directory, are synced, and are renamed over the old. There is one writer per file (the state directory's lock), so the
temporary file has a fixed name and a killed agent leaves at most one behind, which the next write replaces.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodeagent import refusals

MAX_SIZE = 64 * 1024 * 1024
"""Bytes. No file of ours comes near it; one that is larger is not ours."""

KEPT = 3
"""How many files that were set aside are kept per name."""


class Untrusted(ValueError):
    """A file's content cannot be used; the message says why."""


@contextmanager
def naming(path: Path, task: str) -> Iterator[None]:
    """Let every OSError inside say what could not be done and to which file (`os.write` and `os.fsync` name none)."""
    try:
        yield
    except OSError as error:
        # OSError's constructor picks the subclass (PermissionError, ...) by errno.
        raise OSError(error.errno, f"cannot {task}: {refusals.words(error, path)}", str(path)) from error


def write(path: Path, data: bytes, *, sync: bool, mode: int = 0o600, permit: Callable[[], None] = lambda: None) -> None:
    """Replace the file by one with these bytes. With `sync` it is on the disk on return. `permit` is called at the last
    moment before that, and prevents it by an OSError. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path, "write file"):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
            try:
                os.fchmod(descriptor, mode)
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                if sync:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            permit()
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink()
            raise
        if sync:
            sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make renames in the directory survive a power failure. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> bytes | None:
    """The file's bytes, None if there is none. Raises Untrusted for what is not a file of sane size, OSError else."""
    with naming(path, "read file"):
        try:
            # Non-blocking, so that a fifo that somebody put there does not hang the start.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Untrusted("it is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_SIZE + 1)
        finally:
            os.close(descriptor)
    if len(data) > MAX_SIZE:
        raise Untrusted(f"it is larger than {MAX_SIZE} bytes")
    return data


def set_aside(path: Path) -> Path:
    """Rename the file to `<name>.corrupt-<n>`, n one more than any before; the newest few are kept. Raises OSError."""
    with naming(path, "set file aside"):
        target = _aside(path)
        path.rename(target)
        _keep_few(path)
    return target


def copy_aside(path: Path) -> Path:
    """The same, and leave the file where it is: the new name is one more link to it. Raises OSError."""
    with naming(path, "copy file aside"):
        target = _aside(path)
        target.hardlink_to(path)
        _keep_few(path)
    return target


def _aside(path: Path) -> Path:
    taken = _taken(path)
    return path.with_name(f"{path.name}.corrupt-{taken[-1] + 1 if taken else 1}")


def _keep_few(path: Path) -> None:
    for number in _taken(path)[:-KEPT]:
        with suppress(OSError):
            path.with_name(f"{path.name}.corrupt-{number}").unlink()


def _taken(path: Path) -> list[int]:
    pattern = re.compile(re.escape(path.name) + r"\.corrupt-([0-9]{1,9})")
    return sorted(int(found[1]) for entry in path.parent.iterdir() if (found := pattern.fullmatch(entry.name)))
