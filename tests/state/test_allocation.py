"""Answers to Allocate and GetPreferredAllocation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.allocation import PreferenceRequest, RefusalReason, Refused
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Applied
from nodeagent.state.allocation import VISIBLE_DEVICES, Offer, allocate, offers, prefer
from nodeagent.state.allocation import given as granted
from tests.state import make

HAVE = make.applied(
    make.entry(0, make.SLICED, range(4), {3: 5.0}),
    make.entry(1, make.SLICED, range(4), most=1),
    make.entry(2, make.WHOLE, {0}),
    make.entry(3, make.SLICED, range(4), health=GpuHealth.LOST),
)


def offer(have: Applied = HAVE, resource: str = make.SHARED, plan: Plan | None = None, *held: tuple[str, str]) -> Offer:
    """What there is of one resource."""
    return offers(have, [resource], plan or Plan(), held)[resource]


def ask(size: int, *available: str, must: tuple[str, ...] = ()) -> list[PreferenceRequest]:
    """One container's GetPreferredAllocation."""
    return [PreferenceRequest(available, must, size)]


def test_a_container_sees_the_gpus_of_its_shares_and_no_others() -> None:
    """Each GPU once, by index; one answer per container."""
    found = allocate(offer(), [["GPU-1::0", "GPU-0::2", "GPU-0::1"][1:], ["GPU-1::3"]])
    assert [dict(one.envs) for one in found] == [{VISIBLE_DEVICES: "GPU-0"}, {VISIBLE_DEVICES: "GPU-1"}]
    both = make.applied(make.entry(1, make.SLICED, {0}), make.entry(0, make.SLICED, {0}))
    assert allocate(offer(both), [["GPU-1::0", "GPU-0::0"]])[0].envs[VISIBLE_DEVICES] == "GPU-0,GPU-1"
    assert allocate(offer(resource="nvidia.com/gpu"), [["GPU-2"]])[0].envs == {VISIBLE_DEVICES: "GPU-2"}


def test_a_fenced_share_is_granted() -> None:
    """The kubelet may not have seen the fence yet, and refusing would fail a pod."""
    assert allocate(offer(), [["GPU-0::3"]])[0].envs[VISIBLE_DEVICES] == "GPU-0"


@pytest.mark.parametrize(
    ("ids", "reason"),
    [
        (["GPU-0::4"], RefusalReason.UNKNOWN_SHARE),
        (["GPU-0"], RefusalReason.UNKNOWN_SHARE),
        (["GPU-0::x"], RefusalReason.UNKNOWN_SHARE),
        (["GPU-0::01"], RefusalReason.UNKNOWN_SHARE),
        (["GPU-2"], RefusalReason.UNKNOWN_SHARE),
        (["GPU-9::0"], RefusalReason.UNKNOWN_SHARE),
        ([""], RefusalReason.UNKNOWN_SHARE),
        (["GPU-3::0"], RefusalReason.UNHEALTHY),
        (["GPU-1::0", "GPU-1::1"], RefusalReason.TOO_MANY),
        (["GPU-0::0", "GPU-1::1"], RefusalReason.TOO_MANY),
    ],
)
def test_what_cannot_be_given_is_refused_with_a_reason(ids: list[str], reason: RefusalReason) -> None:
    """Unknown shares, sick GPUs, more than one container may have: the message is for the pod's author."""
    with pytest.raises(Refused, match=r"^cannot allocate ") as refused:
        allocate(offer(), [["GPU-0::0"], ids])
    assert refused.value.reason is reason


def test_an_id_under_another_resource_is_unknown() -> None:
    """A share is asked for by the name that it is advertised under."""
    with pytest.raises(Refused, match=r"not a share of example\.com/other"):
        allocate(offer(resource="example.com/other"), [["GPU-0::0"]])


def test_shares_are_spread_over_the_least_used_gpus() -> None:
    """What pods have counts, and what is chosen in this very answer; then the lowest index and number."""
    held = (make.SHARED, "GPU-0::0")
    available = ("GPU-1::2", "GPU-1::0", "GPU-1::1", "GPU-0::2", "GPU-0::1")
    assert prefer(offer(HAVE, make.SHARED, None, held), ask(1, *available)) == [["GPU-1::0"]]
    assert prefer(offer(HAVE, make.SHARED, None, held), ask(4, *available)) == [
        ["GPU-1::0", "GPU-0::1", "GPU-1::1", "GPU-0::2"]
    ]
    assert prefer(offer(), ask(1, *available)) == [["GPU-0::1"]]


