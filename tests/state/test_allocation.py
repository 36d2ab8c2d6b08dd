"""Answers to Allocate and GetPreferredAllocation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.allocation import ContainerGrant, Mount, PreferenceRequest, RefusalReason, Refused
from nodeagent.model.config import Contract, Mode, Placement, Rule
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.topology import Topology
from nodeagent.state.allocation import Offer, allocate, offers, prefer
from nodeagent.state.allocation import given as granted
from nodeagent.state.grants import VISIBLE_DEVICES
from tests.state import make

HAVE = make.applied(
    make.entry(0, make.SLICED, range(4), {3: 5.0}),
    make.entry(1, make.SLICED, range(4), most=1),
    make.entry(2, make.WHOLE, {0}),
    make.entry(3, make.SLICED, range(4), health=GpuHealth.LOST),
)


def offer(have: Applied = HAVE, resource: str = make.SHARED, plan: Plan | None = None, *held: tuple[str, str]) -> Offer:
    """What there is of one resource."""
    return offers(have, [resource], plan or Plan(), held, MpsStatus())[resource]


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
    found = granted({make.SHARED: offer()}, make.SHARED, [["GPU-0::0"], ["GPU-0::2"]])[make.SHARED]
    assert found.used == {"GPU-0": 2}
    assert prefer(found, ask(1, "GPU-0::1", "GPU-1::3")) == [["GPU-1::3"]]
    assert granted({}, make.SHARED, [["GPU-0::0"]]) == {}


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


TWICE = make.under_mps(most=2)
UNDER = make.applied(
    make.entry(0, make.QUARTER, range(4), most=1), make.entry(1, make.QUARTER, range(4), {3: 5.0}, most=1)
)


def client(have: Applied, *ids: str, mps: MpsStatus | None = None, resource: str = make.MPS) -> ContainerGrant:
    """What a container gets that asks for these shares of GPUs under MPS, whose daemons are ready."""
    contracts = [(entry.gpu.index, entry.contract) for entry in have.ordered()]
    ready = make.host(*(make.daemon(index, one) for index, one in contracts if one is not None and one.limits))
    (grant,) = allocate(offers(have, [resource], Plan(), (), mps or ready)[resource], [ids])
    return grant


def refusal(
    have: Applied, *ids: str, mps: MpsStatus | None = None, resource: str = make.MPS
) -> tuple[RefusalReason, str]:
    """Why it gets nothing."""
    with pytest.raises(Refused) as refused:
        client(have, *ids, mps=mps, resource=resource)
    return refused.value.reason, str(refused.value)


def test_a_container_under_mps_is_a_client_of_its_gpus_daemon() -> None:
    """The GPU, the daemon's pipe directory and shared memory where CUDA looks for them, and the limits of one share."""
    assert client(UNDER, "GPU-1::2") == ContainerGrant(
        {
            "NVIDIA_VISIBLE_DEVICES": "GPU-1",
            "CUDA_MPS_PIPE_DIRECTORY": "/mps/pipe",
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=9216M",
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
        },
        (Mount("/mps/pipe", "/run/nodeagent/mps/GPU-1/pipe"), Mount("/dev/shm", "/run/nodeagent/mps/shm")),
    )


def test_nobody_else_is_a_client() -> None:
    """A container of GPUs that are not under MPS gets neither mounts nor limits, whatever daemons there are."""
    told = offers(HAVE, [make.SHARED], Plan(), (), make.host(make.daemon(0)))[make.SHARED]
    assert allocate(told, [["GPU-0::0"]]) == [ContainerGrant({VISIBLE_DEVICES: "GPU-0"})]


@pytest.mark.parametrize(
    ("threads", "shares", "memory", "percent"),
    [(25, 2, "0=18432M", "50"), (40, 2, "0=18432M", "80"), (40, 3, "0=27648M", "100"), (100, 1, "0=9216M", "100")],
)
def test_so_many_shares_have_so_many_times_the_limits(threads: int, shares: int, memory: str, percent: str) -> None:
    """Of memory without end, of threads no more than all of them."""
    have = make.applied(make.entry(0, make.under_mps(threads=threads, most=3), range(4), most=3))
    envs = client(have, *(f"GPU-0::{number}" for number in range(shares))).envs
    assert (envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]) == (memory, percent)


def test_a_fenced_share_under_mps_is_granted() -> None:
    """As everywhere: its daemon is there as long as it is on the list."""
    assert client(UNDER, "GPU-1::3").envs[VISIBLE_DEVICES] == "GPU-1"


