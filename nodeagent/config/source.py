"""Follows the mounted config: always offers the newest reading, and wakes the loop when there is another one.

A config that is rewritten is for a moment empty, one that is replaced by an editor for a moment missing; both are given
time to come back before anybody hears of it. Everything else is told as it is found, good or bad.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.config.load import load
from nodeagent.config.reading import is_directory, read_document
from nodeagent.errand import Errand, Hangs
from nodeagent.model.config import Document, Loaded, Unreadable

_log = logging.getLogger(__name__)

EMPTY_GRACE: Final = 0.2
"""Seconds for which an empty file is taken for one that is being written."""

COMEBACK: Final = 2.0
"""Seconds after which a file that was away is looked at once more: a directory that was made anew and is gone again
before anybody could watch it leaves no event."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in the mount. `event_at` is the monotonic second in which the change was noticed."""

    loaded: Loaded | Unreadable
    event_at: float


class ConfigSource:
    """Reads `path`, a file or a directory with `sharing.yaml` in it, whenever something may have changed.

    `subscribe` is that of a DirectoryWatch. The file is looked at again every `reread` seconds in any case; one that is
    missing for less than `missing_grace` seconds is being swapped; one that is not there after `deadline` seconds of
    reading cannot be read.
    """

    def __init__(
        self,
        path: Path,
        *,
        subscribe: Callable[[Path, Callable[[], None]], None],
        wake: Callable[[], None],
        reread: float = 60.0,
        missing_grace: float = 1.0,
        deadline: float = 5.0,
    ) -> None:
        self._path = path
        self._wake = wake
        self._reread = reread
        self._missing_grace = missing_grace
        self._deadline = deadline
        self._reader = Errand("config", on_late=self.look_again)
        self._newest: Reading | None = None
        self._again = asyncio.Event()
        self._noticed: float | None = None
        self._away_since: float | None = None
        # A file is seen from its directory; a path that is not there yet may become either.
        subscribe(path, self.look_again)
        if not is_directory(path):
            subscribe(path.parent, self.look_again)

    @property
    def newest(self) -> Reading | None:
        """The newest reading; None until the first look. Replaced as a whole, never changed."""
        return self._newest

    def look_again(self) -> None:
        """Something may have changed. To be called on the loop."""
        if self._noticed is None:
            self._noticed = time.monotonic()
        self._again.set()

    async def run(self) -> None:
        """Follow the file until cancelled."""
        while True:
            noticed = time.monotonic() if self._noticed is None else self._noticed
            self._noticed = None
            self._again.clear()
            found = await self._look()
            pause = self._take(found, noticed)
            try:
                async with asyncio.timeout(pause):
                    await self._again.wait()
            except TimeoutError:
                continue

    async def _look(self) -> Loaded | Unreadable:
        """Read, and find out what the document means unless that is known; both off the loop."""
        try:
            found = await self._reader.run(lambda: read_document(self._path), self._deadline)
        except Hangs:
            message = f"cannot read config: no answer from the mount within {self._deadline:g} s"
            return Unreadable(str(self._path), missing=False, message=message)
        if isinstance(found, Unreadable):
            return found
        newest = self._newest
        if newest is not None and isinstance(newest.loaded, Loaded) and newest.loaded.document == found:
            return newest.loaded
        return await asyncio.to_thread(_load, found)

    def _take(self, found: Loaded | Unreadable, noticed: float) -> float:
        """Offer what was found, unless it may be on its way to something else; seconds until the next look."""
        grace = self._grace(found)
        if grace > 0.0:
            if self._away_since is None:
                self._away_since = noticed
            left = self._away_since + grace - time.monotonic()
            if left > 0.0:
                return left
            noticed = self._away_since
        else:
            self._away_since = None
        before = self._newest
        if before is None or before.loaded != found:
            self._newest = Reading(found, noticed)
            self._wake()
        back = before is not None and isinstance(before.loaded, Unreadable) and isinstance(found, Loaded)
        return min(COMEBACK, self._reread) if back else self._reread

    def _grace(self, found: Loaded | Unreadable) -> float:
        """How long this may last before it is told: not at all at the start, when nothing was there before."""
        if self._newest is None:
            return 0.0
        if isinstance(found, Unreadable):
            return self._missing_grace if found.missing else 0.0
        return EMPTY_GRACE if not found.document.data else 0.0


def _load(document: Document) -> Loaded | Unreadable:
    try:
        return load(document)
    except Exception:  # noqa: BLE001 - see below
        # Whatever a document does to the reader, the node keeps its config and the next document is read.
        _log.exception("cannot read config: the reader failed on %s", document.path)
        return Unreadable(document.path, missing=False, message="cannot read config: the reader failed, see the log")
