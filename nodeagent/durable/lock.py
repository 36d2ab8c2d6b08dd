"""One agent per node: a lock that ends with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from nodeagent.durable.atomic import naming


class FileLock:
    """An exclusive `flock` on a file. The kernel frees it when the process is gone, so it is never stale."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    def acquire(self) -> bool:
        """Take the lock if it is free; True when it is ours (also when it was already). Never waits. Raises OSError."""
        if self._descriptor is not None:
            return True
        with naming(self._path, "lock file"):
            while True:
                descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    return False
                except OSError:
                    os.close(descriptor)
                    raise
                if self._is_at_path(descriptor):
                    break
                # Somebody removed the file between our open and our lock: whoever comes next would lock another one.
                os.close(descriptor)
            self._descriptor = descriptor
        # For people only: nothing of ours reads it, so a full disk is no reason not to start.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return True

    def _is_at_path(self, descriptor: int) -> bool:
        try:
            there = self._path.lstat()
        except FileNotFoundError:
            return False
        ours = os.fstat(descriptor)
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)

    def release(self) -> None:
        """Free the lock; nothing happens when it is not ours. The file stays: removing it would race with who waits."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # Closing alone would leave it to a child process that is between fork and exec at this moment.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
