"""One GPU's next step."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.config import Contract, Mode
from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import PodResourcesStatus
from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Drop,
    Fence,
    Plan,
    Refusal,
    Release,
    Restore,
    ShareAction,
    Start,
    Wait,
    WaitReason,
)
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.observed import BLIND_SECONDS, Holdings, Observed, holdings
from nodeagent.state.transition import Step, adopt, divide, keep_still, lowest_unused, transition, unrelieved
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
    """The next step at second 100, at which the newest look began; what is to be taken back comes first."""
    held = frozenset(held)
    moment = make.seen(make.applied(entry), held=held, **more)  # type: ignore[arg-type]  # fields of Observed
    has = holdings(entry, held)
    taken_back = adopt(entry, has)
    return Step((taken_back,)) if taken_back is not None else transition(entry, contract, count, has, moment)


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
    fenced = Fence(UUID, some(3), leaving=True)
    assert made == Step((fenced,), (Wait(UUID, WaitReason.POD_RESOURCES, some(0, 1, 2, 3)),))


def test_what_was_fenced_before_the_start_is_lifted_where_pods_have_it() -> None:
    """The GPU goes on leaving; what nobody has stays fenced, and so does what this agent has fenced itself."""
    fenced = make.entry(0, make.SLICED, range(4), {1: 99.5, 2: 99.5, 3: 99.5}, leaving=True)
    held, inherited = make.keys(make.SHARED, 0, 2, 3), make.keys(make.SHARED, 0, 1, 2)
    made = step(fenced, make.WHOLE, 1, held, inherited=inherited)
    assert [one for one in made.actions if isinstance(one, Restore)] == [Restore(UUID, some(2), leaving=True)]
    assert keep_still(fenced, Holdings(some(2, 3)), Observed(now=100.0, inherited=inherited)) == Step(
        (Restore(UUID, some(2), leaving=True),), (Wait(UUID, WaitReason.RESTART, some(1, 3)),)
    )
    assert keep_still(FOUR, Holdings(some(2)), Observed(now=100.0)) == Step()


PRESSED = make.keys(make.SHARED, 0, 1, 2)


@pytest.mark.parametrize(
    ("made", "held", "fenced", "left"),
    [
        (Plan(waits=(Wait(UUID, WaitReason.PODS, some(1, 2)),)), PRESSED, {}, {1, 2}),
        (Plan(waits=(Wait(UUID, WaitReason.PODS, some(1, 2)),)), PRESSED, {1: 99.0}, {2}),
        (Plan(waits=(Wait(UUID, WaitReason.DISK, some(0, 1, 2, 3)),)), PRESSED, {}, {1, 2}),
        (Plan(waits=(Wait(UUID, WaitReason.PODS, some(1)),)), PRESSED, {}, {1}),
        (Plan(waits=(Wait(UUID, WaitReason.PODS, some(1, 2)),)), make.keys(make.SHARED, 0, 1), {}, {1}),
        (Plan(actions=(Adopt(UUID, make.SLICED, some(9)),)), PRESSED, {}, {1, 2}),
        (Plan(refused=(Refusal(UUID, "no"),)), PRESSED, {}, {1, 2}),
        (Plan(waits=(Wait("GPU-1", WaitReason.PODS, some(1, 2)),)), PRESSED, {}, set()),
        (Plan(), PRESSED, {}, set()),
    ],
    ids=[
        "not fenced",
        "one of them fenced",
        "the disk is full",
        "one of them kept",
        "one of them ended",
        "shares are taken back",
        "refused",
        "another GPU waits",
        "wanted again",
    ],
)
def test_pressure_lasts_until_it_is_relieved(
    made: Plan, held: frozenset[ShareKey], fenced: dict[int, float], left: set[int]
) -> None:
    """Each share by itself: what was handed out is to be fenced until it is, its pod ends, or it is wanted again."""
    applied = make.applied(make.entry(0, make.SLICED, range(4), fenced))
    found = {int(share.partition("::")[2]) for _, share in unrelieved(PRESSED, made, held, applied)}
    assert found == left


def test_a_stale_look_fences_nothing() -> None:
    """A `List` begun before the decision is too old to take anything away by; one is on its way."""
    made = step(FOUR, make.SLICED, 2, decided_at=100.5)
    assert made == Step((), (Wait(UUID, WaitReason.FRESH_LIST, some(2, 3)),))
    assert step(FOUR, make.SLICED, 2, decisions={UUID: 100.5}) == made
    assert step(FOUR, make.SLICED, 2, decisions={"GPU-1": 100.5}).actions == (Fence(UUID, some(2, 3)),)


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


PENDING = MpsStatus(MpsReason.PENDING, "nothing is known yet")
UNDER = make.entry(0, make.QUARTER, range(2), {0: 90.0, 1: 90.0})
STARTED = make.entry(0, make.QUARTER)
DAEMON = make.host(make.daemon(0))


def daemon(state: DaemonState) -> MpsStatus:
    """A host whose daemon on the GPU is in this state."""
    return make.host(make.daemon(0, state=state))


def for_daemon(*numbers: int, detail: str = "") -> Wait:
    """A wait for the GPU's daemon."""
    return Wait(UUID, WaitReason.DAEMON, frozenset(numbers), detail)


