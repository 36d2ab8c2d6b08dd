"""The shared memory of daemons and their clients: one tmpfs, which all of them have as /dev/shm.

A server and its clients pass data through files in /dev/shm, and a pod has one of its own. So there is a tmpfs below
the MPS root, which is bound over /dev/shm of each daemon and mounted there into pods. It is never unmounted: daemons
and pods that have it live longer than the host.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import re
from pathlib import Path
from typing import Final

logger = logging.getLogger(__name__)

_NOSUID, _NODEV, _NOEXEC, _REMOUNT = 2, 4, 8, 32  # sys/mount.h
_FLAGS: Final = _NOSUID | _NODEV | _NOEXEC
_NAME: Final = b"nodeagent-mps"
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


def mount(path: Path, size: int) -> None:
    """A tmpfs of `size` bytes is mounted at `path`, open to all users. One that is there already is kept, and resized
    if what is in it allows that. Raises OSError.
    """
    path.mkdir(mode=0o755, exist_ok=True)
    kind = mounted(path)
    if kind is None:
        _mount(path, _FLAGS, f"size={size},mode=1777")
    elif kind != "tmpfs":
        raise FileExistsError(errno.EEXIST, f"there is a mount of type {kind}", str(path))
    else:
        found = os.statvfs(path)
        if found.f_blocks * found.f_frsize != -(-size // _PAGE) * _PAGE:
            try:
                _mount(path, _FLAGS | _REMOUNT, f"size={size}")
            except OSError as error:
                logger.warning("%s keeps its size: %s", path, error.strerror)


def mounted(path: Path) -> str | None:
    """The type of the file system that is mounted at `path`; None when there is none."""
    kind = None
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if _unescape(fields[4]) == str(path.absolute()):
            kind = fields[fields.index("-") + 1]  # the last one lies on top
    return kind


def _unescape(text: str) -> str:
    r"""A path as the kernel shows it: a space is `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _mount(path: Path, flags: int, options: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    target = os.fsencode(path)
    if libc.mount(_NAME, target, b"tmpfs", ctypes.c_ulong(flags), options.encode()) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount a tmpfs: {os.strerror(number)}", str(path))
