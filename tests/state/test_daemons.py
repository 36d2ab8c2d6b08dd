"""MPS daemons as the planner sees them: which there must be, which can be relied on, what is wrong with the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.inventory import ComputeMode, Inventory, InventoryReason
from nodeagent.model.mps import DaemonState, GpuMeans, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.daemons import (
    coming,
    daemons,
    fault,
    left_over,
    lingering,
    missing,
    orphans,
    troubles,
    unready,
    verified,
    wished,
)
from tests.state import make

UNDER = make.entry(0, make.QUARTER, range(4))
STARTED = make.entry(1, make.QUARTER)
FREE = make.entry(2)
ALL = frozenset({"GPU-0", "GPU-1", "GPU-2", "GPU-3"})
NODE = make.applied(UNDER, STARTED, FREE, make.entry(3, make.SLICED, range(2)))
FAILED = make.daemon(0, state=DaemonState.FAILED, message="it has ended")
PENDING = MpsStatus(MpsReason.PENDING, "nothing is known yet")
STATES = [state for state in DaemonState if state is not DaemonState.READY]


def test_there_is_a_daemon_for_each_gpu_whose_contract_is_of_mps() -> None:
    """From the contract on, before any share is on the list, until the contract ends; for no other GPU."""
    assert daemons(NODE, {}) == {"GPU-0": make.QUARTER, "GPU-1": make.QUARTER}


def test_a_host_is_wanted_where_a_rule_asks_for_mps() -> None:
    """Before any GPU is under MPS, so that it can say what it can do; without a wish nobody is needed."""
    assert wished(make.wanted([make.gpu(0)], make.mps(4)))
    assert not wished(make.wanted([make.gpu(0)], make.whole()))
    assert not wished(None)


def test_a_daemon_goes_on_while_its_gpu_is_not_known() -> None:
    """What an earlier agent asked for counts until there is a GPU in the applied contract, which then decides."""
    before = {"GPU-1": make.HALF, "GPU-2": make.HALF, "GPU-7": make.HALF}
    assert daemons(NODE, before) == {"GPU-0": make.QUARTER, "GPU-1": make.QUARTER, "GPU-7": make.HALF}


@pytest.mark.parametrize(
    ("inventory", "kept"),
    [
        (make.inventory(make.gpu(0), make.gpu(8)), {"GPU-8"}),
        (make.inventory(make.gpu(0), complete=False), {"GPU-8", "GPU-9"}),
        (replace(make.inventory(make.gpu(0)), reason=InventoryReason.GPU_HANGS), {"GPU-8", "GPU-9"}),
        (Inventory(), {"GPU-8", "GPU-9"}),
        (Inventory(reason=InventoryReason.DRIVER_MISSING), {"GPU-8", "GPU-9"}),
    ],
    ids=["all is listed", "not all is listed", "one hangs", "nothing is listed yet", "no driver"],
)
def test_a_daemon_that_nothing_is_known_of_is_nobodys_when_its_gpu_is_gone(
    inventory: Inventory, kept: set[str]
) -> None:
    """Only a driver that has listed everything without a fault says so; a GPU that is applied is no orphan's."""
    before = {"GPU-0": make.QUARTER, "GPU-8": make.QUARTER, "GPU-9": make.QUARTER}
    assert orphans(before, NODE, inventory).keys() == kept


def test_only_a_ready_daemon_of_the_very_contract_is_relied_on() -> None:
    """Not one of other limits or another resource, nor one of another GPU; where none is needed none is asked for."""
    ready = make.host(make.daemon(0))
    assert verified(make.QUARTER, "GPU-0", ready)
    assert not verified(make.QUARTER, "GPU-1", ready)
    assert not verified(make.HALF, "GPU-0", ready)
    assert not verified(make.under_mps(most=2), "GPU-0", ready)
    assert not verified(make.under_mps(resource="example.com/other"), "GPU-0", ready)
    assert verified(make.SLICED, "GPU-0", MpsStatus())
    assert verified(make.QUARTER, "GPU-0", make.host(make.daemon(0, altered="1 %")))


@pytest.mark.parametrize("state", STATES)
def test_a_daemon_in_any_other_state_is_not_relied_on(state: DaemonState) -> None:
    """Whoever looks after it."""
    assert not verified(make.QUARTER, "GPU-0", make.host(make.daemon(0, state=state)))


