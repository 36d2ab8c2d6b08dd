"""Waiting waits as long as it must and no longer, and says what it waited for."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.waiting import MOST_LOAD, Deadline, NotInTimeError, eventually, eventually_sync, longer


def true_at_the(nth: int) -> Callable[[], int]:
    """Make a check that gives its number of calls from the `nth` on, and nothing before."""
    calls = 0

    def check() -> int:
        nonlocal calls
        calls += 1
        assert calls != 1, "a failed assertion is not yet"
        return calls if calls >= nth else 0

    return check


async def test_a_check_is_called_until_it_gives_something_true() -> None:
    """What the check gives at last is handed back; a failed assertion on the way is no failure."""
    assert await eventually(true_at_the(3), every=0.001) == 3
    assert eventually_sync(true_at_the(3), every=0.001) == 3


async def test_a_check_may_be_asynchronous() -> None:
    """An async check is awaited each time."""
    plain = true_at_the(3)

    async def check() -> int:
        return plain()

    assert await eventually(check, every=0.001) == 3


async def test_a_deadline_tells_what_the_check_gave_last() -> None:
    """Whoever reads the failure sees which condition it was and how far it came."""

    def never_there() -> list[int]:
        return []

    with pytest.raises(NotInTimeError, match=r"never_there was not true within 0.01 s; last: \[\]"):
        await eventually(never_there, within=0.01, every=0.001)
    with pytest.raises(NotInTimeError, match="never_there"):
        eventually_sync(never_there, within=0.01, every=0.001)


def test_a_deadline_keeps_the_last_failed_assertion() -> None:
    """The assertion that failed last is the cause."""

    def wrong() -> bool:
        raise AssertionError("two is not three")

    with pytest.raises(NotInTimeError) as caught:
        eventually_sync(wrong, within=0.0)
    assert str(caught.value.__cause__) == "two is not three"


class Load:
    """A machine with two CPUs and as many processes as a test likes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: float) -> None:
        self.processes = processes
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
        monkeypatch.setattr(os, "getloadavg", lambda: (self.processes, 0.0, 0.0))


@pytest.mark.parametrize(("processes", "factor"), [(0.0, 1.0), (2.0, 1.0), (30.0, 15.0), (1e6, MOST_LOAD)])
def test_a_deadline_grows_with_the_load(monkeypatch: pytest.MonkeyPatch, processes: float, factor: float) -> None:
    """It is as given where each process has a CPU of its own, and never endless."""
    Load(monkeypatch, processes)
    assert longer(4.0) == 4.0 * factor


@pytest.mark.parametrize("later", [0.0, 2.0, 60.0])
def test_a_deadline_has_seen_the_load(monkeypatch: pytest.MonkeyPatch, later: float) -> None:
    """What the load was when it began counts, and what it is when it would pass."""
    load, now = Load(monkeypatch, 20.0), [100.0]
    monkeypatch.setattr("tests.waiting.time.monotonic", lambda: now[0])
    deadline = Deadline(1.0)
    now[0] += 9.9
    assert not deadline.passed
    load.processes = later
    now[0] += 0.2
    assert deadline.passed is (later <= 20.0)
    now[0] += 20.0
    assert deadline.passed


def test_the_whole_test_has_a_deadline_that_grows(request: pytest.FixtureRequest) -> None:
    """As all others do."""
    (mark,) = request.node.iter_markers("timeout")
    assert mark.args[0] >= float(request.config.getini("timeout"))
