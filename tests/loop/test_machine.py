"""The machine, a little in every test run and for long in the soak."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.conftest import Soak
from tests.loop.machine import Node

QUICK = settings(
    max_examples=200,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


def test_whatever_happens_the_rules_hold_and_the_node_converges() -> None:
    """No order of edits, pods, faults and restarts breaks a rule of the shares, or keeps the node from its config."""
    run_state_machine_as_test(Node, settings=QUICK)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_whatever_happens_for_long(soak: Soak) -> None:
    """The same, with many more and much longer stories."""
    thorough = settings(QUICK, max_examples=soak.times(10_000), stateful_step_count=100)
    run_state_machine_as_test(seed(soak.seed)(Node), settings=thorough)
