"""Mounting a tmpfs, and what is mounted where. The one place that asks the kernel for it."""

from __future__ import annotations

import ctypes
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import mountinfo, refusals

_NOSUID, _NODEV, _NOEXEC, _REMOUNT = 2, 4, 8, 32  # sys/mount.h
_FLAGS: Final = _NOSUID | _NODEV | _NOEXEC
_DETACH, _NOFOLLOW = 2, 8
_NAME: Final = "nodeagent-mps"


@dataclass(frozen=True, slots=True)
class Mounted:
    """What is mounted at a path: the type of the file system, and whether it is a tmpfs of ours."""

    kind: str
    ours: bool


def mounted(path: Path) -> Mounted | None:
    """What lies on top at `path`; None when nothing is mounted there. Raises OSError."""
    return _all().get(str(path.absolute()))


def is_clear(path: Path) -> bool:
    """Whether nothing is mounted at `path`, nor anywhere below it. Raises OSError."""
    top = str(path.absolute())
    return not any(there == top or there.startswith(f"{top}/") for there in _all())


def ours_in(directory: Path) -> frozenset[str]:
    """The names in `directory` at which a tmpfs of ours lies on top. Raises OSError."""
    found = {Path(path): there for path, there in _all().items() if there.ours}
    return frozenset(path.name for path in found if path.parent == directory.absolute())


def _all() -> dict[str, Mounted]:
    """What lies on top, by path."""
    return {
        mount.point: Mounted(mount.kind, mount.kind == "tmpfs" and mount.source == _NAME)
        for mount in mountinfo.read()  # the last one lies on top
    }


def mount_tmpfs(path: Path, options: str, *, remount: bool = False) -> None:
    """Mount a tmpfs of ours, or give the one that is there other options. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(_FLAGS | (_REMOUNT if remount else 0))
    if libc.mount(_NAME.encode(), os.fsencode(path), b"tmpfs", flags, options.encode()) != 0:
        raise _error("mount a tmpfs", path)


def detach(path: Path) -> None:
    """Nothing of ours is mounted at `path` any more; who uses it still has it. Raises OSError, FileExistsError where
    somebody else has mounted there.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    while (found := mounted(path)) is not None:
        if not found.ours:
            raise FileExistsError(errno.EEXIST, f"there is a mount of type {found.kind}", str(path))
        if libc.umount2(os.fsencode(path), _DETACH | _NOFOLLOW) != 0:
            raise _error("unmount", path)


def _error(task: str, path: Path) -> OSError:
    number = ctypes.get_errno()
    refused = refusals.words(OSError(number, os.strerror(number)))
    return OSError(number, f"cannot {task}: {refused}", str(path))
