"""Conditions and summaries: the one place that computes them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.config import Stage, Violation, Where
from nodeagent.model.health import EventsReason, XidLog
from nodeagent.model.inventory import ComputeMode, GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import (
    Obstacle,
    PodResourcesReason,
    PodResourcesStatus,
    RegistrationState,
    RegistrationStatus,
    SharedTwice,
)
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.plan import Plan, Refusal, Wait, WaitReason
from nodeagent.model.shares import AppliedGpu, ShareState
from nodeagent.model.snapshot import Condition, ConfigState, DocumentInfo, GpuStatus
from nodeagent.state.overview import draining_since, gpu_statuses, resource_statuses
from nodeagent.state.status import Facts, Reason, conditions
from tests.state import make

GOOD = DocumentInfo("c", "sha", "blob", None, "test", 1)
LIVE = RegistrationStatus(make.SHARED, RegistrationState.LIVE)
HAVE = make.applied(make.entry(0, make.SLICED, range(6), {4: 1.0, 5: 1.0}), make.entry(1))
WELL = Facts(
    now=1000.0,
    config=ConfigState("c", newest=GOOD, desired=GOOD),
    inventory=make.inventory(make.gpu(0), make.gpu(1)),
    applied=HAVE,
    registrations=(LIVE,),
    pods=make.listed(make.look(1.0)),
    transition_timeout=60.0,
    xids=XidLog(EventsReason.WATCHING, ""),
)
DRAINS = Plan(waits=(Wait("GPU-0", WaitReason.PODS, frozenset({2, 3})),))
NORMAL_TRUE = {
    "Ready",
    "ConfigAccepted",
    "ConfigFollowed",
    "InventoryReady",
    "Registered",
    "PodResourcesReady",
    "StateDirWritable",
    "MpsReady",
    "HealthWatched",
    "LabelsSynced",
    "HandOverReady",
}


def condition(facts: Facts, type_: str) -> Condition:
    """One of the conditions."""
    return next(one for one in conditions(facts, ()) if one.type == type_)


def violation(stage: Stage) -> Violation:
    """Something that is wrong with line 3."""
    return Violation("c", Where("spec", 3, 5), "expected x", stage)


def test_all_is_well() -> None:
    """Normal-true conditions are true, the others false; each is there exactly once, with a known reason."""
    found = conditions(WELL, ())
    assert {one.type for one in found if one.status} == NORMAL_TRUE
    assert len({one.type for one in found}) == len(found) == 18
    assert all(one.reason in set(Reason) for one in found)


@pytest.mark.parametrize(
    ("type_", "facts", "reason"),
    [
        ("Ready", replace(WELL, config=ConfigState("c", newest=GOOD)), Reason.NOTHING_ACCEPTED),
        ("Ready", replace(WELL, inventory=Inventory()), Reason.NO_GPUS),
        ("Ready", replace(WELL, inventory=Inventory(reason=InventoryReason.DRIVER_MISSING)), Reason.NO_GPUS),
        (
            "Ready",
            replace(WELL, registrations=(RegistrationStatus("a", RegistrationState.PENDING),)),
            Reason.NOT_REGISTERED,
        ),
        ("ConfigAccepted", replace(WELL, looked=False), Reason.PENDING),
        ("ConfigAccepted", replace(WELL, config=ConfigState("c"), missing=True), Reason.MISSING),
        ("ConfigAccepted", replace(WELL, config=ConfigState("c")), Reason.UNREADABLE),
        ("InventoryReady", replace(WELL, inventory=Inventory(reason=InventoryReason.GPU_HANGS)), Reason.GPU_HANGS),
        (
            "InventoryReady",
            replace(WELL, applied=make.applied(make.entry(0, health=GpuHealth.LOST))),
            Reason.GPU_LOST,
        ),
        ("PodResourcesReady", replace(WELL, pods=make.unreadable()), Reason.TIMEOUT),
        ("StateDirWritable", replace(WELL, disk_problem="disk full"), Reason.WRITE_FAILED),
    ],
)
def test_what_is_wrong_is_told_by_its_condition(type_: str, facts: Facts, reason: Reason) -> None:
    """Each fault turns its own condition false, with its reason."""
    found = condition(facts, type_)
    assert (found.status, found.reason) == (False, reason)


def test_gpus_that_the_driver_calls_otherwise_are_named() -> None:
    """With the driver's numbers; a lost one has none, a MIG device those of its GPU. While the driver does not answer
    the condition stays; it ends when the numbers agree.
    """
    moved = replace(make.gpu(1), driver_index=0)
    part = replace(make.mig(1, 7), driver_index=0)
    entries = [make.entry(0, health=GpuHealth.LOST), AppliedGpu(moved), AppliedGpu(part), make.entry(2)]
    facts = replace(WELL, applied=make.applied(*entries))
    found = condition(facts, "GpusRenumbered")
    assert (found.status, found.reason) == (True, Reason.NUMBERS_DIFFER)
    assert found.message == (
        "the driver, and nvidia-smi, count the GPUs otherwise than rules and messages: GPU 1 has index 0 there"
    )
    silent = replace(WELL, inventory=replace(WELL.inventory, complete=False), applied=make.applied(make.entry(1)))
    assert next(one for one in conditions(silent, [found]) if one.type == "GpusRenumbered") == found
    (after,) = (one for one in conditions(WELL, [found]) if one.type == "GpusRenumbered")
    assert (after.status, after.reason, after.message) == (False, Reason.NUMBERS_AGREE, "")


def test_what_the_driver_says_of_a_gpu_is_told_by_its_name_here() -> None:
    """Drivers name GPUs by uuid, since their numbers may be others; one without a name is the driver's."""
    message = "GPU-1: no answer; the driver's GPU 3: no answer"
    inventory = Inventory(reason=InventoryReason.GPU_HANGS, message=message)
    facts = replace(WELL, inventory=inventory, applied=make.applied(make.entry(1)), xids=XidLog(message=message))
    for type_ in ("InventoryReady", "HealthWatched"):
        assert condition(facts, type_).message == "GPU 1 (GPU-1): no answer; the driver's GPU 3: no answer"


