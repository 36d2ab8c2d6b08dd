"""When a `List` may go out: in a quiet window, which it waits for, but not for ever.

`List` can free a device that the kubelet is allocating (see `state/looks`). So it waits until no allocation of ours is
under way, and none is to be expected. Where that does not come about, it goes in the first lull from the last quarter
of a second on: right after an Allocate, when the next device is not chosen yet. If there is none, it goes when a second
more has passed. Both are counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

PATIENCE: Final = 2.0
"""Seconds for which a `List` waits for a quiet window, at most."""

_LAST_CALL: Final = 0.25
"""So many seconds before the end of its patience it takes a lull for one."""

_EXTRA: Final = 1.0
"""So many seconds more it waits at most for the lull after the Allocate of a device that is chosen."""


class Traffic(Protocol):
    """What the kubelet is asking of our plugins. Times are monotonic seconds: from when on it is so, if nothing more
    comes. `quiet_at`: nothing is being allocated, or about to be. `lull_at`: nothing is known to be allocated. It calls
    whom `when_allocated` has named, since only an Allocate can bring these forward, and hears when a `List` is under
    way, since no device should be chosen meanwhile.
    """

    def quiet_at(self) -> float: ...
    def lull_at(self) -> float: ...
    def when_allocated(self, call: Callable[[], None]) -> None: ...
    def list_begins(self) -> None: ...
    def list_ends(self) -> None: ...


class Unwatched:
    """Nobody asks our plugins anything: it is always quiet."""

    def quiet_at(self) -> float:
        return float("-inf")

    def lull_at(self) -> float:
        return float("-inf")

    def when_allocated(self, call: Callable[[], None]) -> None:
        """Nothing ever is."""

    def list_begins(self) -> None:
        """Nobody waits for its end."""

    def list_ends(self) -> None:
        """Nobody has waited for it."""


class Budget:
    """Of what may be done `burst` times in a row, and once in `every` seconds in the long run."""

    def __init__(self, burst: int, every: float) -> None:
        self._burst = burst
        self._every = every
        self._ready_at = float("-inf")

    def ready_at(self) -> float:
        """From when on it may be done, in monotonic seconds."""
        return self._ready_at

    def spend(self, now: float) -> None:
        """It is done now."""
        self._ready_at = max(self._ready_at, now - (self._burst - 1) * self._every) + self._every


@dataclass(frozen=True, slots=True)
class Window:
    """When a `List` may go, in monotonic seconds; whether that is without a quiet window; whether it is `for_names`
    alone.
    """

    at: float
    without: bool = False
    for_names: bool = False


def window(traffic: Traffic, since: float) -> Window:
    """The first chance of a `List`, as things stand: in a quiet window, else in a lull, else when its patience ends. To
    be asked again when something has been allocated: only then is it known how short the lull is.
    """
    quiet_at, end = traffic.quiet_at(), since + PATIENCE
    if quiet_at <= end:
        return Window(max(quiet_at, since))
    return Window(min(max(traffic.lull_at(), end - _LAST_CALL), end + _EXTRA), without=True)
