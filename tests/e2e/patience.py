"""Waiting for a cluster, with deadlines that grow with the load of this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

from tests.waiting import eventually_sync

T = TypeVar("T")

WITHIN = 120.0
"""Seconds that a step may take on a machine that has nothing else to do: many times what it does take."""


def until(check: Callable[[], T], *, within: float = WITHIN, every: float = 0.1) -> T:
    """Call `check` until it gives something true, and return that. An AssertionError that it raises is "not yet".

    Raises:
        NotInTimeError: `within` seconds passed first, or more on a machine that is busy.

    """
    busy = os.getloadavg()[0] / (os.cpu_count() or 1)
    return eventually_sync(check, within=within * max(1.0, busy), every=every)
