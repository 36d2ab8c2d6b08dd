"""The room of each daemon: a small file system of its own, so that no pod can fill the one in which others write.

Pods mount the pipe directory of their daemon and can write there, also as users who are not root: NVIDIA's lock file in
it is open to all. And what they ask a daemon is in its log. So everything below `<mps-root>/<uuid>` is a tmpfs with a
bound for bytes and files, made anew for each start of a daemon: who has filled the one before has it still, and nobody
else. A host that takes over a daemon finds its room and leaves it as it is. The paths are the same with and without.

Only where the host may mount at all: with `--shm-size 0` it does not, and rooms are directories. A room that outlives
what was in it is known by its mount: the record of its daemon is in it, and goes first.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from nodeagent.mps import directory, mounts
from nodeagent.mps.disk import reason

logger = logging.getLogger(__name__)

SIZE: Final = 16 * 1024 * 1024
"""Bytes. The logs take up to 4 MiB, sockets next to nothing."""

FILES: Final = 1024


class Rooms:
    """Makes and ends rooms; all methods block. `bounded` says whether rooms are file systems, as far as is known."""

    def __init__(self, *, bounded: bool) -> None:
        self._mounts = bounded
        self.bounded = bounded
        self._stay: set[Path] = set()

    def renew(self, path: Path) -> None:
        """There is an empty room at `path`, whatever was there before. Called while no daemon runs. Raises OSError."""
        if not self._mounts:
            self.end(path)
            return
        mounts.detach(path)
        directory.remove(path)
        path.mkdir(mode=directory.MODE)
        try:
            mounts.mount_tmpfs(path, f"size={SIZE},nr_inodes={FILES},mode={directory.MODE:o}")
        except OSError as error:
            logger.warning("pods can fill the file system of the MPS root: %s", reason(error))
            self.bounded = False

    def end(self, path: Path) -> None:
        """The room at `path` is closed, and what it took of the memory is free, also where a host that could mount has
        made it, and this one may not. Raises OSError.
        """
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