@pytest.mark.parametrize("reason", list(InventoryReason))
def test_every_reason_of_an_inventory_has_a_condition(reason: InventoryReason) -> None:
    """Whatever a driver says can be told."""
    assert condition(replace(WELL, inventory=Inventory(reason=reason)), "InventoryReady").reason == reason.value


@pytest.mark.parametrize("reason", list(PodResourcesReason))
def test_every_reason_of_pod_resources_has_a_condition(reason: PodResourcesReason) -> None:
    """Whatever became of a look can be told."""
    assert condition(replace(WELL, pods=PodResourcesStatus(reason)), "PodResourcesReady").reason == reason.value


@pytest.mark.parametrize(
    ("stage", "reason"),
    [
        (Stage.READ, Reason.UNREADABLE),
        (Stage.PARSE, Reason.PARSE_ERROR),
        (Stage.SCHEMA, Reason.SCHEMA_ERROR),
        (Stage.SEMANTIC, Reason.SEMANTIC_ERROR),
    ],
)
def test_a_rejected_document_is_told_with_its_first_fault(stage: Stage, reason: Reason) -> None:
    """With file, line and column, and how many more there are; readiness is another matter."""
    config = replace(WELL.config, violations=(violation(stage), violation(stage), violation(stage)))
    found = condition(replace(WELL, config=config), "ConfigAccepted")
    assert (found.status, found.reason) == (False, reason)
    assert found.message == "c:3:5: spec: expected x (and 2 more)"
    assert condition(replace(WELL, config=config), "Ready").status


def test_another_plugin_beside_ours_is_told() -> None:
    """Our stream is open, and the kubelet shows ids that are not ours: it does not follow us alone."""
    live = (RegistrationStatus("r", RegistrationState.LIVE),)
    found = condition(replace(WELL, registrations=live, foreign={"r": 2}), "Registered")
    assert (found.status, found.reason) == (False, Reason.FOREIGN_PLUGIN)
    assert found.message == "another plugin has registered r too: the kubelet shows 2 ids of it that are not ours"