def test_shares_of_two_gpus_under_mps_are_refused() -> None:
    """A container has one daemon; the message says how many GPUs it would be, and what to ask for."""
    have = make.applied(make.entry(0, TWICE, range(2), most=2), make.entry(1, TWICE, range(2), most=2))
    reason, message = refusal(have, "GPU-1::0", "GPU-0::1")
    assert reason is RefusalReason.SEVERAL_GPUS
    assert message == (
        "cannot allocate 2 shares of nvidia.com/gpu.mps to one container: they are of GPUs 0-1, "
        "and under MPS a container can use one GPU only; request fewer shares"
    )


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["under MPS first", "time-sliced first"])
def test_a_gpu_under_mps_and_one_that_is_not_yet_are_refused_together(order: tuple[int, int]) -> None:
    """While a resource goes over to MPS under its own name, both kinds are on its list."""
    first, second = order
    have = make.applied(
        make.entry(first, make.under_mps(most=2, resource=make.SHARED), range(2), most=2),
        make.entry(second, make.SLICED, range(2)),
    )
    reason, _ = refusal(have, f"GPU-{first}::0", f"GPU-{second}::0", resource=make.SHARED)
    assert reason is RefusalReason.SEVERAL_GPUS
    plain = client(have, f"GPU-{second}::0", f"GPU-{second}::1", resource=make.SHARED)
    assert plain == ContainerGrant({VISIBLE_DEVICES: f"GPU-{second}"})
    assert client(have, f"GPU-{first}::0", f"GPU-{first}::1", resource=make.SHARED).mounts


def test_more_shares_than_a_container_may_have_are_refused() -> None:
    """By `maxSharesPerContainer`, and by what the daemon allows where that is not known (yet)."""
    assert refusal(UNDER, "GPU-0::0", "GPU-0::1")[0] is RefusalReason.TOO_MANY
    found = make.applied(make.entry(0, make.QUARTER, range(4)))
    reason, message = refusal(found, "GPU-0::0", "GPU-0::1")
    assert reason is RefusalReason.TOO_MANY
    assert message == (
        "cannot allocate 2 shares of nvidia.com/gpu.mps to one container: at most 1 allowed (maxSharesPerContainer); "
        "request nvidia.com/gpu.mps: 1"
    )


def test_a_share_whose_daemon_is_at_fault_is_refused_with_its_reason() -> None:
    """The fault that the list tells of."""
    ill = make.applied(make.entry(0, make.QUARTER, range(4), fault="its MPS daemon is not ready: it has ended"))
    assert refusal(ill, "GPU-0::0") == (
        RefusalReason.UNHEALTHY,
        "cannot allocate GPU-0::0: GPU 0: its MPS daemon is not ready: it has ended",
    )


@pytest.mark.parametrize(
    ("mps", "why"),
    [
        (MpsStatus(MpsReason.PENDING, "nothing is known yet"), "nothing is known yet"),
        (make.host(make.daemon(0, make.HALF)), f"it still serves {make.HALF}"),
        (make.host(make.daemon(0, state=DaemonState.FAILED, message="it has ended")), "it has ended"),
        (make.host(make.daemon(1)), "it has not been started yet"),
    ],
    ids=["not known", "other limits", "failed", "none"],
)
def test_a_share_is_granted_of_a_verified_daemon_only(mps: MpsStatus, why: str) -> None:
    """Though the list has it as Healthy: an agent that has just started would be guessing what to mount."""
    assert refusal(UNDER, "GPU-0::0", mps=mps) == (
        RefusalReason.UNHEALTHY,
        f"cannot allocate shares of nvidia.com/gpu.mps: GPU 0: its MPS daemon is not ready: {why}",
    )


def together(size: int, *available: str, must: tuple[str, ...] = (), held: tuple[str, ...] = ()) -> list[str]:
    """What is chosen of three GPUs under MPS with four shares each: the fenced one of GPU 1 and the draining ones of
    GPU 2 should rather not be.
    """
    three = make.applied(
        make.entry(0, TWICE, range(4)), make.entry(1, TWICE, range(4), {3: 5.0}), make.entry(2, TWICE, range(4))
    )
    plan = Plan(waits=(Wait("GPU-2", WaitReason.PODS, frozenset({2, 3})),))
    keys = [(make.MPS, share) for share in held]
    (found,) = prefer(offer(three, make.MPS, plan, *keys), ask(size, *available, must=must))
    return found