def test_what_was_just_granted_counts() -> None:
    """Without waiting for the next turn of the loop."""
    found = granted(offer(), [["GPU-0::0"], ["GPU-0::2"]])
    assert found.used == {"GPU-0": 2}
    assert prefer(found, ask(1, "GPU-0::1", "GPU-1::3")) == [["GPU-1::3"]]


def test_draining_and_fenced_shares_come_last() -> None:
    """However unused their GPU is; when nothing else is left, they are given all the same."""
    plan = Plan(
        waits=(Wait("GPU-1", WaitReason.PODS, frozenset({0})), Wait("GPU-1", WaitReason.KUBELET, frozenset({1})))
    )
    busy = offer(HAVE, make.SHARED, plan, (make.SHARED, "GPU-0::1"))
    assert busy.avoid == {"GPU-0::3", "GPU-1::0", "GPU-1::1"}
    available = ("GPU-0::3", "GPU-1::0", "GPU-1::1", "GPU-0::0", "GPU-0::2")
    assert prefer(busy, ask(2, *available)) == [["GPU-0::0", "GPU-0::2"]]
    assert set(prefer(busy, ask(5, *available))[0]) == set(available)


def test_surplus_that_cannot_be_fenced_yet_comes_last_too() -> None:
    """Whether or not it is known who holds it; but to be granted one of these is not to be granted it once more."""
    plan = Plan(
        waits=(
            Wait("GPU-0", WaitReason.FRESH_LIST, frozenset({0})),
            Wait("GPU-1", WaitReason.POD_RESOURCES, frozenset({1})),
        )
    )
    blind = offer(HAVE, make.SHARED, plan)
    assert blind.avoid - blind.leaving == {"GPU-0::0", "GPU-1::1"}
    assert prefer(blind, ask(1, "GPU-0::0", "GPU-1::1", "GPU-1::2")) == [["GPU-1::2"]]


def test_what_must_be_included_comes_first_and_counts() -> None:
    """In its order, and the rest is spread around it."""
    found = prefer(offer(), ask(2, "GPU-0::0", "GPU-0::1", "GPU-1::0", must=("GPU-0::1",)))
    assert found == [["GPU-0::1", "GPU-1::0"]]
    assert prefer(offer(), ask(1, "GPU-0::0", "GPU-0::1", must=("GPU-0::1",))) == [["GPU-0::1"]]


def test_whole_gpus_come_lowest_index_first() -> None:
    """Ten after nine."""
    have = make.applied(*(make.entry(index, make.WHOLE, {0}) for index in range(12)))
    available = [f"GPU-{index}" for index in (11, 10, 9, 3)]
    assert prefer(offer(have, "nvidia.com/gpu"), ask(3, *available)) == [["GPU-3", "GPU-9", "GPU-10"]]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (ask(3, "GPU-0::0", "GPU-0::1"), RefusalReason.TOO_MANY),
        (ask(1, "GPU-0::0", must=("GPU-0::1",)), RefusalReason.INVALID),
        (ask(1, "GPU-0::0", "GPU-0::1", must=("GPU-0::0", "GPU-0::1")), RefusalReason.INVALID),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(request_: list[PreferenceRequest], reason: RefusalReason) -> None:
    """More than is available, or what must be included and is not there."""
    with pytest.raises(Refused, match=r"^cannot choose ") as refused:
        prefer(offer(), request_)
    assert refused.value.reason is reason


IDS = st.sampled_from([f"GPU-{index}::{number}" for index in (0, 1, 5) for number in range(4)])


@given(st.permutations(sorted({f"GPU-{i}::{n}" for i in (0, 1, 5) for n in range(4)})), st.sets(IDS), st.data())
def test_a_preference_is_a_choice_that_the_order_of_the_question_does_not_change(
    available: list[str], must: set[str], data: st.DataObject
) -> None:
    """Exactly as many as asked for, all that must be, none twice, and always the same for the same question."""
    size = data.draw(st.integers(len(must), len(available)))
    (found,) = prefer(offer(), [PreferenceRequest(available, sorted(must), size)])
    assert len(found) == len(set(found)) == size
    assert must <= set(found) <= set(available)
    assert prefer(offer(), [PreferenceRequest(sorted(available), sorted(must), size)]) == [found]