@pytest.mark.parametrize("mps", [DAEMON, make.host()], ids=["ready", "none"])
def test_under_mps_the_contract_comes_before_the_shares(mps: MpsStatus) -> None:
    """Whatever is known of daemons: this one is another, and it is verified in another turn."""
    started = Start(UUID, make.QUARTER)
    assert step(make.entry(0), make.QUARTER, 2, mps=mps) == Step((started,), (for_daemon(0, 1),))
    fenced = make.entry(0, make.SLICED, range(2), {0: 90.0, 1: 90.0})
    changed = Step((Drop(UUID, some(0, 1)), Release(UUID), started), (for_daemon(0, 1),))
    assert step(fenced, make.QUARTER, 2, mps=mps) == changed
    assert step(UNDER, make.HALF, 1, mps=mps) == Step(
        (Drop(UUID, some(0, 1)), Release(UUID), Start(UUID, make.HALF)), (for_daemon(0),)
    )


@pytest.mark.parametrize("mps", [MpsStatus(message="it is off"), PENDING], ids=["off", "pending"])
def test_no_contract_is_begun_whose_daemon_cannot_be_had(mps: MpsStatus) -> None:
    """What a GPU needs is there before it takes a contract; why not is in the wait."""
    (wait,) = step(make.entry(0), make.QUARTER, 2, mps=mps).waits
    assert wait == for_daemon(0, 1, detail=wait.detail)
    assert wait.detail
    fenced = make.entry(0, make.SLICED, range(2), {0: 90.0, 1: 90.0})
    assert step(fenced, make.QUARTER, 2, mps=mps) == Step((Drop(UUID, some(0, 1)), Release(UUID)), (wait,))


def test_shares_come_when_the_daemon_is_verified() -> None:
    """Those that are missing, all at once."""
    assert step(STARTED, make.QUARTER, 3, mps=DAEMON) == acts(Advertise(UUID, make.QUARTER, some(0, 1, 2)))
    two = make.entry(0, make.QUARTER, range(2))
    assert step(two, make.QUARTER, 3, mps=DAEMON) == acts(Advertise(UUID, make.QUARTER, some(2)))


@pytest.mark.parametrize("state", [one for one in DaemonState if one is not DaemonState.READY])
def test_without_its_daemon_a_gpu_gets_no_share(state: DaemonState) -> None:
    """Neither the first nor one more; what it has it keeps, held or not."""
    assert step(STARTED, make.QUARTER, 2, mps=daemon(state)) == Step((), (for_daemon(0, 1),))
    two = make.entry(0, make.QUARTER, range(2))
    assert step(two, make.QUARTER, 3, mps=daemon(state)) == Step((), (for_daemon(2),))
    assert step(two, make.QUARTER, 2, make.keys(make.MPS, 0, 1), mps=daemon(state)) == Step()


def test_shares_that_leave_do_not_wait_for_their_daemon() -> None:
    """What is too much goes, whether or not the daemon is well; the fenced ones that are wanted again come back."""
    three = make.entry(0, make.QUARTER, range(3), {2: 90.0})
    assert step(three, make.QUARTER, 2, mps=make.host()).actions == (Drop(UUID, some(2)),)
    assert step(three, make.QUARTER, 3, mps=make.host()).actions == (Restore(UUID, some(2)),)


@pytest.mark.parametrize("mps", [DAEMON, make.host(), PENDING], ids=["still there", "not heard of", "pending"])
def test_what_follows_mps_waits_until_the_daemon_has_left(mps: MpsStatus) -> None:
    """Also when nothing is told of it in the moment in which its contract ends: nobody has asked it to go before."""
    then = Step((Drop(UUID, some(0, 1)), Release(UUID)), (for_daemon(0, detail="its MPS daemon has not left yet"),))
    assert step(UNDER, make.WHOLE, 1, mps=mps) == then
    withdrawn = Step((Drop(UUID, some(0, 1)), Release(UUID)))
    assert step(UNDER, None, 0, mps=mps) == withdrawn


@pytest.mark.parametrize("state", list(DaemonState))
def test_nothing_is_advertised_beside_a_daemon(state: DaemonState) -> None:
    """In whatever state: the compute mode that it needs is of no use to others."""
    told = f"its MPS daemon has not left yet: {state.value}"
    assert step(make.entry(0), make.WHOLE, 1, mps=daemon(state)) == Step((), (for_daemon(0, detail=told),))
    assert step(make.entry(0), make.WHOLE, 1, mps=make.host()) == acts(Advertise(UUID, make.WHOLE, some(0)))
    assert step(make.entry(0), None, 0, mps=daemon(state)) == Step()


