"""Follows the mounted config: always offers the newest reading, and wakes the loop when there is another one.

A config that is rewritten is for a moment empty, one that is replaced by an editor for a moment missing; both are given
time to come back before anybody hears of it. Everything else is told as it is found, good or bad.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Final

from nodeagent.config.judging import Judge
from nodeagent.config.mounting import Mounting
from nodeagent.config.reading import is_directory, read_document, read_selected
from nodeagent.config.selection import FILE_NAME, describe, file_names
from nodeagent.errand import Errand, Hangs
from nodeagent.model.config import Document, Following, Loaded, Unreadable
from nodeagent.model.node import Selection

_log = logging.getLogger(__name__)

EMPTY_GRACE: Final = 0.2
"""Seconds for which an empty file is taken for one that is being written."""

REREAD: Final = 2.0
"""Seconds between two looks without an event. Behind a link into another directory, on a network or on a disk that
fails a file changes without one; a mount that hangs says nothing either. A look takes about 0.2 ms."""

COMEBACK: Final = 2.0
"""Seconds after which a file that was away is looked at once more: a directory that was made anew and is gone again
before anybody could watch it leaves no event."""

PATIENCE: Final = 5.0
"""Seconds for which the start waits for the Node's labels, where these select the document."""

JUDGED_WITHIN: Final = 10.0
"""Seconds after which it is told that there is no verdict yet: twice what a document may take on a machine at rest."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What was found in the mount. `event_at` is the monotonic second in which the change was noticed."""

    loaded: Loaded | Unreadable
    event_at: float


@dataclass(slots=True)
class _Judging:
    """The document that was seen last, and what it means or is going to. `noticed`: when, None once that was told.
    `again_at`: when a reader that failed is asked once more.
    """

    document: Document
    verdict: asyncio.Task[Loaded | Unreadable]
    noticed: float | None
    patient_until: float
    again_at: float | None = None