@pytest.mark.parametrize(
    ("states", "reason"),
    [
        ([RegistrationState.BACKOFF, RegistrationState.FOREIGN, RegistrationState.ABSENT], Reason.FOREIGN_PLUGIN),
        ([RegistrationState.PENDING, RegistrationState.ABSENT], Reason.KUBELET_ABSENT),
        ([RegistrationState.LIVE, RegistrationState.BACKOFF], Reason.PENDING),
        ([RegistrationState.LIVE], Reason.ALL_REGISTERED),
        ([], Reason.ALL_REGISTERED),
    ],
)
def test_the_worst_registration_gives_the_reason(states: list[RegistrationState], reason: Reason) -> None:
    """Another plugin before an absent kubelet before one that is awaited; all of them are in the message."""
    statuses = tuple(RegistrationStatus(f"r{number}", state) for number, state in enumerate(states))
    found = condition(replace(WELL, registrations=statuses), "Registered")
    assert found.reason == reason
    assert all((one.resource in found.message) is (one.state is not RegistrationState.LIVE) for one in statuses)


@pytest.mark.parametrize(
    ("obstacles", "reason"),
    [
        ([None, Obstacle.DENIED], Reason.ACCESS_DENIED),
        ([Obstacle.UNWRITABLE, Obstacle.DENIED], Reason.ACCESS_DENIED),
        ([Obstacle.UNWRITABLE, None], Reason.DIRECTORY_UNWRITABLE),
    ],
)
def test_what_has_to_be_taken_away_is_the_reason(obstacles: list[Obstacle | None], reason: Reason) -> None:
    """A kubelet that may not be spoken to is not one that is away, nor is a directory that cannot be written."""
    statuses = tuple(
        RegistrationStatus(f"r{number}", RegistrationState.ABSENT, "why", obstacle=obstacle)
        for number, obstacle in enumerate(obstacles)
    )
    assert condition(replace(WELL, registrations=statuses), "Registered").reason is reason


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        (PodResourcesStatus(PodResourcesReason.KUBELET_ABSENT, "no kubelet.sock"), Reason.KUBELET_ABSENT),
        (PodResourcesStatus(PodResourcesReason.ACCESS_DENIED, "denied"), Reason.ACCESS_DENIED),
        (make.unreadable(), Reason.PENDING),
    ],
    ids=["no kubelet", "denied", "not known who has what"],
)
def test_nothing_registered_is_not_all_registered(pods: PodResourcesStatus, reason: Reason) -> None:
    """While nothing is advertised of what the config wants, the node is not ready, and it is said what is waited
    for.
    """
    facts = replace(WELL, registrations=(), desired=make.wanted((make.gpu(0),), make.sliced(2)), pods=pods)
    assert condition(facts, "Registered").reason is reason
    assert not condition(facts, "Ready").status
    assert condition(replace(facts, desired=None), "Registered").status


@pytest.mark.parametrize(
    ("mps", "wait", "daemons", "status"),
    [
        (MpsReason.ABSENT, "no host runs", {}, True),
        (MpsReason.PENDING, "not looked for yet", {}, False),
        (MpsReason.RUNNING, "not said yet", {}, False),
        (MpsReason.RUNNING, "", {"GPU-0": DaemonState.FAILED}, True),
        (MpsReason.RUNNING, "", {"GPU-0": DaemonState.STARTING}, False),
        (MpsReason.RUNNING, "not left yet", {"GPU-0": DaemonState.STOPPING}, False),
        (MpsReason.RUNNING, None, {}, False),
    ],
    ids=[
        "no host",
        "not known",
        "not known of this GPU",
        "a daemon fails",
        "a daemon starts",
        "a daemon stops",
        "something else",
    ],
)
def test_what_mps_holds_up_is_not_to_be_registered(
    mps: MpsReason, wait: str | None, daemons: dict[str, DaemonState], status: bool
) -> None:
    """Where MPS alone, of which `MpsReady` speaks, keeps all GPUs from offering anything, the agent is as ready as it
    will be: its readiness is no reason to stop a rollout, or to restart it. A daemon that starts is waited for.
    """
    waits = (Wait("GPU-0", WaitReason.DAEMON, detail=wait),) if wait is not None else ()
    there = {uuid: MpsDaemon(uuid, make.QUARTER, state) for uuid, state in daemons.items()}
    wanted = make.wanted((make.gpu(0), make.gpu(1)), make.mps(4, 0), make.withheld(1))
    told = MpsStatus(mps, daemons=there, means={})
    facts = replace(WELL, registrations=(), desired=wanted, mps=told, plan=Plan(waits=waits))
    assert condition(facts, "Registered").status is status
    assert condition(facts, "Ready").status is status