def test_while_nothing_is_known_of_mps_no_gpu_gets_its_first_share() -> None:
    """There may be a daemon on it; what is advertised grows and shrinks as ever."""
    waiting = for_daemon(0, detail="nothing is known yet")
    assert step(make.entry(0), make.WHOLE, 1, mps=PENDING) == Step((), (waiting,))
    assert step(FOUR, make.SLICED, 5, mps=PENDING) == acts(Advertise(UUID, make.SLICED, some(4)))
    gone = make.entry(0, make.SLICED, range(2), {0: 90.0, 1: 90.0})
    assert step(gone, make.WHOLE, 1, mps=PENDING) == Step((Drop(UUID, some(0, 1)), Release(UUID)), (waiting,))


def test_a_daemon_without_shares_gets_none_before_the_first_look() -> None:
    """It may be one that was found: pods may have any of its shares, and more of them than are wanted now."""
    never = PodResourcesStatus()
    waiting = Step((), (Wait(UUID, WaitReason.FRESH_LIST),))
    assert step(STARTED, make.QUARTER, 2, mps=DAEMON, pods=never) == waiting
    blind = step(STARTED, make.QUARTER, 2, mps=DAEMON, pods=make.unreadable(), blind_since=100.0 - BLIND_SECONDS)
    assert blind == acts(Advertise(UUID, make.QUARTER, some(0, 1)))
    two = make.entry(0, make.QUARTER, range(2))
    assert step(two, make.QUARTER, 3, mps=DAEMON, pods=never) == acts(Advertise(UUID, make.QUARTER, some(2)))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"decided_at": 100.5}, WaitReason.FRESH_LIST),
        ({"cautious_until": 100.5}, WaitReason.RESTART),
        ({"pods": make.unreadable(make.look(100.0))}, WaitReason.POD_RESOURCES),
        ({"pods": PodResourcesStatus()}, WaitReason.POD_RESOURCES),
    ],
    ids=["decided since", "just started", "unreadable", "never looked"],
)
def test_a_daemon_without_shares_is_not_ended_without_a_look(more: dict[str, object], reason: WaitReason) -> None:
    """Begun after the decision, as for shares that leave: pods may use it though none of its shares is on the list."""
    assert step(STARTED, make.WHOLE, 1, (), mps=DAEMON, **more) == Step((), (Wait(UUID, reason),))
    assert step(STARTED, None, 0, (), mps=DAEMON, **more) == Step((), (Wait(UUID, reason),))
    assert step(STARTED, make.HALF, 1, (), mps=DAEMON, **more) == Step((), (Wait(UUID, reason),))


def test_a_daemon_without_shares_ends_with_its_contract() -> None:
    """Git has changed its mind, and a fresh look shows nobody."""
    assert step(STARTED, None, 0, mps=DAEMON) == acts(Release(UUID))
    leaving = for_daemon(0, detail="its MPS daemon has not left yet")
    assert step(STARTED, make.WHOLE, 1, mps=DAEMON) == Step((Release(UUID),), (leaving,))
    changed = Step((Release(UUID), Start(UUID, make.HALF)), (for_daemon(0),))
    assert step(STARTED, make.HALF, 1, mps=DAEMON) == changed


def test_a_pod_that_has_a_share_of_a_daemon_that_was_found_keeps_it() -> None:
    """Under the contract of the daemon, whatever Git wants by now."""
    held = make.keys(make.MPS, 0, 3)
    for mps in (DAEMON, make.host(), PENDING):
        assert step(STARTED, make.WHOLE, 1, held, mps=mps) == acts(Adopt(UUID, make.QUARTER, some(3)))


def test_a_pod_of_another_plugin_on_a_gpu_whose_daemon_starts_comes_first() -> None:
    """The contract ends, so that what the pod has can be served."""
    other = make.keys("nvidia.com/gpu", 0)
    assert step(STARTED, make.QUARTER, 2, other, mps=daemon(DaemonState.STARTING)) == acts(Release(UUID))


def test_a_held_share_that_is_missing_comes_back_first() -> None:
    """Before anything else is done to its GPU, even where another contract is wanted."""
    held = make.keys(make.SHARED, 0, 2, 9)
    assert step(FOUR, make.WHOLE, 1, held) == acts(Adopt(UUID, make.SLICED, some(9)))


def test_a_contract_begun_without_knowing_makes_room() -> None:
    """Where PodResources names a pod that has the GPU under another contract, and nobody has it under this one."""
    other = make.keys("nvidia.com/gpu", 0)
    assert step(FOUR, make.SLICED, 4, other).actions == (Fence(UUID, some(0, 1, 2, 3), leaving=True),)
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
