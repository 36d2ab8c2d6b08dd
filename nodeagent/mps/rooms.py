"""The room of each daemon: a small file system of its own, so that no pod can fill the one in which others write.

Pods mount the pipe directory of their daemon and can write there, also as users who are not root: NVIDIA's lock file in
it is open to all. And what they ask a daemon is in its log. So everything below `<mps-root>/<uuid>` is a tmpfs with a
bound for bytes and files. The paths are the same with and without.

A room stays for the next daemon, since containers that run have a directory of it mounted. One in which there is no
space, because somebody keeps what they have filled it with, or that is not as it should be, is replaced by a new one:
who has the old one has it still, and nobody else. So is one whose containers cannot be clients any more. A host that
takes over a daemon finds its room and leaves it as it is.

Only where the host may mount at all: with `--shm-size 0` it does not, and rooms are directories. A directory that a
host without rooms has left stays one as long as pods may have it mounted, which is until MPS leaves the GPU. A room
that outlives what was in it is known by its mount: the record of its daemon is in it, and goes first.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

from nodeagent.mps import directory, mounts
from nodeagent.mps.disk import reason

logger = logging.getLogger(__name__)

SIZE: Final = 16 * 1024 * 1024
"""Bytes. The logs take up to 4 MiB, sockets next to nothing."""

FILES: Final = 1024

_OPTIONS: Final = f"size={SIZE},nr_inodes={FILES},mode={directory.MODE:o}"
_FLAGS: Final = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC


class Rooms:
    """Makes and ends rooms; all methods block. `bounded` says whether rooms are file systems, as far as is known."""

    def __init__(self, *, bounded: bool) -> None:
        self._mounts = bounded
        self._unbounded: set[Path] = set()
        self._stay: set[Path] = set()

    @property
    def bounded(self) -> bool:
        """Whether rooms are file systems, as far as is known."""
        return self._mounts and not self._unbounded

    def prepare(self, path: Path, pipe: Path, *, anew: bool = False) -> None:
        """There is a room at `path`, and in it an empty pipe directory or none. Called while no daemon runs.

        It is the one of before where that can be, with what pods may have mounted, unless `anew`. Raises OSError.
        """
        if not anew and self._stays(path, pipe):
            return
        if not self._mounts:
            self.end(path)
            return
        mounts.detach(path)
        directory.remove(path)
        path.mkdir(mode=directory.MODE)
        try:
            mounts.mount_tmpfs(path, _OPTIONS)
            self._unbounded.discard(path)
        except OSError as error:
            logger.warning("pods can fill the file system of the MPS root: %s", reason(error))
            self._unbounded.add(path)

    def _stays(self, path: Path, pipe: Path) -> bool:
        """Whether the room of before does for the next daemon."""
        there = mounts.mounted(path)
        if there is not None:
            if not there.ours:
                return False
            if directory.clear(pipe) and _fits(path):
                return True
            logger.warning("%s is made anew: containers that have a directory of it have to be started again", path)
            return False
        if not self._mounts:
            return True
        if not directory.clear(pipe):
            return False
        if path not in self._unbounded:
            logger.warning(
                "%s has no bound: a host that mounts nothing has made it, and it stays for the containers that have it"
                " until MPS leaves the GPU; pods can fill the file system of the MPS root",
                path,
            )
        self._unbounded.add(path)
        return True

    def end(self, path: Path) -> None:
        """The room at `path` is closed, and what it took of the memory is free, also where a host that could mount has
        made it, and this one may not. Raises OSError.
        """
        self._unbounded.discard(path)
        if self._mounts:
            mounts.detach(path)
        elif path.name in mounts.ours_in(path.parent):
            try:
                mounts.detach(path)
            except OSError as error:
                logger.warning("a room that an earlier host has made stays: %s", reason(error))
                self._stay.add(path)

    def left(self, root: Path) -> set[str]:
        """Names below `root` of rooms that are there, of hosts before this one, too. Raises OSError."""
        return {name for name in mounts.ours_in(root) if root / name not in self._stay}


def _fits(path: Path) -> bool:
    """Whether the file system of a room is one that we would make, with space for a daemon."""
    try:
        there = os.statvfs(path)
        if (there.f_blocks * there.f_frsize, there.f_files, there.f_flag & _FLAGS) != (SIZE, FILES, _FLAGS):
            mounts.mount_tmpfs(path, _OPTIONS, remount=True)
            there = os.statvfs(path)
    except OSError:
        return False
    return there.f_bavail * there.f_frsize >= SIZE // 2 and there.f_favail >= FILES // 2