UNDER = make.applied(
    make.entry(0, make.QUARTER, range(4)), make.entry(1, make.QUARTER, range(4)), make.entry(2, make.SLICED, range(2))
)
BOTH = (make.daemon(0), make.daemon(1))


def mps_ready(mps: MpsStatus, *waits: Wait) -> tuple[bool, str, str]:
    """What is said of the daemons of GPUs 0 and 1."""
    found = condition(replace(WELL, applied=UNDER, mps=mps, plan=Plan(waits=waits)), "MpsReady")
    return found.status, found.reason, found.message


def test_daemons_are_ready_when_all_of_them_are() -> None:
    """Those that must run, and no other."""
    assert mps_ready(make.host(*BOTH)) == (True, Reason.DAEMONS_READY, "under MPS: GPUs 0-1")


@pytest.mark.parametrize("reason", list(MpsReason))
def test_a_node_without_mps_is_ready_whatever_becomes_of_its_host(reason: MpsReason) -> None:
    """Nobody is to be alarmed for what nobody uses."""
    found = condition(replace(WELL, mps=make.host(reason=reason)), "MpsReady")
    assert (found.status, found.reason, found.message) == (True, Reason.IDLE, "no GPU is under MPS")


@pytest.mark.parametrize("reason", [one for one in MpsReason if one is not MpsReason.RUNNING])
def test_without_a_host_mps_is_not_ready(reason: MpsReason) -> None:
    """Though every daemon is well: nobody looks after them. The GPUs are named, with what is known of the host."""
    told = mps_ready(make.host(*BOTH, reason=reason, message="told by the host"))
    assert told == (False, reason.value, "GPUs 0-1: told by the host")
    leaving = make.host(*BOTH, make.daemon(2), reason=reason, message="told by the host")
    assert mps_ready(leaving)[2] == "GPUs 0-2: told by the host"


def test_a_node_that_waits_to_know_of_mps_is_not_idle() -> None:
    """No GPU gets its first share before it is known to be free of MPS."""
    facts = replace(
        WELL,
        mps=MpsStatus(MpsReason.PENDING, "nothing is known yet"),
        plan=Plan(waits=(Wait("GPU-1", WaitReason.DAEMON, frozenset({0})),)),
    )
    found = condition(facts, "MpsReady")
    assert (found.status, found.reason, found.message) == (False, Reason.PENDING, "GPU 1: nothing is known yet")


def test_a_gpu_that_cannot_be_prepared_is_told() -> None:
    """It is to come under MPS, and has not: what it waits for is not the trouble of any daemon."""
    wait = Wait("GPU-2", WaitReason.DAEMON, frozenset({0}), "cannot list processes")
    assert mps_ready(make.host(*BOTH), wait) == (False, Reason.NOT_PREPARED, "GPU 2: cannot list processes")
    failed = make.host(make.daemon(0, state=DaemonState.FAILED, message="it has ended"), make.daemon(1))
    told = (False, Reason.DAEMON_FAILED, "GPU 0: it has ended; GPU 2: cannot list processes")
    assert mps_ready(failed, wait) == told
    absent = make.host(*BOTH, reason=MpsReason.ABSENT, message="no host")
    assert mps_ready(absent, wait) == (False, Reason.HOST_ABSENT, "GPUs 0-2: no host")


