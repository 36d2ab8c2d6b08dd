"""A daemon is ended for silence only when it was really silent, and the host was there to hear it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.mps.lifecycle import Timing
from nodeagent.mps.silence import CHECKS, Silence, stood_still

TIMING = Timing()


def test_a_daemon_that_hangs_is_ended_in_time() -> None:
    """With the times of a node, each check taking all its time, the third failed one ends it after 10 s."""
    silence, now, pauses = Silence(), 100.0, []
    for _ in range(CHECKS):
        begun, now = now, now + TIMING.answers_within
        silence = silence.failed(begun)
        pauses.append(silence.lasts(now, TIMING))
        now += pauses[-1]
    assert pauses == [2.0, 2.0, 0.0]
    assert now == 110.0


@pytest.mark.parametrize("checks", range(1, CHECKS))
def test_few_checks_end_nothing(checks: int) -> None:
    """However long ago the first one was: another check follows."""
    silence = Silence()
    for _ in range(checks):
        silence = silence.failed(100.0)
    assert silence.lasts(1000.0, TIMING) == TIMING.check_every


@given(st.lists(st.floats(0, 4), min_size=1, max_size=40))
def test_never_too_soon(steps: list[float]) -> None:
    """Whenever checks fail, a daemon is ended after enough of them and enough time, and then it is."""
    silence, now = Silence(), 100.0
    for number, step in enumerate(steps, start=1):
        silence, now = silence.failed(now), now + step
        over = number >= CHECKS and now - 100.0 >= TIMING.silent_at_most
        assert (silence.lasts(now, TIMING) == 0) is over
        assert silence.lasts(now, TIMING) <= TIMING.check_every


def test_a_host_that_stood_still() -> None:
    """What comes a little late is what a busy machine does; what comes much later was not waited for."""
    assert not stood_still(100.0, 2.0, 104.0, TIMING)
    assert stood_still(100.0, 2.0, 104.1, TIMING)
