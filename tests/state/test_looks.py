"""When to look by `List`, and for which pods by `Get`."""

from __future__ import annotations

from dataclasses import replace

from nodeagent.model.holds import Holds
from nodeagent.model.kubelet import Looks, PodListing
from nodeagent.state.holds import GRANT_GRACE, GRANT_SETTLED
from nodeagent.state.looks import ASK_SELDOM, LINGER_GAP, LIST_GAP, LIST_SELDOM, looks, rewrites
from nodeagent.state.schedule import LOOK_SELDOM
from tests.state import make

HAVE = make.applied(make.entry(0, make.SLICED, range(4)), make.entry(1, make.SLICED, range(4)))
FIRST, SECOND = sorted(make.keys(make.SHARED, 0, 0, 1))
(OTHER,) = make.keys(make.SHARED, 1, 0)
ENTRY = make.in_checkpoint(*FIRST, pod="new")
LISTED_AT = 50.0
DRAINS = frozenset({make.uuid_of(0)})


def by_get(at: float, *held: tuple[str, str], pods: tuple[str, ...] = ()) -> PodListing:
    """A look by `Get`, after a `List` at second 50."""
    entries = [make.in_checkpoint(*FIRST, pod=pod) for pod in pods]
    return replace(make.look(at, held, checkpoint=entries), list_begun_at=LISTED_AT)


def needed(
    holds: Holds, listing: PodListing | None = None, waits: frozenset[str] = DRAINS, decision: float | None = 40.0
) -> Looks:
    """The looks that are needed while the first GPU drains."""
    return looks(listing or by_get(100.0), holds, HAVE, interval=0.5, decision=decision, waits=waits)


def test_a_node_at_rest_needs_no_list() -> None:
    """Pods that are known by name, and that nobody waits for, change nothing of that."""
    assert needed(Holds(), waits=frozenset(), decision=None) == Looks(0.5)
    found = needed(Holds(listed=frozenset({FIRST})), by_get(100.0, FIRST), waits=frozenset())
    assert (found.list_at, found.names_at) == (None, None)


def test_pods_that_are_waited_for_by_name_are_listed_now_and_then() -> None:
    """`Get` may go on showing one that has ended and is still in the API. Pods of other GPUs are none of it."""
    assert needed(Holds(listed=frozenset({FIRST})), by_get(100.0, FIRST)).list_at == LISTED_AT + LIST_SELDOM
    assert needed(Holds(listed=frozenset({OTHER})), by_get(100.0, OTHER)).list_at is None


def test_a_decision_needs_a_list_that_begun_after_it() -> None:
    """A later `Get` is no `List`: what it was not asked about is not in it."""
    assert needed(Holds(), decision=51.0).list_at == 51.0
    assert needed(Holds(), decision=LISTED_AT).list_at is None


def test_a_pod_without_a_name_on_a_gpu_that_drains_needs_one() -> None:
    """As soon as `List` can show it, and not sooner than two seconds after the last one."""
    assert needed(Holds(unnamed={ENTRY: 60.0})).list_at == 60.0 + GRANT_SETTLED
    assert needed(Holds(unnamed={ENTRY: 50.5})).list_at == LISTED_AT + LIST_GAP


def test_on_another_gpu_it_is_welcome_only() -> None:
    """There its name is for reports."""
    found = needed(Holds(unnamed={make.in_checkpoint(*OTHER): 60.0}))
    assert (found.list_at, found.names_at) == (None, 60.0 + GRANT_SETTLED)
    assert needed(Holds(unnamed={ENTRY: 60.0}), waits=frozenset(), decision=None).list_at is None


def test_a_grant_that_no_pod_shows_needs_one() -> None:
    """When it is taken for failed, and not before: only `List` can say that nobody has it."""
    late = Holds(granted={FIRST: 100.0 - GRANT_GRACE})
    assert needed(late).list_at == 100.0
    assert needed(Holds(granted={FIRST: 95.0})).list_at is None