def test_a_compute_mode_that_mps_has_left_is_told() -> None:
    """Also where the GPU is offered, and with how to put it back; a missing host that is wanted comes first."""
    left = MpsStatus(MpsReason.ABSENT, "no host", left_modes={"GPU-2": ComputeMode.EXCLUSIVE_PROCESS})
    how = "GPU 2: MPS has left it in the compute mode exclusive-process: put it back with `nvidia-smi -c 0 -i GPU-2`"
    waits = Wait("GPU-2", WaitReason.DAEMON, frozenset({0}), how.removeprefix("GPU 2: "))
    free = make.applied(make.entry(2))
    for plan in (Plan(), Plan(waits=(waits,))):
        found = condition(replace(WELL, applied=free, mps=left, plan=plan), "MpsReady")
        assert (found.status, found.reason, found.message) == (False, Reason.COMPUTE_MODE_LEFT, how)
    assert mps_ready(left, waits) == (False, Reason.HOST_ABSENT, f"GPUs 0-1: no host; {how}")


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (DaemonState.FAILED, Reason.DAEMON_FAILED),
        (DaemonState.OCCUPIED, Reason.OCCUPIED),
        (DaemonState.STARTING, Reason.STARTING),
    ],
)
def test_a_daemon_that_is_not_ready_gives_the_reason(state: DaemonState, reason: Reason) -> None:
    """With its GPU and its own words."""
    told = make.host(make.daemon(0), make.daemon(1, state=state, message="held by process 7 (python)"))
    assert mps_ready(told) == (False, reason, "GPU 1: held by process 7 (python)")


def test_a_daemon_that_was_not_started_yet_is_starting() -> None:
    """As is one that still serves another contract."""
    assert mps_ready(make.host(make.daemon(0))) == (False, Reason.STARTING, "GPU 1: it has not been started yet")
    assert mps_ready(make.host(make.daemon(0), make.daemon(1, make.HALF)))[1] == Reason.STARTING


def test_a_daemon_that_is_left_over_is_told() -> None:
    """While it is there, or the compute mode that it needed."""
    left = make.daemon(2, state=DaemonState.STOPPING, message="cannot restore the compute mode")
    assert mps_ready(make.host(*BOTH, left)) == (False, Reason.STOPPING, "GPU 2: cannot restore the compute mode")


def test_limits_that_a_client_has_changed_are_told() -> None:
    """The daemon is relied on all the same: limits are cooperative, and on their way back."""
    altered = make.host(make.daemon(0, altered="100 % of the threads"), make.daemon(1))
    assert mps_ready(altered) == (
        False,
        Reason.LIMITS_ALTERED,
        "GPU 0: a client has changed the limits: 100 % of the threads",
    )


def test_the_worst_daemon_gives_the_reason() -> None:
    """Failed before occupied before starting before stopping before altered; all of them are in the message."""
    order = [DaemonState.FAILED, DaemonState.OCCUPIED, DaemonState.STARTING, DaemonState.READY]
    reasons = [Reason.DAEMON_FAILED, Reason.OCCUPIED, Reason.STARTING, Reason.STOPPING, Reason.LIMITS_ALTERED]
    left = make.daemon(2, state=DaemonState.STOPPING)
    altered = make.daemon(1, altered="1 %")
    found = [mps_ready(make.host(make.daemon(0, state=state), altered, left)) for state in order]
    found.append(mps_ready(make.host(make.daemon(0), altered)))
    assert [reason for _, reason, _ in found] == reasons
    assert all("GPU 1: a client has changed the limits: 1 %" in message for _, _, message in found)
    assert found[0][2].startswith("GPU 0: failed; GPU 1: ")
    assert found[0][2].endswith("; GPU 2: stopping")


