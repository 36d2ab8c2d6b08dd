"""Which ids of a resource we have offered to the kubelet lately: what it shows of them proves no other plugin.

The kubelet may go on showing a list of ours that is not the newest one, as when nobody is left whom it asks, and that
outlives the server that has sent it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

KEPT: Final = 30.0
"""Seconds for which ids that we offer no longer still count as ours."""


class Offered:
    """The healthy ids of the newest list, and those of the lists before it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: frozenset[str] = frozenset()
        self._until: dict[str, float] = {}

    def replace(self, ids: frozenset[str]) -> None:
        """These are offered from now on."""
        now = self._clock()
        kept = {one: until for one, until in self._until.items() if until > now}
        self._until = {**kept, **dict.fromkeys(self._newest - ids, now + KEPT)}
        self._newest = ids

    def lately(self) -> frozenset[str]:
        """What is offered now, or was a little while ago."""
        now = self._clock()
        return self._newest.union(one for one, until in self._until.items() if until > now)
