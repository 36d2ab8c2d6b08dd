"""What is true now, in the planner's terms: who holds what of a GPU, and what may be dropped."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.kubelet import PodResourcesStatus
from nodeagent.state.observed import (
    BLIND_SECONDS,
    MENTION_SECONDS,
    Observed,
    by_gpu,
    drop_due,
    droppable,
    holdings,
    pods_of,
)
from tests.state import make

FENCED = make.entry(0, make.SLICED, range(4), {2: 99.0, 3: 99.0})
LEFT = {make.SHARED: frozenset({"GPU-0::0", "GPU-0::1"})}
NOBODY: frozenset[int] = frozenset()


def view(
    now: float = 101.0, begun_at: float = 100.5, allocatable: dict[str, frozenset[str]] | None = None, **more: object
) -> Observed:
    """A moment in which both fenced shares may be dropped, unless it is changed."""
    listing = make.look(begun_at, (), LEFT if allocatable is None else allocatable)
    return make.seen(make.applied(FENCED), now, **({"pods": make.listed(listing)} | more))  # type: ignore[arg-type]


def test_a_fenced_share_that_the_kubelet_knows_of_may_be_dropped() -> None:
    """Old enough, looked at since, neither healthy there nor held, not spoken of: it may go."""
    assert droppable(FENCED, NOBODY, view()) == {2, 3}


@pytest.mark.parametrize(
    ("what", "held", "moment"),
    [
        ("held", frozenset({2, 3}), view()),
        ("young", NOBODY, view(now=99.9)),
        ("not looked since", NOBODY, view(begun_at=99.0)),
        ("still healthy at the kubelet", NOBODY, view(allocatable={make.SHARED: frozenset({"GPU-0::2", "GPU-0::3"})})),
        ("named lately", NOBODY, view(mentions={"GPU-0::2": 101.01 - MENTION_SECONDS, "GPU-0::3": 101.0})),
        ("not decided yet", NOBODY, view(decided_at=100.6)),
        ("agent just started", NOBODY, view(cautious_until=100.6)),
        ("unreadable", NOBODY, view(pods=make.unreadable(make.look(100.5, (), LEFT)))),
        ("never looked", NOBODY, view(pods=PodResourcesStatus())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_doubt_keeps_a_share_on_the_list(what: str, held: frozenset[int], moment: Observed) -> None:
    """One reason is enough."""
    assert droppable(FENCED, held, moment) == frozenset(), what


def test_only_fenced_shares_are_ever_dropped() -> None:
    """A share that is sent Healthy is never among them, though the kubelet does not know it."""
    plain = make.entry(0, make.SLICED, range(4))
    assert droppable(plain, NOBODY, view(allocatable={})) == frozenset()


def test_a_mention_is_soon_over() -> None:
    """Allocate follows GetPreferredAllocation at once, or not at all."""
    assert droppable(FENCED, NOBODY, view(mentions={"GPU-0::2": 101.0 - MENTION_SECONDS})) == {2, 3}


def test_one_id_may_be_held_under_two_contracts() -> None:
    """The resource and the form of the id tell whether a share is of the GPU's contract; no share, no holder."""
    keys = [
        (make.SHARED, "GPU-0::1"),
        (make.SHARED, "GPU-0"),
        ("nvidia.com/gpu", "GPU-0::1"),
        (make.SHARED, "GPU-0::01"),
        (make.SHARED, "GPU-0::x"),
    ]
    found = holdings(make.entry(0, make.SLICED, range(2)), keys)
    assert found.own == {1}
    assert found.others == {(make.SHARED, "GPU-0"), ("nvidia.com/gpu", "GPU-0::1")}
    assert holdings(make.entry(0, make.WHOLE, {0}), [("nvidia.com/gpu", "GPU-0")]).own == {0}
    assert holdings(make.entry(0), keys).own == frozenset()


def test_held_shares_are_sorted_by_gpu() -> None:
    """By the uuid in their ids."""
    assert by_gpu([(make.SHARED, "GPU-0::1"), ("nvidia.com/gpu", "GPU-1")]) == {
        "GPU-0": [(make.SHARED, "GPU-0::1")],
        "GPU-1": [("nvidia.com/gpu", "GPU-1")],
    }


def test_the_next_drop_is_due_when_the_youngest_fence_that_counts_is_old() -> None:
    """Fences that are old already wait for something else than time."""
    have = make.applied(make.entry(0, make.SLICED, range(3), {0: 90.0, 1: 99.5, 2: 99.7}))
    assert drop_due(have, 100.0) == 100.5
    assert drop_due(have, 101.0) is None


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        (PodResourcesStatus(), (False, False, False)),
        (make.unreadable(), (False, False, False)),
        (make.listed(make.look(99.9)), (True, True, False)),
        (make.listed(make.look(100.0)), (True, True, True)),
    ],
    ids=["pending", "unreadable", "stale", "fresh"],
)
def test_readable_looked_and_fresh(pods: PodResourcesStatus, expected: tuple[bool, bool, bool]) -> None:
    """A look is fresh when it began no earlier than the last decision; one that failed tells nothing."""
    moment = Observed(now=101, pods=pods, decided_at=100.0)
    assert (moment.readable, moment.looked, moment.is_fresh("GPU-0")) == expected


def test_a_kubelet_that_does_not_say_what_pods_have_is_not_waited_for_for_ever() -> None:
    """After a while all has been done that can be done to learn it; without any kubelet nobody is kept waiting."""
    blind = Observed(now=100.0 + BLIND_SECONDS, pods=make.unreadable(), blind_since=100.0)
    assert blind.looked
    assert not replace(blind, now=99.9 + BLIND_SECONDS).looked
    assert not replace(blind, blind_since=None).looked


def test_the_holder_of_a_share_is_named() -> None:
    """As namespace, pod and container; of one GPU and one name, whatever else is held."""
    keys = make.keys(make.SHARED, 0, 1) | make.keys(make.SHARED, 1, 2) | make.keys("example.com/other", 0, 3)
    holders = make.look(1, keys).holders
    assert pods_of(holders, make.SHARED, "GPU-0") == {"GPU-0::1": "default/pod-GPU-0::1/main"}
    assert pods_of((), make.SHARED, "GPU-0") == {}