@pytest.mark.parametrize("reason", [MpsReason.RUNNING, MpsReason.ABSENT, MpsReason.UNUSABLE])
def test_a_ready_daemon_is_relied_on_without_its_host(reason: MpsReason) -> None:
    """Daemons outlive the process that started them, and what is ready the agent has verified itself."""
    assert fault(UNDER, make.host(make.daemon(0), reason=reason), UNDER) == ""


@pytest.mark.parametrize(
    ("mps", "why"),
    [
        (make.host(FAILED), "it has ended"),
        (make.host(make.daemon(0, state=DaemonState.STARTING)), "starting"),
        (make.host(make.daemon(0, make.HALF)), f"it still serves {make.HALF}"),
        (make.host(make.daemon(0, make.HALF), reason=MpsReason.ABSENT, message="no host runs"), "no host runs"),
        (make.host(), "it has not been started yet"),
        (make.host(reason=MpsReason.ABSENT, message="no host runs"), "no host runs"),
        (MpsStatus(MpsReason.OFF, "this agent starts none"), "this agent starts none"),
    ],
    ids=["failed", "starting", "other limits", "other limits, no host", "none", "no host", "off"],
)
def test_shares_without_their_daemon_have_a_fault_that_says_why(mps: MpsStatus, why: str) -> None:
    """Whatever is the matter, in words for an operator."""
    assert fault(UNDER, mps, UNDER) == f"its MPS daemon is not ready: {why}"


@pytest.mark.parametrize("entry", [STARTED, FREE, make.entry(0, make.SLICED, range(2))], ids=["none", "free", "sliced"])
def test_a_gpu_without_shares_that_need_a_daemon_has_no_fault(entry: AppliedGpu) -> None:
    """Nothing is advertised that could be unhealthy."""
    assert fault(entry, make.host(), entry) == ""


def test_while_nothing_is_known_a_fault_stays_as_it_was() -> None:
    """An agent that starts changes nothing on the list before it knows better; of shares that were on no list it takes
    nothing for granted.
    """
    ill = replace(UNDER, fault="its MPS daemon is not ready: it has ended")
    assert fault(UNDER, PENDING, UNDER) == ""
    assert fault(ill, PENDING, ill) == ill.fault
    assert fault(UNDER, PENDING, None) == "its MPS daemon is not ready: nothing is known yet"
    assert fault(UNDER, PENDING, make.entry(0, make.QUARTER)) == "its MPS daemon is not ready: nothing is known yet"


@pytest.mark.parametrize("reason", [MpsReason.RUNNING, MpsReason.ABSENT, MpsReason.UNUSABLE, MpsReason.OFF])
def test_a_gpu_is_free_of_mps_when_nothing_is_told_of_a_daemon(reason: MpsReason) -> None:
    """In whatever state a daemon is, it is there, and so is the compute mode that it needed."""
    for state in DaemonState:
        told = make.host(make.daemon(0, state=state), reason=reason)
        assert lingering(make.SLICED, "GPU-0", told) == f"its MPS daemon has not left yet: {state.value}"
        assert lingering(make.WHOLE, "GPU-0", told)
        assert lingering(make.SLICED, "GPU-1", told) == ""


def test_while_nothing_is_known_of_mps_no_gpu_is_free_of_it() -> None:
    """An agent that has heard nothing yet waits for its host."""
    assert lingering(make.SLICED, "GPU-0", PENDING) == "nothing is known yet"
    assert lingering(make.SLICED, "GPU-0", MpsStatus(MpsReason.PENDING))


@pytest.mark.parametrize(
    ("mode", "whole", "sliced"),
    [
        (ComputeMode.EXCLUSIVE_PROCESS, "", "MPS has left it in the compute mode exclusive-process"),
        (None, "", "MPS has left it in a compute mode that cannot be read"),
        (
            ComputeMode.PROHIBITED,
            "its compute mode is prohibited, in which nothing computes",
            "its compute mode is prohibited, in which nothing computes",
        ),
    ],
    ids=["exclusive", "unreadable", "prohibited"],
)
def test_a_compute_mode_that_is_left_over_keeps_what_cannot_work_in_it_waiting(
    mode: ComputeMode | None, whole: str, sliced: str
) -> None:
    """A whole GPU has one process, or may have: it is offered. In one that is prohibited nothing is. How it is put back
    is told in any case.
    """
    mps = MpsStatus(MpsReason.ABSENT, "no MPS host runs", left_modes={"GPU-0": mode})
    how = ": put it back with `nvidia-smi -c 0 -i GPU-0`"
    assert lingering(make.WHOLE, "GPU-0", mps) == (f"{whole}{how}" if whole else "")
    assert lingering(make.SLICED, "GPU-0", mps) == f"{sliced}{how}"
    assert left_over("GPU-0", mps) == f"{sliced}{how}"
    assert lingering(make.SLICED, "GPU-1", mps) == left_over("GPU-1", mps) == ""
    for contract in (make.WHOLE, make.SLICED):  # nor does a GPU leave what it is for what cannot work in it
        assert missing(contract, make.gpu(0), mps) == lingering(contract, "GPU-0", mps)
        assert missing(contract, make.gpu(1), mps) == ""