def test_two_pods_on_one_share_need_one_whatever_waits() -> None:
    """Both names are reported."""
    seen = by_get(100.0, FIRST, pods=("old", "new"))
    assert needed(Holds(unnamed={ENTRY: 60.0}), seen, frozenset(), None).list_at == 60.0 + GRANT_SETTLED


def test_what_a_restarted_kubelet_does_not_show_yet_is_asked_for_again() -> None:
    """In quiet moments, unless something waits for it."""
    assert needed(Holds(carried={OTHER: 40.0}), waits=frozenset()).names_at == LISTED_AT + LINGER_GAP
    assert needed(Holds(carried={FIRST: 40.0})).list_at == LISTED_AT + LINGER_GAP


def test_what_the_checkpoint_alone_keeps_is_asked_for_seldom_and_only_while_it_drains() -> None:
    """An init container may run for long; a pod that ended before it had a name may be nothing any more."""
    holds = Holds(unlisted={ENTRY: 40.0})
    assert needed(holds).list_at == LISTED_AT + LINGER_GAP
    assert needed(holds, waits=frozenset()) == Looks(0.5)


def test_what_has_a_cgroup_is_asked_for_seldom() -> None:
    """It mostly runs. But the kubelet keeps the cgroup of a pod that has ended until its volumes are unmounted."""
    runs = {ENTRY.pod_uid: True}
    assert needed(Holds(unlisted={ENTRY: 40.0}, cgroups=runs)).list_at == LISTED_AT + LIST_SELDOM
    assert needed(Holds(unlisted={ENTRY: 40.0}, carried={FIRST: 40.0}, cgroups=runs)).list_at == LISTED_AT + LIST_SELDOM
    assert rewritten(Holds(unlisted={ENTRY: 40.0}, cgroups=runs), since=LIST_SELDOM)


def rewritten(holds: Holds, since: float, waits: frozenset[str] = DRAINS) -> bool:
    """Whether the kubelet is made to write its checkpoint, where it last was after a `List` begun so long before."""
    found = rewrites(by_get(100.0), holds, HAVE, waits=waits, rewritten_at=LISTED_AT - since)
    assert found <= {make.SHARED}
    return bool(found)


def test_after_a_list_the_checkpoint_is_written_where_it_keeps_what_was_not_listed() -> None:
    """Once for each entry, which may be of a pod that has ended; and now and then for one that is waited for, which
    stays as long as an init container runs.
    """
    holds = Holds(unlisted={ENTRY: 40.0})
    assert rewritten(holds, since=100.0)
    assert rewritten(holds, since=100.0, waits=frozenset())
    assert rewritten(holds, since=LINGER_GAP)
    assert not rewritten(holds, since=LINGER_GAP, waits=frozenset())
    assert not rewritten(holds, since=3.0)
    assert rewritten(Holds(unlisted={ENTRY: 48.0}), since=3.0)
    assert not rewritten(holds, since=0.0)
    assert not rewritten(Holds(), since=100.0)


def test_after_a_restart_of_the_kubelet_the_checkpoint_is_written_too() -> None:
    """It keeps the pods that ended meanwhile."""
    holds = Holds(carried={OTHER: 40.0})
    assert rewritten(holds, since=LINGER_GAP, waits=frozenset())
    assert not rewritten(holds, since=LINGER_GAP - 1, waits=frozenset())


def test_pods_on_a_gpu_that_drains_are_asked_for_at_every_look() -> None:
    """Others seldom; those of other plugins never."""
    foreign = ("example.com/nic", "nic-0")
    found = needed(Holds(), by_get(100.0, FIRST, OTHER, foreign)).asks
    assert found == {("default", f"pod-{FIRST[1]}"): 0.0, ("default", f"pod-{OTHER[1]}"): ASK_SELDOM}


def test_an_answer_is_old_long_before_the_next_look() -> None:
    """Looks are asked for at any time, and the interval counts from the last one: if its answers were young enough at
    that one, an ended pod would be reported as a holder for twice the interval.
    """
    assert LOOK_SELDOM + ASK_SELDOM <= 35.0
