"""Whose the state directory is: the way to it, and what comes of an owner whose directory is taken from under it.

A lock is a file, and a file can be deleted, renamed, unmounted or mounted over. So an owner looks now and then whether
what it holds is still what others find there. What has gone is made anew and everything written again, and no stream
ends. Where another process has the lock by then, there are two owners for as long as a look takes: we are the one that
ends. A directory that cannot be made is a disk that cannot be written; one that nobody can ever make again under its
mount is worth a new container.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto
from pathlib import Path
from typing import Final, Protocol

from nodeagent.errand import Errand
from nodeagent.store.state_dir import MountGone, Standing

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0
"""Seconds between two looks without an event; with one there is a look at once."""

OWNER_FIRST: Final = 3.0
"""Seconds that an owner has, whose lock has gone from its path, before one who waits takes the one that is there."""

REMOUNT_AFTER: Final = 4.0
"""Seconds after which it is believed that a directory was deleted under its mount."""

ANEW: Final = "the state directory, its lock or a file in it was removed: everything is written anew"


class Ending(Enum):
    """Why an agent has ended: it was told to, another process has its state directory, only another mount of that
    directory would help, or only a new container can use the driver.
    """

    TOLD = auto()
    TAKEN = auto()
    MOUNT_GONE = auto()
    DRIVER_CHANGED = auto()


class Directory(Protocol):
    """A state directory, for one who wants it. Raises OSError."""

    @property
    def another_may_come_back(self) -> bool: ...
    def acquire(self) -> bool: ...


class Claim:
    """Takes a directory when it is free."""

    def __init__(self, directory: Directory, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._gone_since: float | None = None

    def take(self) -> bool:
        """Whether it is ours. One whose lock has gone from its path is left to its owner for a while. Never waits.
        Raises OSError.
        """
        if not self._directory.another_may_come_back:
            self._gone_since = None
            return self._directory.acquire()
        now = self._clock()
        self._gone_since = now if self._gone_since is None else self._gone_since
        if now - self._gone_since < OWNER_FIRST:
            return False
        self._gone_since = None
        return self._directory.acquire()


class Ownership:
    """Sees to it that an owner stays the owner, or ends. Belongs to one event loop.

    `keep` is `StateDir.keep`, to be called in a thread. `rewrite` is called when what was written is gone, with why;
    `end` when the agent is to end. `subscribe` is that of a DirectoryWatch.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: Callable[[], Standing],
        rewrite: Callable[[str], None],
        end: Callable[[Ending], None],
        subscribe: Callable[[Path, Callable[[], None]], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._keep = keep
        self._rewrite = rewrite
        self._end = end
        self._clock = clock
        self._errand = Errand("ownership", on_late=lambda: None)
        self._again = asyncio.Event()
        self._problem = ""
        self._gone_since: float | None = None
        subscribe(directory, self._again.set)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._again.clear()
            await self.look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._again.wait()

    async def look(self) -> None:
        """One look, however long the disk takes to answer."""
        try:
            standing = await self._errand.run(self._keep, None)
        except OSError as error:
            self._bear(error)
            return
        self._problem, self._gone_since = "", None
        if standing is Standing.ANEW:
            self._rewrite(ANEW)
        elif standing is Standing.TAKEN:
            logger.warning("another process has the lock in %s: ending all streams, and waiting", self._directory)
            self._end(Ending.TAKEN)

    def _bear(self, error: OSError) -> None:
        """Go on without the directory; end where it cannot come back, and this process once had it."""
        if str(error) != self._problem:
            self._problem = str(error)
            self._rewrite(self._problem)
        if not isinstance(error, MountGone):
            self._gone_since = None
            return
        now = self._clock()
        self._gone_since = now if self._gone_since is None else self._gone_since
        if now - self._gone_since >= REMOUNT_AFTER:
            logger.critical("%s; only another mount helps: ending, so that there is a new container", error)
            self._end(Ending.MOUNT_GONE)