ALL = tuple(f"GPU-{index}::{number}" for index in range(3) for number in range(4))


def test_under_mps_a_request_stays_on_one_gpu() -> None:
    """The least used one that has enough, lowest index and number first."""
    assert together(2, *ALL) == ["GPU-0::0", "GPU-0::1"]
    assert together(4, *ALL) == ["GPU-0::0", "GPU-0::1", "GPU-0::2", "GPU-0::3"]
    assert together(2, *ALL, held=("GPU-0::0",)) == ["GPU-1::0", "GPU-1::1"]
    assert together(2, "GPU-0::3", "GPU-1::0", "GPU-1::2", held=("GPU-1::1",)) == ["GPU-1::0", "GPU-1::2"]


def test_single_shares_are_spread_over_the_least_used_gpus_under_mps_too() -> None:
    """One after the other, as everywhere."""
    assert together(1, *ALL) == ["GPU-0::0"]
    assert together(1, *ALL, held=("GPU-0::1",)) == ["GPU-1::0"]
    assert together(1, *ALL, held=("GPU-0::1", "GPU-1::2", "GPU-2::0", "GPU-0::0")) == ["GPU-1::0"]


def test_the_gpu_of_what_must_be_included_comes_first() -> None:
    """However much of it is used, and though its shares should rather not be given away."""
    busy = ("GPU-1::0", "GPU-1::1")
    assert together(2, *ALL, must=("GPU-1::2",), held=busy) == ["GPU-1::2", "GPU-1::0"]
    assert together(2, "GPU-0::0", "GPU-1::2", "GPU-1::3", must=("GPU-1::2",)) == ["GPU-1::2", "GPU-1::3"]


def test_a_gpu_that_has_enough_without_draining_shares_comes_before_one_that_has_not() -> None:
    """However unused that is; where only draining and fenced ones make it enough they are taken, of one GPU."""
    assert together(3, *ALL[4:], held=("GPU-1::0",)) == ["GPU-1::0", "GPU-1::1", "GPU-1::2"]
    assert together(3, *ALL[8:], "GPU-0::0") == ["GPU-2::0", "GPU-2::1", "GPU-2::2"]
    assert together(1, "GPU-2::2", "GPU-1::3", "GPU-0::3", held=ALL[:3]) == ["GPU-0::3"]


def test_where_no_gpu_has_enough_the_request_is_left_to_be_refused() -> None:
    """As many as were asked for, of as few GPUs as possible: Allocate has the words for it."""
    found = together(6, *ALL)
    assert len(set(found)) == 6
    assert len({share.partition("::")[0] for share in found}) == 2


CONTRACTS = [make.SLICED, make.under_mps(most=4, resource=make.SHARED)]


@given(
    st.tuples(*[st.sampled_from(CONTRACTS)] * 3),
    st.sets(st.sampled_from(ALL), min_size=1),
    st.sets(st.sampled_from(ALL)),
    st.data(),
)
def test_under_mps_as_few_gpus_as_possible_are_chosen(
    contracts: tuple[Contract, ...], available: set[str], held: set[str], data: st.DataObject
) -> None:
    """One where one has enough, beside what must be included; the order of the question changes nothing."""
    have = make.applied(*(make.entry(index, one, range(4)) for index, one in enumerate(contracts)))
    size = data.draw(st.integers(1, len(available)))
    must = data.draw(st.lists(st.sampled_from(sorted(available)), unique=True, max_size=min(size, 1)))
    told = offer(have, make.SHARED, None, *((make.SHARED, share) for share in sorted(held)))
    (found,) = prefer(told, [PreferenceRequest(sorted(available), must, size)])
    assert len(found) == len(set(found)) == size
    assert set(must) <= set(found) <= available
    assert prefer(told, [PreferenceRequest(sorted(available, reverse=True), must, size)]) == [found]
    if CONTRACTS[1] not in contracts:
        return
    gpus = {share.partition("::")[0] for share in found}
    enough = {uuid for uuid in map(make.uuid_of, range(3)) if sum(one.startswith(uuid) for one in available) >= size}
    begun = {share.partition("::")[0] for share in must}
    if enough & begun if begun else enough:
        assert len(gpus) == 1


