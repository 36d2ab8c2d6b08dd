"""Another plugin that has our resource: how it is told from a stream that merely ended, and how long it is left alone.

Losses prove nothing, however many there are, and ids do not either: NVIDIA's plugin has the same. The proof is that the
kubelet shows ids of the resource while we have no stream. It forgets ours within 45 ms of the end of our stream.

Two plugins that each register whenever they have lost the resource would take it from one another for ever. So the
resource is left to the other one, for longer each time, and is ours again as soon as the other one's ids are gone.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

Shown = Callable[[str], Awaitable[frozenset[str] | None]]
"""Which ids of a resource the kubelet shows now, whoever advertised them; None where it does not say in time."""

Pause = Callable[[float], Awaitable[object]]
"""Waits for so many seconds; something true as soon as there is another kubelet, to which all of this is unknown."""


@dataclass(frozen=True, slots=True)
class RivalTiming:
    """How long things may take, in seconds.

    Ids that the kubelet shows `proof` after the end of our stream, and once more `proof` later, are another plugin's.
    The resource is then left to it for the first of `waits`, the next time for the second, and so on; the last one is
    repeated. `look` is the time between two looks whether it has left. A look without an answer says what the last one
    has said, for `unanswered`.
    """

    proof: float = 0.1
    waits: tuple[float, ...] = (30.0, 60.0, 120.0)
    look: float = 1.0
    unanswered: float = 5.0


class Rival:
    """Asks for another plugin's ids, and waits for its end. `yielded`: so often in a row has it been waited for."""

    def __init__(self, resource: str, shown: Shown, timing: RivalTiming) -> None:
        self.yielded = 0
        self._resource = resource
        self._shown = shown
        self._timing = timing

    @property
    def wait(self) -> float:
        """How long the resource is left to it the next time."""
        waits = self._timing.waits
        return waits[min(self.yielded, len(waits) - 1)]

    async def proof(self, ours: frozenset[str], pause: Pause) -> frozenset[str]:
        """Its ids, where the kubelet shows some; to be called when our stream has ended `proof` ago. Ids in `ours`
        prove nothing.
        """
        theirs = await self._theirs(ours)
        if theirs and not await pause(self._timing.proof):
            # Asked twice: a kubelet that is very busy may be late to forget our ids.
            return await self._theirs(ours) or frozenset()
        return frozenset()

    async def gone(self, ours: frozenset[str], pause: Pause) -> None:
        """Leave the resource to it, until its ids are gone, the kubelet does not say so any more, or the time is up."""
        answered = time.monotonic()
        until = answered + self.wait
        self.yielded += 1
        while (left := until - time.monotonic()) > 0:
            if await pause(min(left, self._timing.look)):
                return
            theirs = await self._theirs(ours)
            if theirs is not None:
                answered = time.monotonic()
                if not theirs:
                    self.yielded = 0
                    return
            elif time.monotonic() - answered >= self._timing.unanswered:
                return

    async def _theirs(self, ours: frozenset[str]) -> frozenset[str] | None:
        shown = await self._shown(self._resource)
        return None if shown is None else shown - ours
