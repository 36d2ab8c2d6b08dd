"""The two clocks of this machine, read together: the one place that asks what time the wall clock shows."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from nodeagent.model.moment import Moment

STEP: Final = 0.05
"""Seconds by which the wall clock must have moved against the monotonic one to count as set. NTP slews both alike."""

_CLOSE: Final = 0.001
_TRIES: Final = 5


class Clocks:
    """Reads both clocks. For several threads at once.

    The difference between them is kept until the wall clock is set: what is shown of a moment stays the same to the
    millisecond, however often it is shown.
    """

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._monotonic = monotonic
        self.wall = wall
        self._zero: float | None = None

    def now(self) -> Moment:
        """This moment."""
        now, zero = self._read()
        known = self._zero
        if known is None or abs(zero - known) > STEP:
            self._zero = known = zero
        return Moment(now, now + known)

    def _read(self) -> tuple[float, float]:
        """Monotonic now, and the Unix second of its 0. Whoever is interrupted between the clocks asks them again."""
        best = float("inf")
        zero = now = 0.0
        for _ in range(_TRIES):
            before, wall, now = self._monotonic(), self.wall(), self._monotonic()
            if now - before < best:
                best, zero = now - before, wall - (before + now) / 2
            if best <= _CLOSE:
                break
        return now, zero


HERE: Final = Clocks()
"""The clocks of this machine."""

now: Final = HERE.now
"""This moment, by them."""
