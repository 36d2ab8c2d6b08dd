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
from nodeagent.config.reading import is_directory, read_document, read_selected
from nodeagent.config.selection import describe
from nodeagent.errand import Errand, Hangs
from nodeagent.model.config import Document, Loaded, Unreadable
from nodeagent.model.node import Selection

_log = logging.getLogger(__name__)

EMPTY_GRACE: Final = 0.2
"""Seconds for which an empty file is taken for one that is being written."""

COMEBACK: Final = 2.0
"""Seconds after which a file that was away is looked at once more: a directory that was made anew and is gone again
before anybody could watch it leaves no event."""

PATIENCE: Final = 5.0
"""Seconds for which the start waits for the Node's labels, where these select the document."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in the mount. `event_at` is the monotonic second in which the change was noticed."""

    loaded: Loaded | Unreadable
    event_at: float


class ConfigSource:
    """Reads `path`, a file or a directory with `sharing.yaml` in it, whenever something may have changed.

    With `selects` it is `select` that says which document of a directory is read. Where that is not known within
    `patience` seconds, what an earlier agent read is (`recall`); without one it is told, with what `why_unknown` says.
    A selection stays until there is another one.

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
        selects: bool = False,
        patience: float = PATIENCE,
        why_unknown: Callable[[], str] = lambda: "",
    ) -> None:
        self._path = path
        self._wake = wake
        self._reread = reread
        self._missing_grace = missing_grace
        self._deadline = deadline
        self._selects = selects
        self._selection: Selection | None = None
        self._remembered: Selection | None = None
        self._patience = patience
        self._patient_until = float("inf")
        self._why_unknown = why_unknown
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

    def select(self, selection: Selection) -> None:
        """Read this document of the directory from now on. To be called on the loop."""
        if selection != self._selection:
            self._selection = selection
            self._away_since = None
            self.look_again()

    def recall(self, selection: Selection | None) -> None:
        """What an earlier agent on this node was told to read, for as long as nobody tells us. Before `run`."""
        self._remembered = selection

    async def run(self) -> None:
        """Follow the file until cancelled."""
        self._patient_until = min(self._patient_until, time.monotonic() + self._patience)
        while True:
            noticed = time.monotonic() if self._noticed is None else self._noticed
            self._noticed = None
            self._again.clear()
            chosen = self._selection
            found = await self._look(chosen)
            if chosen != self._selection:
                continue  # nobody wants to know what is in that file any more
            pause = self._take(found, noticed)
            try:
                async with asyncio.timeout(pause):
                    await self._again.wait()
            except TimeoutError:
                continue

    async def _look(self, chosen: Selection | None) -> Loaded | Unreadable | None:
        """Read, and find out what the document means unless that is known; both off the loop. None: nobody knows yet
        which one is to be read.
        """
        path, selects = self._path, self._selects
        try:
            found = await self._reader.run(
                lambda: read_selected(path, chosen) if selects else read_document(path), self._deadline
            )
        except Hangs:
            message = f"cannot read config: no answer from the mount within {self._deadline:g} s"
            return Unreadable(str(self._path), missing=False, message=message)
        if found is None or isinstance(found, Unreadable):
            return found
        newest = self._newest
        if newest is not None and isinstance(newest.loaded, Loaded) and newest.loaded.document == found:
            return newest.loaded
        return await asyncio.to_thread(_load, found)

    def _take(self, found: Loaded | Unreadable | None, noticed: float) -> float:
        """Offer what was found, unless it may be on its way to something else; seconds until the next look."""
        if found is None:
            left = self._patient_until - time.monotonic()
            if left > 0.0:
                return left
            if self._remembered is not None:
                _log.warning("%s; going on with what they were: %s", self._not_known(), describe(self._remembered))
                self._selection = self._remembered
                return 0.0
            found = Unreadable(str(self._path), missing=False, message=f"cannot read config: {self._not_known()}")
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

    def _not_known(self) -> str:
        reason = self._why_unknown()
        return f"the labels of the node are not known yet{f': {reason}' if reason else ''}"

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