def test_mps_that_is_not_ready_keeps_no_node_from_being_ready() -> None:
    """Other GPUs are served; what is wrong has a condition of its own."""
    facts = replace(WELL, applied=UNDER, mps=make.host(reason=MpsReason.ABSENT, message="no host runs"))
    assert condition(facts, "Ready").status
    assert {one.type for one in conditions(facts, ()) if not one.status} & NORMAL_TRUE == {"MpsReady"}


def test_a_drain_is_told_and_stalls_after_its_time() -> None:
    """Nothing is killed: Stalled only says so. What waits for the kubelet drains nothing."""
    drains = replace(WELL, plan=DRAINS, draining={"GPU-0": 950.0})
    assert condition(drains, "Draining").message == "2 held shares drain on GPU 0"
    one = Plan(waits=(Wait("GPU-0", WaitReason.PODS, frozenset({4})),))
    assert condition(replace(WELL, plan=one), "Draining").message == "1 held share drains on GPU 0"
    assert not condition(drains, "Stalled").status
    assert condition(replace(drains, now=1011.0), "Stalled").status
    assert condition(replace(drains, now=1011.0), "Ready").status
    leaves = Plan(waits=(Wait("GPU-0", WaitReason.KUBELET, frozenset({4})),))
    assert not condition(replace(WELL, plan=leaves), "Draining").status


def test_what_is_out_of_the_ordinary_is_told() -> None:
    """The last known good config in force; suspended."""
    config = replace(WELL.config, using_last_known_good=True, suspended=True)
    facts = replace(WELL, config=config)
    assert condition(facts, "ServingLastKnownGood").status
    assert condition(facts, "Suspended").status


def test_a_gpu_without_a_plan_is_reported_by_name() -> None:
    """With what its plan would break. The node is ready all the same: the others go on."""
    assert not condition(WELL, "PlanRefused").status
    facts = replace(WELL, plan=Plan(refused=(Refusal("GPU-0", "cannot drop shares"), Refusal("GPU-x", "broken"))))
    found = condition(facts, "PlanRefused")
    assert (found.status, found.reason) == (True, Reason.INVARIANT_BROKEN)
    assert found.message == "GPU 0 stays as it is: cannot drop shares; GPU-x stays as it is: broken"
    assert condition(facts, "Ready").status


def test_a_share_that_two_pods_have_is_told_with_both() -> None:
    """Each such share with its pods; it is nothing that a restart of the agent would help against."""
    twice = tuple(SharedTwice("a", f"GPU-0::{number}", (("ml", "old"), ("ml", "new"))) for number in (0, 1))
    found = condition(replace(WELL, shared_twice=twice), "SharedTwice")
    assert (found.status, found.reason) == (True, Reason.SEVERAL_PODS)
    assert found.message == "GPU-0::0 (a): ml/old and ml/new; GPU-0::1 (a): ml/old and ml/new"
    assert condition(replace(WELL, shared_twice=twice), "Ready").status


def test_a_condition_keeps_its_since_while_status_and_reason_stay() -> None:
    """A new message makes it no younger; another reason does."""
    full = replace(WELL, disk_problem="disk full")
    first = conditions(full, ())
    assert {one.since for one in first} == {1000.0}
    later = {one.type: one for one in conditions(replace(full, now=2000.0, disk_problem="still full"), first)}
    assert (later["StateDirWritable"].since, later["StateDirWritable"].message) == (1000.0, "still full")
    mended = {one.type: one for one in conditions(replace(WELL, now=2000.0), first)}
    assert mended["StateDirWritable"].since == 2000.0
    assert mended["Ready"].since == 1000.0


def test_a_drain_has_an_age_that_an_outage_does_not_take_from_it() -> None:
    """It begins when shares are first waited for, ends when they no longer are, and is kept while nobody can see."""
    begun = draining_since(DRAINS, {}, 100.0)
    assert begun == {"GPU-0": 100.0}
    assert draining_since(DRAINS, begun, 200.0) == begun
    blind = Plan(waits=(Wait("GPU-0", WaitReason.POD_RESOURCES, frozenset(range(6))),))
    assert draining_since(blind, begun, 200.0) == begun
    assert draining_since(blind, {}, 200.0) == {}
    assert draining_since(Plan(), begun, 200.0) == {}