ABLE = GpuMeans(memory=10000, clients=48)


@pytest.mark.parametrize(
    ("mps", "why"),
    [
        (MpsStatus(MpsReason.RUNNING, means={"GPU-0": ABLE}), ""),
        (MpsStatus(MpsReason.RUNNING, means={"GPU-0": GpuMeans()}), ""),
        (MpsStatus(MpsReason.RUNNING), ""),
        (MpsStatus(MpsReason.ABSENT, "no MPS host runs at /m"), "no MPS host runs at /m"),
        (MpsStatus(MpsReason.OFF, "this agent starts none"), "this agent starts none"),
        (MpsStatus(MpsReason.UNUSABLE, "cannot find the program"), "cannot find the program"),
        (MpsStatus(MpsReason.PENDING), "the MPS host: Pending"),
        (MpsStatus(MpsReason.RUNNING, means={}), "the MPS host has not said yet what it can do with this GPU"),
        (MpsStatus(MpsReason.RUNNING, means={"GPU-0": GpuMeans("cannot list processes")}), "cannot list processes"),
        (
            MpsStatus(MpsReason.RUNNING, means={"GPU-0": replace(ABLE, memory=10)}),
            "the MPS host sees 10 MiB of memory, and one share has 9216 MiB",
        ),
    ],
    ids=["able", "unsized", "older", "absent", "off", "unusable", "pending", "unsaid", "unable", "small"],
)
def test_a_daemon_can_be_had_where_its_host_has_said_so(mps: MpsStatus, why: str) -> None:
    """What is needed is verified before anything is given up for it. A host of an older version says nothing of what it
    can do, and is taken at its being there; a contract that needs no daemon needs no host.
    """
    assert missing(make.QUARTER, make.gpu(0), mps) == why
    assert missing(make.SLICED, make.gpu(0), mps) == missing(make.WHOLE, make.gpu(0), mps) == ""


@pytest.mark.parametrize(
    ("daemon", "state", "message"),
    [
        (FAILED, DaemonState.FAILED, "it has ended"),
        (
            make.daemon(0, state=DaemonState.OCCUPIED, message="held by process 7"),
            DaemonState.OCCUPIED,
            "held by process 7",
        ),
        (make.daemon(0, make.HALF), DaemonState.STARTING, f"it still serves {make.HALF}"),
        (make.daemon(0, altered="1 %"), DaemonState.READY, "a client has changed the limits: 1 %"),
    ],
    ids=["failed", "occupied", "other limits", "altered"],
)
def test_what_is_wrong_with_a_daemon_is_told(daemon: MpsDaemon, state: DaemonState, message: str) -> None:
    """With its own state, but that one of another contract is one that is still to start."""
    (found,) = troubles(make.applied(UNDER), make.host(daemon))
    assert (found.entry, found.state, found.message) == (UNDER, state, message)


def test_troubles_come_in_the_order_of_the_gpus() -> None:
    """Daemons that are missing, and those that nobody wants; GPUs that have nothing to do with MPS are not named."""
    told = make.host(FAILED, make.daemon(2), make.daemon(9))
    assert [(one.entry.gpu.index, one.state, one.message) for one in troubles(NODE, told)] == [
        (0, DaemonState.FAILED, "it has ended"),
        (1, DaemonState.STARTING, "it has not been started yet"),
        (2, DaemonState.STOPPING, "stopping"),
    ]
    assert troubles(NODE, make.host(make.daemon(0), make.daemon(1))) == []


