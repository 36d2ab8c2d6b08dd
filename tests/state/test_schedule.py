"""When to look again, and when the next turn is due though nothing happens."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.holds import Holds
from nodeagent.model.kubelet import Looks
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Applied, Device, Listing
from nodeagent.state.holds import GRANT_GRACE, GRANT_SETTLED
from nodeagent.state.kubelet_view import COMPARE_SECONDS, SETTLE_SECONDS, Published, View
from nodeagent.state.observed import FENCE_SECONDS
from nodeagent.state.schedule import LOOK_SELDOM, LOOK_WHILE_WAITING, Agenda, Pending, agenda
from tests.state import make

NOW = 100.0
LOOK = make.look(99.0)
FENCED = make.applied(make.entry(0, make.SLICED, range(2), {0: 99.8, 1: 90.0}))


def at(
    *reasons: WaitReason,
    applied: Applied | None = None,
    holds: Holds | None = None,
    decided_at: float = 0.0,
    **more: object,
) -> Agenda:
    """What is next at second 100, when a look that began at 99 was the newest, and the plan waits for these."""
    waits = tuple(Wait("GPU-0", reason, frozenset({0})) for reason in reasons)
    pending = Pending(
        plan=Plan(waits=waits),
        applied=applied or Applied(),
        holds=holds or Holds(),
        decided_at=decided_at,
        **{"listing": LOOK, **more},  # type: ignore[arg-type]  # the fields of Pending, as the tests name them
    )
    return agenda(pending, NOW)


def test_a_node_that_rests_is_left_alone() -> None:
    """A look now and then, no turn without an event."""
    assert at() == Agenda(Looks(LOOK_SELDOM), look_now=False, turn_at=None)


def test_a_daemon_is_not_waited_for_by_the_clock() -> None:
    """What becomes of it is an event: no look at the kubelet shows it, and none is hurried."""
    assert at(WaitReason.DAEMON) == at()
    assert at(WaitReason.DAEMON, decided_at=99.5) == at()
    assert at(WaitReason.DAEMON, applied=FENCED, holds=Holds(granted={("a", "b"): 99.5})).looks.interval == LOOK_SELDOM


@pytest.mark.parametrize("reason", [one for one in WaitReason if one is not WaitReason.DAEMON])
def test_whatever_else_is_waited_for_is_looked_at_often(reason: WaitReason) -> None:
    """Also where another GPU waits for its daemon."""
    assert at(reason).looks.interval == LOOK_WHILE_WAITING
    assert at(WaitReason.DAEMON, reason).looks.interval == LOOK_WHILE_WAITING


@pytest.mark.parametrize("reason", [one for one in WaitReason if one is not WaitReason.DAEMON])
def test_a_list_from_before_the_decision_is_followed_by_one_at_once(reason: WaitReason) -> None:
    """Nothing may be taken away by it; one begun since is good enough, whatever `Get` has said after it."""
    assert at(reason, decided_at=99.5).looks.list_at == 99.5
    assert at(reason, decided_at=98.5).looks.list_at is None
    assert at(decided_at=99.5).looks.list_at is None
    by_get = replace(LOOK, begun_at=99.8, list_begun_at=97.0)
    assert at(reason, decided_at=98.5, listing=by_get).looks.list_at == 98.5
    assert at(reason, decisions={"GPU-0": 99.5}).looks.list_at == 99.5
    assert at(reason, decisions={"GPU-1": 99.5}).looks.list_at is None, "nothing of that one waits"


def test_what_an_earlier_agent_granted_is_waited_for() -> None:
    """A `List` is needed that begins when the pods of its last moments are in it."""
    assert at(WaitReason.RESTART, cautious_until=105.0).looks.list_at == 105.0
    assert at(WaitReason.RESTART, cautious_until=98.0).looks.list_at is None


def test_pods_that_stay_cost_no_turns() -> None:
    """Their end shows in the next look, which is an event; what grows old without one has the next turn soon."""
    assert at(WaitReason.PODS).turn_at is None
    assert at(WaitReason.PODS, holds=Holds(granted={("a", "b"): 70.0})).turn_at == NOW + LOOK_WHILE_WAITING
    for reason in (WaitReason.KUBELET, WaitReason.FRESH_LIST, WaitReason.RESTART, WaitReason.POD_RESOURCES):
        assert at(reason).turn_at == NOW + LOOK_WHILE_WAITING


def test_a_fence_is_dropped_when_it_is_old_enough() -> None:
    """Not half a second later."""
    young = make.applied(make.entry(0, make.SLICED, range(2), {0: 99.2}))
    assert at(WaitReason.KUBELET, applied=young).turn_at == 99.2 + FENCE_SECONDS
    assert at(applied=FENCED).turn_at is None


def test_a_grant_is_followed_by_the_look_that_can_speak_for_it() -> None:
    """When it has had time to reach its pod, and once more when it is taken for failed."""
    key = (make.SHARED, "GPU-0::0")
    assert at(holds=Holds(granted={key: 99.95})).turn_at == 99.95 + GRANT_SETTLED
    assert at(holds=Holds(granted={key: 98.5})).look_now
    assert at(holds=Holds(granted={key: 97.0})).turn_at == 97.0 + GRANT_GRACE


def test_the_kubelets_view_is_compared_in_time() -> None:
    """Soon after a list was sent, seldom after that."""
    live = {"a": Published(Listing("a", 1, (Device("x", healthy=True),)), 99.0)}
    assert at(live=live).turn_at == 99.0 + SETTLE_SECONDS
    settled = {"a": View(at=NOW + 1.5)}
    assert at(live=live, views=settled).turn_at == NOW + 1.5 + COMPARE_SECONDS
    assert at(live={"a": Published(live["a"].listing, 97.0)}).look_now


def test_the_first_of_what_ends_gives_the_next_turn() -> None:
    """What has ended already gives none."""
    assert at(ends=[130.0, 110.0, 90.0, NOW]).turn_at == 110.0
    assert at(WaitReason.DAEMON, ends=[110.0]).turn_at == 110.0


def test_a_checkpoint_that_is_written_for_us_is_read_soon() -> None:
    """After a `List` that left something open our lists are sent again, and the look after that shows what came of
    it.
    """
    entry = make.in_checkpoint(make.SHARED, "GPU-0::1")
    first = at(holds=Holds(unlisted={entry: 97.0}), listing=make.look(99.8))
    assert first.rewrite == {make.SHARED}
    assert first.turn_at == 99.8 + LOOK_WHILE_WAITING
    done = at(holds=Holds(unlisted={entry: 97.0}), rewritten_at=99.0)
    assert not done.rewrite
    assert done.look_now
    assert not at(rewritten_at=99.0, listing=replace(LOOK, begun_at=99.7, list_begun_at=99.0)).look_now
