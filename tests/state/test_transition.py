"""One GPU's next step."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.config import Contract, Mode
from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import PodResourcesStatus
from nodeagent.model.plan import Adopt, Advertise, Drop, Fence, Release, Restore, ShareAction, Wait, WaitReason
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.observed import BLIND_SECONDS, Holdings, holdings
from nodeagent.state.transition import Step, adopt, divide, lowest_unused, transition
from tests.state import make

FOUR = make.entry(0, make.SLICED, range(4))
UUID = "GPU-0"


def step(
    entry: AppliedGpu,
    contract: Contract | None,
    count: int,
    held: Iterable[ShareKey] = (),
    **more: object,
) -> Step:
    """The next step at second 100, at which the newest look began."""
    held = frozenset(held)
    moment = make.seen(make.applied(entry), held=held, **more)  # type: ignore[arg-type]  # fields of Observed
    return transition(entry, contract, count, holdings(entry, held), moment)


def acts(*actions: ShareAction) -> Step:
    """A step that waits for nothing."""
    return Step(actions)


def some(*numbers: int) -> frozenset[int]:
    """A few shares."""
    return frozenset(numbers)


def test_what_is_as_wanted_stays() -> None:
    """No step where nothing is to be done."""
    assert step(FOUR, make.SLICED, 4, make.keys(make.SHARED, 0, 1)) == Step()


def test_a_pressed_share_is_fenced_though_it_is_held() -> None:
    """Once the kubelet hands out a draining share again, it is sent Unhealthy; the other draining ones stay Healthy."""
    held = make.keys(make.SHARED, 0, 0, 1, 2, 3)
    made = step(FOUR, make.SLICED, 2, held, pressed=make.keys(make.SHARED, 0, 3))
    assert made == Step((Fence(UUID, some(3)),), (Wait(UUID, WaitReason.PODS, some(2, 3)),))


def test_pressure_on_a_share_that_is_kept_means_nothing() -> None:
    """Only what drains is fenced."""
    held = make.keys(make.SHARED, 0, 3)
    made = step(FOUR, make.SLICED, 4, held, pressed=held)
    assert made == Step()


def test_pressure_needs_no_look() -> None:
    """That the kubelet has handed a draining share out once more is known without PodResources."""
    held = make.keys(make.SHARED, 0, 3)
    made = step(FOUR, make.SLICED, 2, held, pressed=held, pods=make.unreadable())
    assert made.actions == ()
    made = step(FOUR, None, 0, held, pressed=held, pods=make.unreadable())
    assert made == Step((Fence(UUID, some(3)),), (Wait(UUID, WaitReason.POD_RESOURCES, some(0, 1, 2, 3)),))


def test_a_stale_look_fences_nothing() -> None:
    """A `List` begun before the decision is too old to take anything away by; one is on its way."""
    made = step(FOUR, make.SLICED, 2, decided_at=100.5)
    assert made == Step((), (Wait(UUID, WaitReason.FRESH_LIST, some(2, 3)),))


def test_an_agent_that_has_just_started_fences_nothing() -> None:
    """What its predecessor granted last may not be listed yet."""
    made = step(FOUR, make.SLICED, 2, cautious_until=100.5)
    assert made == Step((), (Wait(UUID, WaitReason.RESTART, some(2, 3)),))


def test_a_fenced_share_that_is_wanted_again_is_restored() -> None:
    """Without a detour over the list."""
    fenced = make.entry(0, make.SLICED, range(4), {2: 99.5, 3: 99.5})
    assert step(fenced, make.SLICED, 4) == acts(Restore(UUID, some(2, 3)))
    assert step(fenced, make.SLICED, 3).actions == (Restore(UUID, some(2)),)


def test_blind_a_fenced_share_is_restored_only_where_all_are_wanted() -> None:
    """While it is not known who holds what, a surplus share may be a pod's: no free one is offered in its place."""
    fenced = make.entry(0, make.SLICED, range(4), dict.fromkeys(range(4), 95.0))
    assert step(fenced, make.SLICED, 2, pods=make.unreadable()).actions == ()
    known = make.keys(make.SHARED, 0, 3)
    assert step(fenced, make.SLICED, 2, known, pods=make.unreadable()).actions == (Restore(UUID, some(3)),)
    assert step(fenced, make.SLICED, 4, pods=make.unreadable()).actions == (Restore(UUID, some(0, 1, 2, 3)),)


def test_blind_growth_of_a_gpu_with_a_fenced_and_held_share_breaks_nothing() -> None:
    """What pods are known to have is kept first, so that what can be handed out stays what is wanted."""
    entry = make.entry(0, make.SLICED, range(6), {3: 95.0, 4: 95.0, 5: 95.0})
    made = step(entry, make.SLICED, 4, make.keys(make.SHARED, 0, 5), pods=make.unreadable())
    assert made.actions == (Restore(UUID, some(5)),)


def test_the_new_contract_comes_with_the_last_old_share() -> None:
    """In one step, so that the GPU is not without shares for a turn."""
    fenced = make.entry(0, make.SLICED, range(2), {0: 90.0, 1: 90.0})
    made = step(fenced, make.WHOLE, 1)
    assert made == acts(Drop(UUID, some(0, 1)), Release(UUID), Advertise(UUID, make.WHOLE, some(0)))
    assert step(fenced, None, 0) == acts(Drop(UUID, some(0, 1)), Release(UUID))