def test_what_a_plan_waits_for_of_daemons_is_told() -> None:
    """Of the GPUs that wait, by index; troubles that hold up nothing are left out."""
    plan = Plan(
        waits=(Wait("GPU-2", WaitReason.DAEMON), Wait("GPU-1", WaitReason.DAEMON), Wait("GPU-0", WaitReason.PODS))
    )
    assert unready(plan, NODE, make.host(FAILED, make.daemon(2)), ALL) == (
        "GPU 1: its MPS daemon is not as it should be: it has not been started yet; "
        "GPU 2: its MPS daemon is not as it should be: stopping"
    )
    assert unready(Plan(), NODE, make.host(FAILED), ALL) == ""
    told = unready(plan, NODE, make.host(FAILED, make.daemon(2)), {"GPU-0", "GPU-2"})
    assert told == "GPU 2: its MPS daemon is not as it should be: stopping", "of other GPUs nothing is told"


def test_a_plan_that_waits_to_know_of_mps_says_so() -> None:
    """A GPU that is to have no daemon waits too, while nobody has said that it is free of one."""
    plan = Plan(waits=(Wait("GPU-2", WaitReason.DAEMON, frozenset({0}), "it lingers"),))
    assert unready(plan, NODE, PENDING, ALL) == "GPU 2: it lingers"
    silent = Plan(waits=(Wait("GPU-2", WaitReason.DAEMON, frozenset({0})),))
    assert unready(silent, NODE, PENDING, ALL) == "GPU 2: nothing is known yet"
    assert unready(silent, NODE, MpsStatus(MpsReason.PENDING), ALL) == "GPU 2: Pending"


@pytest.mark.parametrize(
    ("reason", "soon"),
    [(None, True), (WaitReason.KUBELET, True), (WaitReason.FRESH_LIST, True)]
    + [(reason, False) for reason in WaitReason if reason not in {WaitReason.KUBELET, WaitReason.FRESH_LIST}],
)
def test_a_gpu_comes_under_mps_soon_when_only_the_kubelet_is_waited_for(reason: WaitReason | None, soon: bool) -> None:
    """A reload is told when such a GPU has its daemon; one that waits for pods, or for its daemon itself, is another
    matter, and so is one that has its contract already.
    """
    wanted = make.wanted([make.gpu(0), make.gpu(3)], make.mps(4))
    plan = Plan(waits=(Wait("GPU-3", reason),) if reason is not None else ())
    under = make.entry(0, wanted.wants["GPU-0"].contract, range(4))
    node = make.applied(under, make.entry(3, make.SLICED, range(2)))
    assert coming(wanted, plan, node, ALL) is soon
    assert not coming(wanted, plan, make.applied(under, replace(under, gpu=make.gpu(3))), ALL)
    assert not coming(None, plan, node, ALL)
    assert not coming(wanted, plan, node, {"GPU-0"}), "of other GPUs nothing is told"


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ((), True),
        ((WaitReason.KUBELET,), True),
        ((WaitReason.FRESH_LIST,), True),
        ((WaitReason.PODS,), False),
        ((WaitReason.PODS, WaitReason.KUBELET), False),
        ((WaitReason.POD_RESOURCES,), False),
        ((WaitReason.RESTART,), False),
    ],
    ids=str,
)
def test_a_gpu_comes_under_mps_soon_where_only_the_kubelet_is_waited_for(
    reasons: tuple[WaitReason, ...], expected: bool
) -> None:
    """Of pods nobody knows how long they stay; what another GPU waits for does not matter."""
    have = make.applied(make.entry(0, make.SLICED, range(2)), make.entry(1, make.SLICED, range(2)))
    wish = make.wanted([make.gpu(0), make.gpu(1)], make.mps(2, 0), make.sliced(2))
    other = Wait("GPU-1", WaitReason.PODS)
    plan = Plan(waits=(*(Wait("GPU-0", reason) for reason in reasons), other))
    assert coming(wish, plan, have, ALL) is expected


def test_a_gpu_that_is_under_the_wanted_contract_is_not_coming() -> None:
    """From then on its daemon is waited for; nor is one whose other limits, or other mode, nobody wants."""
    under = make.wanted([make.gpu(1)], make.mps(2))
    assert not coming(under, Plan(), make.applied(STARTED), ALL)
    assert coming(make.wanted([make.gpu(1)], make.mps(2, memory=18432, threads=50)), Plan(), make.applied(STARTED), ALL)
    assert coming(under, Plan(), make.applied(), ALL)
    assert not coming(make.wanted([make.gpu(1)], make.whole()), Plan(), make.applied(STARTED), ALL)
    assert not coming(None, Plan(), make.applied(STARTED), ALL)