def shares_of(entry: AppliedGpu, plan: Plan, *numbers: int) -> GpuStatus:
    """The status of one GPU of which these shares are held."""
    held = make.keys(make.SHARED, entry.gpu.index, *numbers) if numbers else frozenset()
    desired = make.wanted([entry.gpu], make.sliced(2))
    (found,) = gpu_statuses(
        make.applied(entry), desired, plan, held, pods=make.listed(make.look(1.0, held)), mps=MpsStatus()
    )
    return found


def test_each_share_has_one_state_and_its_holder() -> None:
    """Draining before held before fenced before free; that it is held and fenced is said apart."""
    found = shares_of(HAVE.gpus["GPU-0"], DRAINS, 0, 2, 3, 4)
    assert [one.state for one in found.shares] == [
        ShareState.HELD,
        ShareState.FREE,
        ShareState.DRAINING,
        ShareState.DRAINING,
        ShareState.HELD,
        ShareState.FENCED,
    ]
    assert found.shares[4].fenced
    assert found.shares[4].held
    assert found.shares[0].holder == "default/pod-GPU-0::0/main"
    assert found.shares[1].holder is None
    assert [one.id for one in found.shares[:2]] == ["GPU-0::0", "GPU-0::1"]
    assert (found.rule, found.wanted, found.wanted_shares) == ("sliced", make.SLICED, 2)
    assert len(found.shares) == 6
    assert found.shares == tuple(found.shares)


@pytest.mark.parametrize("health", list(GpuHealth))
def test_counts_are_those_of_the_shares(health: GpuHealth) -> None:
    """A resource's counts, which are made without the shares, say the same; every state is there."""
    entry = make.entry(0, make.SLICED, range(6), {4: 1.0, 5: 1.0}, health=health)
    found = shares_of(entry, DRAINS, 0, 2, 3, 4)
    (resource,) = resource_statuses([found], [LIVE], {"GPU-0": 5.0})
    states = [one.state for one in found.shares]
    assert resource.counts == {state: states.count(state) for state in ShareState}
    assert (resource.resource, resource.registration, resource.draining_since) == (make.SHARED, LIVE, 5.0)


def test_every_share_of_a_gpu_without_its_daemon_is_unhealthy() -> None:
    """Held or not; who holds it is told all the same, and so is the daemon."""
    entry = make.entry(0, make.QUARTER, range(3), fault="its MPS daemon is not ready: it has ended")
    held = make.keys(make.MPS, 0, 1)
    failed = make.daemon(0, state=DaemonState.FAILED, message="it has ended")
    (found,) = gpu_statuses(
        make.applied(entry), None, Plan(), held, pods=make.listed(make.look(1.0, held)), mps=make.host(failed)
    )
    assert [(one.state, one.held) for one in found.shares] == [
        (ShareState.UNHEALTHY, False),
        (ShareState.UNHEALTHY, True),
        (ShareState.UNHEALTHY, False),
    ]
    assert found.daemon == failed
    (resource,) = resource_statuses([found], [], {})
    assert resource.counts[ShareState.UNHEALTHY] == 3


def test_a_resource_is_told_while_it_is_served_or_advertised() -> None:
    """Served with nothing advertised, and advertised before it is served."""
    found = resource_statuses([shares_of(HAVE.gpus["GPU-0"], Plan())], [RegistrationStatus("a", LIVE.state)], {})
    assert [(one.resource, sum(one.counts.values())) for one in found] == [("a", 0), (make.SHARED, 6)]
    assert found[1].registration is None


def test_a_gpu_of_which_nothing_is_wanted_or_known_is_told_too() -> None:
    """By what is applied of it alone."""
    (first, second) = gpu_statuses(HAVE, None, Plan(), (), pods=PodResourcesStatus(), mps=MpsStatus())
    assert (first.rule, first.wanted, first.contract) == (None, None, make.SLICED)
    assert (second.contract, len(second.shares)) == (None, 0)