def test_the_new_contract_does_not_come_while_one_share_is_left() -> None:
    """One share that the kubelet still knows holds the whole GPU up."""
    fenced = make.entry(0, make.SLICED, range(2), {0: 90.0, 1: 99.5})
    made = step(fenced, make.WHOLE, 1)
    assert made == Step((Drop(UUID, some(0)),), (Wait(UUID, WaitReason.KUBELET, some(1)),))


def test_the_new_contract_does_not_come_while_a_pod_has_the_gpu_under_another() -> None:
    """The GPU is released, so that what that pod has can be served, and nothing is offered."""
    fenced = make.entry(0, make.SLICED, range(2), {0: 90.0, 1: 90.0})
    made = step(fenced, Contract("example.com/slice", Mode.TIME_SLICED), 2, make.keys("nvidia.com/gpu", 0))
    assert made == acts(Drop(UUID, some(0, 1)), Release(UUID))


def test_a_held_share_that_is_missing_comes_back_first() -> None:
    """Before anything else is done to its GPU, even where another contract is wanted."""
    held = make.keys(make.SHARED, 0, 2, 9)
    assert step(FOUR, make.WHOLE, 1, held) == acts(Adopt(UUID, make.SLICED, some(9)))


def test_a_contract_begun_without_knowing_makes_room() -> None:
    """Where PodResources names a pod that has the GPU under another contract, and nobody has it under this one."""
    other = make.keys("nvidia.com/gpu", 0)
    assert step(FOUR, make.SLICED, 4, other).actions == (Fence(UUID, some(0, 1, 2, 3)),)
    unlisted = make.listed(make.look(100.0, (), make.followed(make.applied(FOUR))))
    assert step(FOUR, make.SLICED, 4, other, pods=unlisted) == Step()
    assert step(FOUR, make.SLICED, 4, other | make.keys(make.SHARED, 0, 1)) == Step()


def test_a_gpu_without_shares_waits_for_the_first_look() -> None:
    """Another plugin's pods may have it; a kubelet that does not say so is not waited for for ever."""
    empty = make.entry(0)
    waiting = step(empty, make.SLICED, 2, pods=PodResourcesStatus())
    assert waiting == Step((), (Wait(UUID, WaitReason.FRESH_LIST),))
    assert step(empty, make.SLICED, 2, pods=make.unreadable()) == waiting
    blind = step(empty, make.SLICED, 2, pods=make.unreadable(), blind_since=100.0 - BLIND_SECONDS)
    assert blind == acts(Advertise(UUID, make.SLICED, some(0, 1)))
    assert step(empty, None, 0, pods=PodResourcesStatus()) == Step()


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (make.keys("nvidia.com/gpu", 0), Adopt(UUID, make.WHOLE, some(0))),
        (make.keys(make.SHARED, 0, 3, 7), Adopt(UUID, make.SLICED, some(3, 7))),
        (
            make.keys(make.SHARED, 0, 3, 7) | make.keys("nvidia.com/gpu", 0),
            Adopt(UUID, make.SLICED, some(3, 7)),
        ),
        (
            make.keys(make.SHARED, 0, 3) | make.keys("nvidia.com/gpu", 0),
            Adopt(UUID, make.WHOLE, some(0)),
        ),
        (frozenset(), None),
    ],
    ids=["whole", "shared", "the larger group", "as many: by name", "nobody"],
)
def test_the_ids_tell_the_contract(held: frozenset[ShareKey], expected: Adopt | None) -> None:
    """A share that pods have of a GPU without a contract is taken over as what its id and resource say."""
    entry = make.entry(0)
    assert adopt(entry, holdings(entry, held)) == expected
    assert adopt(FOUR, Holdings(some(1, 2))) is None


@pytest.mark.parametrize(
    ("numbers", "count", "expected"),
    [({0, 2}, 2, {1, 3}), (set(), 3, {0, 1, 2}), ({0, 1}, 0, set()), ({5}, -2, set()), ({7}, 1, {0})],
)
def test_new_shares_get_the_lowest_numbers(numbers: set[int], count: int, expected: set[int]) -> None:
    """Ids come back rather than growing without end."""
    assert lowest_unused(numbers, count) == expected


NUMBERS = st.frozensets(st.integers(0, 9))


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS, st.integers(0, 10))
def test_every_share_has_one_fate(
    numbers: frozenset[int], fenced: frozenset[int], held: frozenset[int], known: frozenset[int], count: int
) -> None:
    """Kept, draining, to be fenced and leaving are the list, without overlap; as many are kept as are wanted."""
    entry = make.entry(0, make.SLICED, numbers, dict.fromkeys(fenced & numbers, 1.0))
    split = divide(entry, held & numbers, count, known & held)
    parts = [split.keep, split.drain, split.fence, split.leaving]
    assert frozenset().union(*parts) == numbers
    assert sum(map(len, parts)) == len(numbers)
    assert len(split.keep) == min(count, len(numbers))
    assert split.drain <= held
    assert not (split.fence | split.leaving) & held
    assert split.leaving <= fenced
    assert not split.fence & fenced
    if len(numbers & held) <= count:
        assert numbers & held <= split.keep
