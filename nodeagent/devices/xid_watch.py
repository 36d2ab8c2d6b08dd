"""The XIDs of real GPUs while the agent runs: counts them, and tells of which GPUs there will be none.

A GPU that fails may report thousands of XIDs in a second. They are counted as they come in and told of in batches, a
few in a second; what is kept are counts, for so many sources and no more.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from nodeagent.devices.xid_listener import PACE, PENDING, WAIT, Listener
from nodeagent.model.health import EventsReason, XidLog, XidSource, XidTally, counted
from nodeagent.model.inventory import Gpu

MOST_SOURCES: Final = 4096
"""Of so many sources of one GPU the XIDs are counted: of whichever had none for the longest time the count is
forgotten. However much garbage a GPU reports, no other one's XID goes with it.
"""


class XidWatch:
    """Has a listener for each GPU that answers. Belongs to one event loop.

    `news` is called while it runs when there are XIDs, or when listening has begun to fail or works again; `refresh`
    asks for a look when it has begun to fail. `deadline` is how long a wait may be late, in seconds.
    """

    def __init__(self, *, news: Callable[[], None], refresh: Callable[[], None], deadline: float) -> None:
        self._news = news
        self._refresh = refresh
        self._deadline = deadline
        self._listeners: dict[str, Listener] = {}
        self._answered: tuple[Gpu, ...] | None = None
        self._state = EventsReason.PENDING, XidLog().message
        self._tallies: Mapping[XidSource, XidTally] = {}
        self._fresh = asyncio.Event()

    @property
    def log(self) -> XidLog:
        """All that there is to tell."""
        return XidLog(*self._state, self._tallies)

    async def run(self) -> None:
        """Tell of what there is until cancelled. It is listened whether or not anybody is told."""
        while True:
            await self._fresh.wait()
            self._fresh.clear()
            self._news()
            await asyncio.sleep(PACE)

    # --- of looks ---------------------------------------------------------------------------------------------------

    def listen(self, gpu: Gpu) -> None:
        """This GPU has answered: it is listened to from now on, if it is not already."""
        listener = self._listeners.get(gpu.uuid)
        if listener is None or listener.is_over:
            self._listeners[gpu.uuid] = Listener(gpu.index, gpu.uuid, heard=self._hear, deadline=self._deadline)
        elif listener.index != gpu.index:
            listener.close()  # and another one listens where the GPU is now, once this one has given back its set
        elif gpu.uuid not in {one.uuid for one in self._answered or ()}:
            listener.hurry()

    async def close(self) -> bool:
        """Have nobody listen until the next `listen`; all that has come in is counted. False where somebody hangs."""
        if any(listener.hangs for listener in self._listeners.values()):
            return False
        for listener in self._listeners.values():
            listener.close()
        try:
            async with asyncio.timeout(2 * WAIT + self._deadline):
                for listener in self._listeners.values():
                    await listener.ended()
        except TimeoutError:
            return False
        self._listeners.clear()
        return True

    def looked(self, answered: Iterable[Gpu]) -> None:
        """A look has ended in which these whole GPUs have answered."""
        self._answered = tuple(answered)
        self._judge()

    def not_looked(self, message: str) -> None:
        """A look has failed: what it cannot ask tells of no XIDs either, until one succeeds."""
        self._answered = None
        self._state = EventsReason.FAILED, message

    def _judge(self) -> None:
        """What listening comes to for the GPUs that have answered; as before until all listeners know."""
        if self._answered is None:
            return
        silent = []
        for gpu in self._answered:
            listener = self._listeners.get(gpu.uuid)
            silence = PENDING if listener is None else listener.silence
            if silence is PENDING:
                return
            if silence is not None:
                silent.append((gpu, silence))
        reasons = {silence.reason for _, silence in silent}
        if EventsReason.FAILED in reasons:
            reason = EventsReason.FAILED
        else:
            reason = EventsReason.NOT_SUPPORTED if silent else EventsReason.WATCHING
        self._state = reason, "; ".join(f"{gpu.uuid}: {silence.message}" for gpu, silence in silent)

    # --- of listeners -----------------------------------------------------------------------------------------------

    def _hear(self, found: Mapping[XidSource, int]) -> None:
        before, self._tallies = self._state, self._with(found)
        self._judge()
        if self._state != before and self._state[0] is EventsReason.FAILED:
            self._refresh()
        if found or self._state != before:
            self._fresh.set()

    def _with(self, found: Mapping[XidSource, int]) -> Mapping[XidSource, XidTally]:
        if not found:
            return self._tallies
        tallies = counted(self._tallies, found, time.monotonic())
        sources = Counter(source.uuid for source in tallies)
        for source in list(tallies) if max(sources.values()) > MOST_SOURCES else ():
            if sources[source.uuid] > MOST_SOURCES:
                sources[source.uuid] -= 1
                del tallies[source]
        return tallies
