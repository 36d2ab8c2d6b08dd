"""When a `List` may go out: in a quiet window, or when its patience ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from nodeagent.kubelet.quiet import PATIENCE, Budget, Unwatched, Window, window

SINCE = 100.0


@dataclass
class Traffic:
    """From when on it is quiet."""

    quiet: float
    lull: float

    def quiet_at(self) -> float:
        return self.quiet

    def lull_at(self) -> float:
        return self.lull

    def when_allocated(self, call: Callable[[], None]) -> None:
        raise NotImplementedError

    def list_begins(self) -> None:
        raise NotImplementedError

    def list_ends(self) -> None:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("quiet", "lull", "expected"),
    [
        (90.0, 90.0, Window(SINCE)),
        (101.5, 100.2, Window(101.5)),
        (SINCE + PATIENCE, 101.9, Window(SINCE + PATIENCE)),
        (102.1, 100.0, Window(101.75, without=True)),
        (102.1, 101.9, Window(101.9, without=True)),
        (102.9, 102.9, Window(102.9, without=True)),
        (103.1, 103.1, Window(SINCE + PATIENCE + 1.0, without=True)),
    ],
)
def test_it_waits_for_two_seconds_at_most_and_for_one_more_if_a_device_is_chosen(
    quiet: float, lull: float, expected: Window
) -> None:
    """For a quiet window; from the last quarter of a second on a lull will do; then it goes."""
    assert window(Traffic(quiet, lull), SINCE) == expected


def test_where_nobody_asks_it_is_quiet() -> None:
    """At once."""
    assert window(Unwatched(), SINCE) == Window(SINCE)


def test_a_budget_is_spent_at_once_and_comes_back_slowly() -> None:
    """So many in a row, then one in so many seconds, and all of them after a long pause."""
    budget = Budget(3, 10.0)
    for _ in range(3):
        assert budget.ready_at() <= 100.0
        budget.spend(100.0)
    assert budget.ready_at() == 110.0
    budget.spend(110.0)
    assert budget.ready_at() == 120.0
    budget.spend(200.0)
    budget.spend(200.0)
    assert budget.ready_at() <= 200.0
