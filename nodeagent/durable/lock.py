"""One agent per node: a lock that ends with its process, however that ends.

The lock is the file at the path, and whoever holds another file has lost it: an owner looks at the path now and then
(`is_at_path`) and locks what is there (`retake`). One who waits leaves it time for that: when the file that another
holds has gone from the path, he may not want it yet (`another_may_come_back`).
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path

from nodeagent.durable.atomic import naming

_Identity = tuple[int, int]


class FileLock:
    """An exclusive `flock` on a file. The kernel frees it when the process is gone, so it is never stale.

    Not for several threads at once, but for `is_at_path`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None
        self._ours: _Identity | None = None
        self._theirs: _Identity | None = None

    @property
    def held(self) -> bool:
        return self._descriptor is not None

    @property
    def is_at_path(self) -> bool:
        """Whether the file that we hold is the one at the path. Raises OSError when the path cannot be looked at."""
        ours = self._ours
        with naming(self._path, "look at lock file"):
            return ours is not None and self._there() == ours

    @property
    def another_may_come_back(self) -> bool:
        """Whether the file that another was seen to hold is not the one at the path: it may make it anew."""
        try:
            return self._theirs is not None and self._there() != self._theirs
        except OSError:
            return False

    def acquire(self) -> bool:
        """Take the lock if it is free; True when it is ours (also when it was already). Never waits. Raises OSError."""
        return self._descriptor is not None or self.retake()

    def retake(self) -> bool:
        """Take the lock at the path in place of the one that is held, if it is free; else that one stays. True when it
        is ours. Never waits. Raises OSError.
        """
        with naming(self._path, "lock file"):
            descriptor = self._lock()
        if descriptor is None:
            # Ours: what had gone from the path is there again.
            return self._ours is not None and self._theirs == self._ours
        before, self._descriptor, self._ours = self._descriptor, descriptor, _identity(os.fstat(descriptor))
        if before is not None:
            os.close(before)
        # For people only: nothing of ours reads it, so a full disk is no reason not to start.
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        return True

    def _lock(self) -> int | None:
        """The file at the path, locked and open; None when another holds it."""
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            found = _identity(os.fstat(descriptor))
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._there() == found:
                    return descriptor
            except BlockingIOError:
                os.close(descriptor)
                self._theirs = found
                return None
            except OSError:
                os.close(descriptor)
                raise
            # Somebody removed the file between our open and our lock: whoever comes next would lock another one.
            os.close(descriptor)

    def _there(self) -> _Identity | None:
        """What is at the path; it has no other name as long as it is open. Raises OSError."""
        try:
            return _identity(self._path.lstat())
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.ENOTDIR}:
                return None
            raise

    def release(self) -> None:
        """Free the lock; nothing happens when it is not ours. The file stays: removing it would race with who waits."""
        if self._descriptor is not None:
            descriptor, self._descriptor, self._ours = self._descriptor, None, None
            # Closing alone would leave it to a child process that is between fork and exec at this moment.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _identity(found: os.stat_result) -> _Identity:
    return found.st_dev, found.st_ino
