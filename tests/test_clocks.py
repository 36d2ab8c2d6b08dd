"""The two clocks, read together."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from nodeagent.clocks import STEP, Clocks
from nodeagent.model.moment import Moment, remembered


class Machine:
    """Clocks that are moved by hand; each look at one takes a while."""

    def __init__(self) -> None:
        self.monotonic, self.ahead = 50.0, 1.79e9
        self.takes: Iterator[float] = itertools.repeat(1e-6)
        self.clocks = Clocks(monotonic=self._monotonic, wall=self._wall)

    def _monotonic(self) -> float:
        self.monotonic += next(self.takes)
        return self.monotonic

    def _wall(self) -> float:
        self.monotonic += next(self.takes)
        return self.monotonic + self.ahead


def test_a_moment_stays_what_it_is() -> None:
    """What is shown of it is the same to the millisecond however often it is asked for, and so however the clocks
    jitter.
    """
    machine = Machine()
    first = machine.clocks.now().zero
    for _ in range(100):
        machine.ahead += 1e-4
        now = machine.clocks.now()
        assert now.zero == pytest.approx(first, abs=1e-6)
        assert now.wall == pytest.approx(machine.monotonic + machine.ahead, abs=STEP + 1e-3)


@pytest.mark.parametrize("step", [0.5, -0.5, 86_400.0, -1.79e9])
def test_a_clock_that_is_set_is_followed_at_once(step: float) -> None:
    """From the next look on."""
    machine = Machine()
    before = machine.clocks.now()
    machine.ahead += step
    assert machine.clocks.now().zero - before.zero == pytest.approx(step, abs=1e-3)


def test_small_steps_add_up() -> None:
    """However slowly somebody moves it, what is shown is never further from the clock than a step."""
    machine = Machine()
    machine.clocks.now()
    for _ in range(1000):
        machine.ahead -= 0.01
        machine.clocks.now()
    assert machine.clocks.now().wall == pytest.approx(machine.monotonic + machine.ahead, abs=STEP + 1e-3)


def test_who_is_interrupted_asks_again() -> None:
    """A process that is not run for a second between the clocks takes that for no step."""
    machine = Machine()
    before = machine.clocks.now().zero
    machine.takes = itertools.chain([0.0, 1.0], itertools.repeat(1e-6))
    assert machine.clocks.now().zero == pytest.approx(before, abs=1e-3)


def test_of_unix_seconds() -> None:
    """They are believed, but for what cannot be."""
    now = Moment(100.0, 1.79e9)
    assert remembered(1.79e9 - 30.0, now.zero, now.monotonic) == pytest.approx(70.0)
    assert remembered(1.79e9 - 101.0, now.zero, now.monotonic) == 0.0
    assert remembered(0.0, now.zero, now.monotonic) == 0.0
    assert remembered(1.79e9 + 1.0, now.zero, now.monotonic) == 100.0