class ConfigSource:
    """Reads `path`, a file or a directory with `sharing.yaml` in it, whenever something may have changed.

    With `selects` it is `select` that says which document of a directory is read. Where that is not known within
    `patience` seconds, what an earlier agent read is (`recall`); without one it is told, with what `why_unknown` says.
    A selection stays until there is another one. A path that is not there counts as a directory unless its name has an
    ending. `default` is the file of a directory that is read where no label says anything, if that is given. Where
    another file of the directory is found than before, which may be because the one before is being swapped, it is
    taken for missing first; and one that is read only since there is no `sharing.yaml` never takes the place of one
    that was valid (`remember`): that file is gone.

    `subscribe` is that of a DirectoryWatch. The file is looked at again every `reread` seconds in any case, and a judge
    that failed on it is asked again after `ask_again`. A file that is missing for less than `missing_grace` seconds is
    being swapped; one that is not there after `deadline` seconds of reading cannot be read. `judge` says what a
    document means; one that is not judged after `judged_within` seconds is told as one that cannot be read until it is.
    Nothing of the file system is touched before `run`.
    """

    def __init__(
        self,
        path: Path,
        *,
        subscribe: Callable[[Path, Callable[[], None]], None],
        wake: Callable[[], None],
        reread: float = REREAD,
        ask_again: float = 60.0,
        missing_grace: float = 1.0,
        deadline: float = 5.0,
        selects: bool = False,
        default: str | None = None,
        patience: float = PATIENCE,
        why_unknown: Callable[[], str] = lambda: "",
        judge: Judge | None = None,
        judged_within: float = JUDGED_WITHIN,
        mounting: Mounting | None = None,
    ) -> None:
        self._path = path
        self._wake = wake
        self._reread = reread
        self._ask_again = ask_again
        self._missing_grace = missing_grace
        self._deadline = deadline
        self._selects = selects
        self._default = default
        self._named: str | None = None
        self._valid: str | None = None
        self._other_since: float | None = None
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
        self._judge = judge if judge is not None else Judge()
        self._judged_within = judged_within
        self._judging: _Judging | None = None
        self._subscribe = subscribe
        self._beside = False
        self._is_file = not selects
        self._told: Selection | None = None
        self._mounting = mounting if mounting is not None else Mounting()
        self._following = Following.FOLLOWED
        subscribe(path, self.look_again)

    @property
    def newest(self) -> Reading | None:
        """The newest reading; None until the first look. Replaced as a whole, never changed."""
        return self._newest

    @property
    def following(self) -> Following:
        """Whether changes of the file that was read last can be seen, by how it is mounted."""
        return self._following

    def look_again(self) -> None:
        """Something may have changed. To be called on the loop."""
        if self._noticed is None:
            self._noticed = time.monotonic()
        self._again.set()

    def select(self, selection: Selection) -> None:
        """Read this document of the directory from now on. To be called on the loop."""
        if selection != self._selection:
            if self._selection is not None or selection != self._remembered:
                self._valid = None
            self._selection = selection
            self._away_since = self._other_since = self._named = None
            self.look_again()

    def recall(self, selection: Selection | None) -> None:
        """What an earlier agent on this node was told to read, for as long as nobody tells us. Before `run`."""
        self._remembered = selection

    def remember(self, path: str) -> None:
        """An earlier agent on this node has accepted the document at this path. Before `run`."""
        if PurePath(path).parent == self._path:
            self._valid = PurePath(path).name

    def concerns(self, document: Document) -> bool:
        """Whether this is a document of the file that is followed here: that of another file of the same directory says
        nothing of this node; and while it is not known what labels select, no document does.
        """
        name = PurePath(document.path).name
        if self._is_file:
            return name in {self._path.name, FILE_NAME, self._named, *file_names(Selection(), self._default)}
        return self._selection is not None and (
            name == self._named or name in file_names(self._selection, self._default)
        )

    async def run(self) -> None:
        """Follow the file until cancelled."""
        self._patient_until = min(self._patient_until, time.monotonic() + self._patience)
        try:
            while True:
                noticed = time.monotonic() if self._noticed is None else self._noticed
                if self._noticed is not None and self._judging is not None and self._judging.again_at is not None:
                    self._judging = None  # a judge that failed is asked again when somebody asks for a look
                self._noticed = None
                self._again.clear()
                self._give_up_waiting()
                chosen = self._selection
                found = await self._look(chosen)
                if chosen != self._selection:
                    continue  # nobody wants to know what is in that file any more
                pause = self._until_back(found)
                if pause <= 0.0:
                    pause = self._weigh(found, noticed) if isinstance(found, Document) else self._take(found, noticed)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._again.wait()
        finally:
            if self._judging is not None:
                self._judging.verdict.cancel()
                self._judging = None

    async def _look(self, chosen: Selection | None) -> Document | Unreadable | None:
        """Read, off the loop. None: nobody knows yet which one is to be read."""
        path, selects, default = self._path, self._selects, self._default
        mounting, before, valid = self._mounting, self._following, self._valid

        def look() -> tuple[Document | Unreadable | None, bool, Following]:
            found = read_selected(path, chosen, default) if selects else read_document(path, default)
            found = self._unless_in_place_of_another(found, chosen, valid)
            follows = mounting.look(Path(found.path)) if isinstance(found, Document) else before
            return found, is_directory(path), follows

        try:
            found, directory, follows = await self._reader.run(look, self._deadline)
        except Hangs:
            message = f"cannot read config: no answer from the mount within {self._deadline:g} s"
            return Unreadable(str(self._path), missing=False, message=message)
        if follows is not before and isinstance(found, Document):
            self._take_mounting(follows, found.path)
        absent = isinstance(found, Unreadable) and found.missing
        self._is_file = not selects or (not directory and (not absent or bool(path.suffix)))
        if not directory and not self._beside:
            # A file is seen from its directory; a path that is not there yet may become either.
            self._beside = True
            self._subscribe(path.parent, self.look_again)
        return found

    def _unless_in_place_of_another(
        self, found: Document | Unreadable | None, chosen: Selection | None, valid: str | None
    ) -> Document | Unreadable | None:
        """What was found, unless it is read only since the file that was `valid` before is gone."""
        by_name = self._default is not None or (chosen is not None and chosen.value is not None)
        if not isinstance(found, Document) or valid is None or by_name or PurePath(found.path) == self._path:
            return found
        name = PurePath(found.path).name
        if name in {FILE_NAME, valid} or (self._path / valid).exists():
            return found
        message = (
            f"cannot read config: there is no {valid} any more, and {name} is not read in its place;"
            f" call it {FILE_NAME}, or run with --config-default {name}"
        )
        return Unreadable(str(self._path / valid), missing=True, message=message)

    def _until_back(self, found: Document | Unreadable | None) -> float:
        """For how long the file that was read before may still come back, where another one was found."""
        if not isinstance(found, Document):
            return 0.0
        name = PurePath(found.path).name
        if name == self._named or self._named is None:
            self._named, self._other_since = name, None
            return 0.0
        if self._other_since is None:
            self._other_since = time.monotonic()
        left = self._other_since + self._missing_grace - time.monotonic()
        if left <= 0.0:
            self._named, self._other_since = name, None
        return left

    def _take_mounting(self, follows: Following, path: str) -> None:
        self._following = follows
        if follows is Following.FOLLOWED:
            _log.info("%s is mounted so that its changes are seen", path)
        else:
            _log.warning("%s: %s", path, follows.explained)
        self._wake()

    def _weigh(self, document: Document, noticed: float) -> float:
        """Have a document judged and offer what it means; seconds until the next look. One that was begun earlier and
        is no longer there is given up.
        """
        judging = self._judging
        if judging is None or judging.document != document:
            patient_until = time.monotonic() + self._judged_within
            if judging is not None and not judging.verdict.done():
                # One that changes before it is judged, again and again, is not waited for longer than another.
                judging.verdict.cancel()
                patient_until = judging.patient_until
            verdict = asyncio.create_task(self._judge.judge(document))
            verdict.add_done_callback(lambda _: self._again.set())
            judging = self._judging = _Judging(document, verdict, noticed, patient_until)
        if judging.verdict.done():
            found = judging.verdict.result()
            if isinstance(found, Unreadable):  # this is no verdict
                now = time.monotonic()
                judging.again_at = now + self._ask_again if judging.again_at is None else judging.again_at
                if now >= judging.again_at:
                    self._judging = None
            noticed, judging.noticed = judging.noticed or noticed, None
            return self._take(found, noticed)
        self._away_since = None
        left = judging.patient_until - time.monotonic()
        if left > 0.0:
            return left
        message = f"cannot read config: no verdict within {self._judged_within:g} s; it is waited for"
        return self._take(Unreadable(document.path, missing=False, message=message), noticed)

    def _take(self, found: Loaded | Unreadable | None, noticed: float) -> float:
        """Offer what was found, unless it may be on its way to something else; seconds until the next look."""
        if found is None:
            left = self._patient_until - time.monotonic()
            if left > 0.0:
                return left
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
        if isinstance(found, Loaded) and found.config is not None:
            self._valid = PurePath(found.document.path).name
        if before is None or before.loaded != found:
            self._newest = Reading(found, noticed)
            self._wake()
        elif self._told != self._selection:
            self._wake()  # nothing else can be read, but what is concerned is another file
        self._told = self._selection
        back = before is not None and isinstance(before.loaded, Unreadable) and isinstance(found, Loaded)
        pause = min(COMEBACK, self._reread) if back else self._reread
        if self._may_recall:
            return min(pause, max(self._patient_until - time.monotonic(), 0.0))
        return pause

    @property
    def _may_recall(self) -> bool:
        return not self._is_file and self._selection is None and self._remembered is not None

    def _give_up_waiting(self) -> None:
        """Go on as the agent before us where nobody has told us in time what to read."""
        if self._may_recall and self._remembered is not None and time.monotonic() >= self._patient_until:
            _log.warning("%s; going on with what they were: %s", self._not_known(), describe(self._remembered))
            self._selection = self._remembered

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
