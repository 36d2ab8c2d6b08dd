"""Who listens to one GPU: a thread that makes its event set, waits, and gives it back.

One thread per GPU, so that a GPU which hangs or is lost leaves the others heard of, and nobody but the thread touches
the set. It blocks in the driver, and costs a turn a second.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from nodeagent.devices.nvml_errors import NVMLError, is_not_told, who_lacks
from nodeagent.devices.nvml_events import EventSet
from nodeagent.model.health import EventsReason, XidSource

T = TypeVar("T")

WAIT: Final = 1.0
"""Seconds that one wait takes at most: as long does the library have to be waited for before it is shut down."""

PACE: Final = 0.1
"""Seconds from one wait to the next, so that a burst is told of in batches, and a library that does not wait at all is
not asked without end.
"""

FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 30.0
"""Seconds after a wait that failed: more each time, until one does not."""

_DOUBLINGS: Final = 5


@dataclass(frozen=True, slots=True)
class Silence:
    """Why the XIDs of a GPU are not heard of."""

    reason: EventsReason
    message: str = ""


PENDING: Final = Silence(EventsReason.PENDING)


def pause_after(failures: int) -> float:
    """Seconds to pause when so many waits in a row have failed."""
    return min(FIRST_PAUSE * 2.0 ** min(failures - 1, _DOUBLINGS), LONGEST_PAUSE)


class Listener:
    """Listens to the GPU at `index` until it is closed. Belongs to one event loop.

    `heard` is called on the loop with XIDs that have come in, or with none when `silence` is another. `deadline` is how
    long a call may be late, in seconds.
    """

    def __init__(
        self, index: int, uuid: str, *, heard: Callable[[Mapping[XidSource, int]], None], deadline: float
    ) -> None:
        self.index = index
        self._uuid = uuid
        self._heard = heard
        self._late_after = WAIT + deadline
        self._loop = asyncio.get_running_loop()
        self._silence: Silence | None = PENDING
        self._told: Silence | None = PENDING
        self._failures = 0
        self._began: float | None = None
        self._closing = self._closed = False
        self._wake = threading.Event()
        self._ended = asyncio.Event()
        threading.Thread(target=self._work, name=f"nvml-events-{index}", daemon=True).start()

    @property
    def silence(self) -> Silence | None:
        """Why its XIDs are not heard of; None: they are."""
        if self.hangs:
            return Silence(EventsReason.FAILED, f"cannot wait for its XIDs: no answer within {self._late_after:g} s")
        return self._silence

    @property
    def hangs(self) -> bool:
        """Whether a call has not returned in time. It is waited for all the same: it may come back with events."""
        began = self._began
        return began is not None and time.monotonic() - began > self._late_after

    @property
    def is_over(self) -> bool:
        """Whether it was closed, and has given back all that it had."""
        return self._closed and self._ended.is_set()

    def close(self) -> None:
        """Have it end: with the wait that is under way, and all XIDs that have come in by then."""
        self._closing = self._closed = True
        self._wake.set()

    def hurry(self) -> None:
        """Do not go on pausing: the GPU is well again."""
        self._wake.set()

    async def ended(self) -> None:
        """Wait until nothing of NVML's is used any more."""
        await self._ended.wait()

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._closing:
                self._listen()
        finally:
            self._call(self._ended.set)

    def _listen(self) -> None:
        """With one set, until waiting for it fails twice in a row: the first time what comes in is kept by the set."""
        try:
            events = self._ask(partial(EventSet, self.index, self._uuid))
        except (NVMLError, UnicodeError) as error:
            self._fail("cannot listen for its XIDs", error)
            return
        try:
            if not self._failures:
                self._tell(None)
            while not self._closing:
                try:
                    found = self._ask(partial(events.wait, WAIT))
                except NVMLError as error:
                    self._fail("cannot wait for its XIDs", error)
                    if self._failures > 1:
                        break
                else:
                    self._failures = 0
                    self._tell(None, found)
                    self._pause(PACE)
            self._tell(self._told, self._ask(partial(events.drain, WAIT)))
        finally:
            self._ask(events.free)

    def _ask(self, call: Callable[[], T]) -> T:
        self._began = time.monotonic()
        try:
            return call()
        finally:
            self._began = None

    def _fail(self, task: str, error: Exception) -> None:
        """Tell of it, and pause; where there never will be any XIDs, end."""
        if isinstance(error, NVMLError) and is_not_told(error):
            self._tell(Silence(EventsReason.NOT_SUPPORTED, f"{who_lacks(error)} does not report XIDs"))
            self._closing = True
            return
        self._failures += 1
        self._tell(Silence(EventsReason.FAILED, f"{task}: {error}"))
        self._pause(pause_after(self._failures))

    def _pause(self, seconds: float) -> None:
        self._wake.wait(seconds)
        self._wake.clear()

    def _tell(self, silence: Silence | None, found: Mapping[XidSource, int] | None = None) -> None:
        if found or silence != self._told:
            self._told = silence
            self._call(partial(self._hear, silence, found or Counter()))

    def _call(self, call: Callable[[], None]) -> None:
        try:
            self._loop.call_soon_threadsafe(call)
        except RuntimeError:  # the loop is closed: nobody listens any more
            self._closing = True

    def _hear(self, silence: Silence | None, found: Mapping[XidSource, int]) -> None:
        self._silence = silence
        self._heard(found)
