"""The shared memory of daemons and their clients: one tmpfs, which all of them have as /dev/shm.

A server and its clients pass data through files in /dev/shm, and a pod has one of its own. So there is a tmpfs below
the MPS root, which is bound over /dev/shm of each daemon and mounted there into pods. It is never unmounted: daemons
and pods that have it live longer than the host. It is bounded in bytes and in files: an empty file takes memory, too.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path
from typing import Final

from nodeagent.mps.mounts import mount_tmpfs, mounted

logger = logging.getLogger(__name__)

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_BYTES_PER_FILE: Final = 16 * 1024
_LEAST_FILES: Final = 1024


def mount(path: Path, size: int) -> None:
    """A tmpfs of `size` bytes is mounted at `path`, open to all users. One that is there already is kept, and resized
    if what is in it allows that. Raises OSError.
    """
    path.mkdir(mode=0o755, exist_ok=True)
    files = max(size // _BYTES_PER_FILE, _LEAST_FILES)
    found = mounted(path)
    if found is None:
        mount_tmpfs(path, f"size={size},nr_inodes={files},mode=1777")
    elif found.kind != "tmpfs":
        raise FileExistsError(errno.EEXIST, f"there is a mount of type {found.kind}", str(path))
    else:
        there = os.statvfs(path)
        if (there.f_blocks * there.f_frsize, there.f_files) != (-(-size // _PAGE) * _PAGE, files):
            try:
                mount_tmpfs(path, f"size={size},nr_inodes={files}", remount=True)
            except OSError as error:
                logger.warning("%s keeps its size: %s", path, error.strerror)