@given(st.integers(1, 60_000), st.integers(1, 100), st.integers(1, 48))
def test_no_client_gets_more_than_its_daemon_allows(memory: int, threads: int, most: int) -> None:
    """A container's own limits reach what its daemon was started for, and never go beyond it."""
    contract = make.under_mps(memory, threads, most)
    have = make.applied(make.entry(0, contract, range(48)))
    ids = [f"GPU-0::{number}" for number in range(48)]
    envs = client(have, *ids[:most]).envs
    assert contract.limits is not None
    allowed = contract.limits.times(most)
    told = envs["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"], envs["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]
    assert told == (f"0={allowed[0]}M", str(allowed[1]))
    assert 1 <= allowed[1] <= 100
    if most < len(ids):
        assert refusal(have, *ids[: most + 1])[0] is RefusalReason.TOO_MANY


def packed(rule: Rule) -> Rule:
    """The rule, with shares that are packed."""
    return replace(rule, placement=Placement.PACKED)


def placed(have: Applied, resource: str, *held: tuple[str, str], rules: Iterable[Rule] = ()) -> Offer:
    """What there is of one resource on a node with these rules."""
    desired = make.wanted((entry.gpu for entry in have.ordered()), *rules)
    return offers(have, [resource], Plan(), held, MpsStatus(), desired=desired)[resource]


THREE = make.applied(*(make.entry(index, make.SLICED, range(4)) for index in (2, 0, 1)))


def test_packed_shares_are_those_of_the_most_used_gpu() -> None:
    """It is filled before another one is begun; of equals the lowest index first."""
    busy = (make.SHARED, "GPU-1::2")
    available = tuple(share for share in ALL if share != "GPU-1::2")
    told = placed(THREE, make.SHARED, busy, rules=[packed(make.sliced(4))])
    assert prefer(told, ask(5, *available)) == [["GPU-1::0", "GPU-1::1", "GPU-1::3", "GPU-0::0", "GPU-0::1"]]
    assert prefer(placed(THREE, make.SHARED, rules=[packed(make.sliced(4))]), ask(1, *ALL)) == [["GPU-0::0"]]


def test_shares_are_packed_where_a_rule_says_so_and_nowhere_else() -> None:
    """By the resource that it is about; without a config they are distributed."""
    both = make.applied(make.entry(0, make.SLICED, range(4)), make.entry(1, make.QUARTER, range(4)))
    rules = [packed(make.sliced(4, 0)), make.mps(4, 1)]
    desired = make.wanted((entry.gpu for entry in both.ordered()), *rules)
    found = offers(both, [make.SHARED, make.MPS], Plan(), (), MpsStatus(), desired=desired)
    assert found[make.SHARED].placement is Placement.PACKED
    assert found[make.MPS].placement is Placement.DISTRIBUTED
    assert offer(both).placement is Placement.DISTRIBUTED


def test_under_mps_packed_shares_come_of_the_most_used_gpu_that_has_enough() -> None:
    """All of one GPU, as everywhere under MPS."""
    have = make.applied(*(make.entry(index, TWICE, range(4)) for index in range(3)))
    held = [(make.MPS, share) for share in ("GPU-1::0", "GPU-2::0", "GPU-2::1", "GPU-2::3")]
    told = placed(have, make.MPS, *held, rules=[packed(make.mps(4, most=2))])
    available = tuple(share for share in ALL if (make.MPS, share) not in held)
    assert prefer(told, ask(1, *available)) == [["GPU-2::2"]]
    assert prefer(told, ask(2, *available)) == [["GPU-1::1", "GPU-1::2"]]


def test_shares_of_a_gpu_that_is_not_well_come_last() -> None:
    """What the kubelet names may be older than the verdict; Allocate would refuse them."""
    ill = make.applied(
        make.entry(0, make.SLICED, range(4), health=GpuHealth.HANG), make.entry(1, make.SLICED, range(4))
    )
    held = [(make.SHARED, f"GPU-1::{number}") for number in range(3)]
    assert prefer(offer(ill, make.SHARED, None, *held), ask(1, "GPU-0::0", "GPU-1::3")) == [["GPU-1::3"]]
    assert prefer(offer(ill), ask(1, "GPU-0::0", "GPU-9::0")) == [["GPU-0::0"]]


def linked(*islands: Iterable[int]) -> Topology:
    """Whole GPUs that are linked within their islands."""
    pairs = [combinations(sorted(make.uuid_of(index) for index in island), 2) for island in islands]
    return Topology({pair: 100 for island in pairs for pair in island})


EIGHT = make.applied(*(make.entry(index, make.WHOLE, {0}) for index in range(8)))
WHOLE = "nvidia.com/gpu"


def whole(have: Applied, topology: Topology, plan: Plan | None = None) -> Offer:
    """What there is of whole GPUs that are so near to one another."""
    return offers(have, [WHOLE], plan or Plan(), (), MpsStatus(), topology=topology)[WHOLE]


def test_whole_gpus_are_those_nearest_to_one_another() -> None:
    """What must be included among them."""
    told = whole(EIGHT, linked((0, 2, 4, 6), (1, 3, 5, 7)))
    everything = [make.uuid_of(index) for index in range(8)]
    assert prefer(told, ask(4, *everything)) == [["GPU-0", "GPU-2", "GPU-4", "GPU-6"]]
    assert prefer(told, ask(4, *everything[1:])) == [["GPU-1", "GPU-3", "GPU-5", "GPU-7"]]
    assert prefer(told, ask(3, *everything, must=("GPU-5",))) == [["GPU-5", "GPU-1", "GPU-3"]]


def test_whole_gpus_on_their_way_out_come_last_however_near_they_are() -> None:
    """So do those that are not well."""
    have = make.applied(
        make.entry(0, make.WHOLE, {0}, {0: 5.0}),
        make.entry(1, make.WHOLE, {0}, health=GpuHealth.LOST),
        *(make.entry(index, make.WHOLE, {0}) for index in range(2, 8)),
    )
    plan = Plan(waits=(Wait("GPU-2", WaitReason.PODS, frozenset({0})),))
    told = whole(have, linked(range(4), range(4, 8)), plan)
    everything = [make.uuid_of(index) for index in range(8)]
    assert prefer(told, ask(2, *everything[:6])) == [["GPU-4", "GPU-5"]]
    assert prefer(told, ask(4, *everything[:6])) == [["GPU-3", "GPU-4", "GPU-5", "GPU-0"]]


def test_shares_are_not_chosen_by_distance() -> None:
    """It is whole GPUs that work together."""
    far = linked((0, 2))
    told = offers(THREE, [make.SHARED], Plan(), (), MpsStatus(), topology=far)[make.SHARED]
    assert prefer(told, ask(2, *ALL)) == [["GPU-0::0", "GPU-1::0"]]


SMALL = Contract("nvidia.com/mig-1g.10gb", Mode.EXCLUSIVE)
LARGE = Contract("nvidia.com/mig-3g.40gb", Mode.EXCLUSIVE)


def of_mig(gpu: Gpu, contract: Contract, numbers: Iterable[int] = (0,)) -> AppliedGpu:
    """What is applied of a MIG device."""
    return AppliedGpu(gpu, contract, frozenset(numbers))


PARTS = make.applied(
    *(of_mig(make.mig(index, instance), SMALL) for index in (1, 0) for instance in (9, 7, 8)),
    of_mig(make.mig(0, 1, "3g.40gb"), LARGE),
)
SMALLS = tuple(f"MIG-{index}-{instance}" for index in (0, 1) for instance in (7, 8, 9))


def test_mig_devices_are_spread_over_their_gpus() -> None:
    """By how many MIG devices of each are held, whatever their profile; then in the order of their instances."""
    told = placed(PARTS, SMALL.resource)
    assert prefer(told, ask(3, *SMALLS)) == [["MIG-0-7", "MIG-1-7", "MIG-0-8"]]
    busy = placed(PARTS, SMALL.resource, (LARGE.resource, "MIG-0-1"), (SMALL.resource, "MIG-0-7"))
    assert prefer(busy, ask(3, *SMALLS[1:])) == [["MIG-1-7", "MIG-1-8", "MIG-0-8"]]


def test_packed_mig_devices_fill_a_gpu_before_the_next() -> None:
    """The one of which most MIG devices are held."""
    rules = [packed(Rule("parts", make.sliced(1).match, SMALL, 1))]
    rules = [replace(rule, match=replace(rule.match, mig=("*",))) for rule in rules]
    busy = placed(PARTS, SMALL.resource, (SMALL.resource, "MIG-1-8"), rules=rules)
    available = tuple(share for share in SMALLS if share != "MIG-1-8")
    assert prefer(busy, ask(3, *available)) == [["MIG-1-7", "MIG-1-9", "MIG-0-7"]]


def test_a_mig_device_that_was_just_granted_counts_for_those_of_other_profiles() -> None:
    """They share a GPU; one that was held already does not count again."""
    found = offers(PARTS, [SMALL.resource, LARGE.resource], Plan(), (), MpsStatus())
    after = granted(found, LARGE.resource, [["MIG-0-1"]])
    assert prefer(after[SMALL.resource], ask(1, *SMALLS)) == [["MIG-1-7"]]
    assert granted(after, LARGE.resource, [["MIG-0-1"]])[SMALL.resource].used["GPU-0"] == 1


def test_shares_of_mig_devices_are_spread_by_the_use_of_each_device() -> None:
    """As those of GPUs are; ties in the order of the instances."""
    sliced = make.applied(*(of_mig(make.mig(index, instance), make.SLICED, range(2)) for index, instance in POSITIONS))
    available = [f"MIG-{index}-{instance}::{number}" for index, instance in POSITIONS for number in range(2)]
    assert prefer(placed(sliced, make.SHARED), ask(4, *available)) == [
        ["MIG-0-7::0", "MIG-0-10::0", "MIG-1-7::0", "MIG-0-7::1"]
    ]
    busy = placed(sliced, make.SHARED, (make.SHARED, "MIG-0-7::0"), (make.SHARED, "MIG-0-10::1"))
    assert prefer(busy, ask(1, *available)) == [["MIG-1-7::0"]]


POSITIONS = [(1, 7), (0, 10), (0, 7)]


def test_a_container_sees_its_mig_devices_in_the_order_of_their_places() -> None:
    """By GPU, then by instance, as numbers."""
    have = make.applied(*(of_mig(make.mig(index, instance), SMALL) for index, instance in POSITIONS))
    (grant,) = allocate(offer(have, SMALL.resource), [["MIG-1-7", "MIG-0-10", "MIG-0-7"]])
    assert grant.envs == {VISIBLE_DEVICES: "MIG-0-7,MIG-0-10,MIG-1-7"}


def test_a_refusal_names_mig_devices_as_what_they_are() -> None:
    """Not as the GPU that they are a part of."""
    lost = replace(make.mig(2, 7), health=GpuHealth.LOST, message="the driver no longer lists it")
    have = make.applied(of_mig(lost, SMALL))
    with pytest.raises(Refused) as refused:
        allocate(offer(have, SMALL.resource), [["MIG-2-7"]])
    assert str(refused.value) == "cannot allocate MIG-2-7: MIG device 2:7 is lost: the driver no longer lists it"


NODES = [
    (EIGHT, WHOLE),
    (PARTS, SMALL.resource),
    (make.applied(*(make.entry(index, make.SLICED, range(3)) for index in range(4))), make.SHARED),
    (make.applied(*(make.entry(index, TWICE, range(3)) for index in range(4))), make.MPS),
]


@given(st.sampled_from(NODES), st.sampled_from(Placement), st.lists(st.integers(0, 28), unique=True), st.data())
def test_a_preference_is_right_whatever_is_shared_and_however(
    node: tuple[Applied, str], placement: Placement, links: list[int], data: st.DataObject
) -> None:
    """As many as asked for, all that must be and none that is not available, the same whatever the order of the
    question; and none that is on its way out while there are enough others.
    """
    have, resource = node
    shares = [
        share
        for entry in have.ordered()
        if entry.contract is not None and entry.contract.resource == resource
        for share in entry.ids(entry.numbers)
    ]
    pairs = list(combinations((make.uuid_of(index) for index in range(8)), 2))
    held = data.draw(st.sets(st.sampled_from(shares)))
    leaving = data.draw(st.frozensets(st.sampled_from(shares)))
    told = replace(
        placed(have, resource, *((resource, share) for share in sorted(held))),
        topology=Topology({pairs[link % len(pairs)]: 100 for link in links}),
        placement=placement,
        avoid=leaving,
    )
    available = data.draw(st.lists(st.sampled_from(shares), unique=True, min_size=1))
    must = data.draw(st.lists(st.sampled_from(available), unique=True, max_size=2))
    size = data.draw(st.integers(len(must), len(available)))

    (found,) = prefer(told, [PreferenceRequest(available, must, size)])

    assert len(found) == len(set(found)) == size
    assert found[: len(must)] == must
    assert set(found) <= set(available)
    good = [share for share in available if share not in leaving and share not in must]
    if size - len(must) <= len(good) and not told.together:
        assert leaving.isdisjoint(found[len(must) :])
    assert prefer(told, [PreferenceRequest(sorted(available), must, size)]) == [found]
    (mirrored,) = prefer(told, [PreferenceRequest(available[::-1], must[::-1], size)])
    assert set(mirrored) == set(found)
