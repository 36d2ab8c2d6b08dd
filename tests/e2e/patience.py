"""Waiting for a cluster, which takes longer than a program."""

from __future__ import annotations

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
    return eventually_sync(check, within=within, every=every)
