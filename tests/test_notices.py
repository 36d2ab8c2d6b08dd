"""What the loop logs of conditions: each change once, as a warning where somebody has to look."""

from __future__ import annotations

import logging

import pytest

from nodeagent import notices
from nodeagent.model.plan import Plan, Refusal
from nodeagent.model.snapshot import Snapshot
from tests.report import builders
from tests.state import make

Told = tuple[bool, str, str]

SYNCED: Told = (True, "Synced", "")
PENDING: Told = (False, "Pending", "3 labels are to be written")
FORBIDDEN: Told = (False, "Forbidden", "cannot write labels")


def saying(**conditions: Told) -> Snapshot:
    """A node with these conditions, and all others well."""
    return builders.snapshot(conditions=builders.conditions(**conditions))


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        pytest.param(SYNCED, PENDING, (logging.DEBUG, "False: Pending: 3 labels are to be written"), id="on its way"),
        pytest.param(PENDING, SYNCED, (logging.INFO, "True: Synced"), id="done"),
        pytest.param(PENDING, FORBIDDEN, (logging.WARNING, "False: Forbidden: cannot write labels"), id="refused"),
        pytest.param(FORBIDDEN, SYNCED, (logging.INFO, "True: Synced"), id="mended"),
        pytest.param(FORBIDDEN, FORBIDDEN, None, id="no news"),
    ],
)
@pytest.mark.parametrize("name", ["LabelsSynced", "HandOverReady"])
def test_a_condition_that_changes_is_told_once(
    name: str, before: Told, after: Told, told: tuple[int, str] | None, caplog: pytest.LogCaptureFixture
) -> None:
    """What is on its way is no news; how it ends is, and it is a warning where it does not end well."""
    caplog.set_level(logging.DEBUG)
    notices.conditions(saying(**{name: before}), saying(**{name: after}))
    expected = [] if told is None else [(told[0], f"{name} is {told[1]}")]
    assert [(record.levelno, record.message) for record in caplog.records] == expected


def test_an_agent_that_has_just_started_has_nothing_to_compare_with(caplog: pytest.LogCaptureFixture) -> None:
    """What is wrong from the start is in its status."""
    notices.conditions(None, saying(LabelsSynced=FORBIDDEN))
    assert caplog.records == []


def test_a_stalled_drain_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """It is told that it has begun, and that it is over."""
    caplog.set_level(logging.DEBUG)
    stalled = (True, "DrainTimeout", "the drain lasts longer than allowed on GPU 0")
    notices.conditions(saying(), saying(Stalled=stalled))
    notices.conditions(saying(Stalled=stalled), saying())
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.INFO]


def test_a_gpu_without_a_plan_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """When its plan is refused first, and when there is one again; not at every turn in between."""
    caplog.set_level(logging.DEBUG)
    have = make.applied(make.entry(0), make.entry(1))
    one, both = (
        Plan(refused=(Refusal("GPU-0", "broken"),)),
        Plan(refused=(Refusal("GPU-0", "b"), Refusal("GPU-1", "c"))),
    )
    for before, after in ((None, one), (one, one), (one, both), (both, one), (one, Plan())):
        notices.refusals(before, after, have)
    why = "stays as it is: the plan for it breaks an invariant, please report it"
    assert [(record.levelno, record.message) for record in caplog.records] == [
        (logging.ERROR, f"GPU 0 (GPU-0) {why}: broken"),
        (logging.ERROR, f"GPU 1 (GPU-1) {why}: c"),
        (logging.INFO, "GPU 1: the plan is no longer refused"),
        (logging.INFO, "GPU 0: the plan is no longer refused"),
    ]
