"""Snapshots for tests of what is made from snapshots: small, complete, and with the rare things in them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from nodeagent.model.config import (
    THROUGH_MIG,
    Contract,
    Mode,
    MpsLimits,
    Stage,
    Violation,
    Where,
    mig_resource,
)
from nodeagent.model.health import EventsReason, XidLog, XidSource, XidTally, describe_xids
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason, MigDevice
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.moment import Moment
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.node import LabelDifference, NodeStatus, SyncReason
from nodeagent.model.plan import (
    Action,
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Forget,
    Limit,
    Plan,
    Reconnect,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    Start,
    Verdict,
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied, AppliedGpu, Device, Listing, ShareState, share_id
from nodeagent.model.snapshot import (
    ChangeClass,
    Condition,
    ConfigState,
    DocumentInfo,
    Drift,
    DriftKind,
    GpuStatus,
    Reload,
    ReloadResult,
    ResourceStatus,
    ShareStatus,
    Snapshot,
)

AT = 1_790_000_000.0


def clock() -> Moment:
    """Return the moment of all that is built here: its monotonic times are the Unix seconds that are shown."""
    return Moment(AT, AT)


LOAD = "1789990000.25"
"""Which loading of the driver this is."""
SHARED = Contract("nvidia.com/gpu.shared", Mode.TIME_SLICED)
WHOLE = Contract("nvidia.com/gpu", Mode.EXCLUSIVE)
MPS = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(20480, 25))
SMALL = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(9216, 25, 2))
"""The same resource with other limits, as another commit may ask for them."""


def document(text: str = "a", *, revision: str | None = None, name: str | None = "h100-inference") -> DocumentInfo:
    """A document of that text, at a fixed path."""
    data = text.encode()
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return DocumentInfo(
        "/etc/nodeagent/sharing.yaml", hashlib.sha256(data).hexdigest(), blob, revision, name, len(data)
    )


def gpu(index: int, *, health: GpuHealth = GpuHealth.OK, message: str = "") -> Gpu:
    """A GPU with all facts."""
    return Gpu(
        uuid=f"GPU-{index:08x}-0000-4000-8000-{index:012x}",
        index=index,
        model="NVIDIA H100 80GB HBM3",
        memory=80 * 2**30,
        compute_capability=(9, 0),
        minor=index,
        pci_bus_id=f"00000000:{index + 16:02X}:00.0",
        numa_node=index // 4,
        health=health,
        message=message,
    )


A100 = "NVIDIA A100-SXM4-40GB"


def a100(index: int, *, mig_enabled: bool = False) -> Gpu:
    """A GPU that can be used through MIG devices."""
    return replace(gpu(index), model=A100, memory=40 * 2**30, compute_capability=(8, 0), mig_enabled=mig_enabled)


def mig(index: int, instance: int, profile: str = "1g.5gb", *, compute: int = 0) -> Gpu:
    """A MIG device of such a GPU."""
    of = a100(index)
    uuid = f"MIG-{index:08x}-{instance:04x}-5000-8000-{compute:012x}"
    memory = int(profile.partition(".")[2].partition("gb")[0]) * 2**30
    return replace(of, uuid=uuid, memory=memory, mig=MigDevice(of.uuid, profile, instance, compute))


def through_mig(index: int) -> GpuStatus:
    """A GPU that is used through its MIG devices."""
    return gpu_status(a100(index, mig_enabled=True), "", wanted=None, contract=None, rule=THROUGH_MIG.name)


def mig_status(
    facts: Gpu, states: str = "f", *, rule: str = "(default)", contract: Contract | None = None
) -> GpuStatus:
    """A MIG device as it is by default, one share under the name of its profile, or under another contract."""
    assert facts.mig is not None
    offered = contract or Contract(mig_resource(facts.mig.profile), Mode.EXCLUSIVE)
    return gpu_status(facts, states, wanted=offered, contract=offered, rule=rule)


def gpu_status(
    facts: Gpu,
    states: str,
    *,
    wanted: Contract | None = SHARED,
    contract: Contract | None = SHARED,
    wanted_shares: int | None = None,
    rule: str | None = "small-inference",
    daemon: MpsDaemon | None = None,
) -> GpuStatus:
    """A GPU whose shares are spelled: `f`ree, `h`eld, `d`raining, `x` fenced, `u`nhealthy, `U` and held."""
    meaning = {
        "f": ShareState.FREE,
        "h": ShareState.HELD,
        "d": ShareState.DRAINING,
        "x": ShareState.FENCED,
        "u": ShareState.UNHEALTHY,
        "U": ShareState.UNHEALTHY,
    }
    shares = tuple(
        ShareStatus(
            number,
            share_id(facts.uuid, contract.mode if contract else Mode.TIME_SLICED, number),
            meaning[letter],
            f"team-a/worker-{facts.label.replace(':', '-')}-{number}/main" if letter in "hd" else None,
            held=letter in "hdU",
            fenced=letter == "x",
        )
        for number, letter in enumerate(states)
    )
    count = len(states) if wanted_shares is None else wanted_shares
    return GpuStatus(facts, rule, wanted, count, contract, shares, daemon)


def held_by(status: GpuStatus, *holders: str | None) -> GpuStatus:
    """The same GPU with these containers on its shares, one each; None where nobody says who."""
    shares = tuple(replace(share, holder=who) for share, who in zip(status.shares, holders, strict=True))
    return replace(status, shares=shares)


def under_mps(index: int, states: str, daemon: MpsDaemon | None, contract: Contract = MPS) -> GpuStatus:
    """A GPU under MPS with four shares, as Git wants it."""
    return gpu_status(
        gpu(index), states, wanted=contract, contract=contract, wanted_shares=4, rule="batch", daemon=daemon
    )


def mps_daemon(
    index: int, state: DaemonState = DaemonState.READY, message: str = "", contract: Contract = MPS
) -> MpsDaemon:
    """The daemon of one GPU, which was never in trouble before."""
    return MpsDaemon(gpu(index).uuid, contract, state, message)


def snapshot(*gpus: GpuStatus, **changes: object) -> Snapshot:
    """A node in sync with these GPUs (two of ten shares, none held, if none are given); `changes` replace fields."""
    found = gpus or (gpu_status(gpu(0), "f" * 10), gpu_status(gpu(1), "f" * 10))
    applied = Applied({entry.gpu.uuid: _applied(entry) for entry in found})
    counts: dict[str, Counter[ShareState]] = {}
    for entry in found:
        if entry.contract is not None:
            counts.setdefault(entry.contract.resource, Counter()).update(share.state for share in entry.shares)
    accepted = document(revision="main@sha1:0a1b2c3d")
    fields: dict[str, object] = {
        "revision": 7,
        "at": AT,
        "started_at": AT - 3600,
        "node": "gpu-node-1",
        "pool": "inference",
        "version": "0.1.0",
        "config": ConfigState(
            path="/etc/nodeagent/sharing.yaml",
            newest=accepted,
            desired=accepted,
            applied=accepted,
            last_known_good=accepted,
            generation=3,
            observed_generation=3,
        ),
        "inventory": Inventory(
            tuple(entry.gpu for entry in found),
            "550.163.01",
            "12.4",
            InventoryReason.FOUND,
            "",
            complete=True,
            driver_load=LOAD,
        ),
        "xids": XidLog(EventsReason.WATCHING, "", {}),
        "mps": MpsStatus(
            MpsReason.RUNNING,
            daemons={entry.gpu.uuid: entry.daemon for entry in found if entry.daemon is not None},
            root="/run/nodeagent/mps",
            shared_memory="/run/nodeagent/mps/shm",
        ),
        "applied": applied,
        "conditions": conditions(),
        "gpus": found,
        "resources": tuple(
            ResourceStatus(
                resource,
                {state: counter[state] for state in ShareState},
                RegistrationStatus(resource, RegistrationState.LIVE, "", 1, 1, 0, 4),
            )
            for resource, counter in sorted(counts.items())
        ),
        "listings": {
            resource: Listing(
                resource,
                4,
                tuple(
                    Device(share.id, share.state not in {ShareState.FENCED, ShareState.UNHEALTHY})
                    for entry in found
                    if entry.contract is not None and entry.contract.resource == resource
                    for share in entry.shares
                ),
            )
            for resource in counts
        },
        "reloads": (Reload(AT - 1800, accepted, ReloadResult.ACCEPTED, ChangeClass.LIVE, "20 shares offered", 0.043),),
        "in_sync": True,
        "settled": changes.get("in_sync", True),
        **changes,
    }
    return Snapshot(**fields)  # type: ignore[arg-type]


def unwell(base: Snapshot, xids: Mapping[str, Mapping[int, float]]) -> Snapshot:
    """The same node with these XIDs, by uuid, standing against its GPUs."""
    gpus = {
        uuid: replace(entry, xids=xids[uuid], driver_load=LOAD) if uuid in xids else entry
        for uuid, entry in base.applied.gpus.items()
    }
    return replace(base, applied=Applied(gpus))


def _applied(entry: GpuStatus) -> AppliedGpu:
    shares = list(entry.shares)
    limits = entry.contract.limits if entry.contract is not None else None
    ready = limits is None or (entry.daemon is not None and entry.daemon.state is DaemonState.READY)
    return AppliedGpu(
        entry.gpu,
        entry.contract,
        frozenset(share.number for share in shares),
        {share.number: 0.0 for share in shares if share.fenced},
        2 if entry.contract is SHARED else limits.most if limits is not None else None,
        fault="" if ready or not shares else "its MPS daemon is not ready",
    )


def conditions(**reasons: tuple[bool, str, str]) -> tuple[Condition, ...]:
    """All conditions, well but for those given as `Type=(status, reason, message)`."""
    well = {
        "Ready": (True, "Serving", ""),
        "ConfigAccepted": (True, "Accepted", ""),
        "ConfigFollowed": (True, "Followed", ""),
        "InventoryReady": (True, "Found", "2 GPUs"),
        "HealthWatched": (True, "Watching", ""),
        "Registered": (True, "AllRegistered", ""),
        "PodResourcesReady": (True, "Listed", ""),
        "MpsReady": (True, "Idle", "no GPU is under MPS"),
        "LabelsSynced": (True, "LabelsOff", ""),
        "HandOverReady": (True, "NothingNeeded", ""),
        "StateDirWritable": (True, "Writable", ""),
        "Draining": (False, "NothingDrains", ""),
        "Stalled": (False, "InTime", ""),
        "ServingLastKnownGood": (False, "DocumentAccepted", ""),
        "SharedTwice": (False, "OnePodEach", ""),
        "Suspended": (False, "NotSuspended", ""),
        "PlanRefused": (False, "NothingRefused", ""),
        "GpusRenumbered": (False, "NumbersAgree", ""),
    }
    return tuple(Condition(type_, *facts, since=AT - 60.5) for type_, facts in {**well, **reasons}.items())


def violation(message: str = "expected an integer of at least 2, got 1") -> Violation:
    """Something wrong in the middle of a document."""
    where = Where("spec.rules[0].timeSlicing.replicas", 12, 17)
    return Violation("/etc/nodeagent/sharing.yaml", where, message, Stage.SCHEMA)


def troubled() -> Snapshot:
    """A node with everything at once: a rejected document, drains, a lost GPU, a withheld one, another plugin."""
    lost = gpu(2, health=GpuHealth.LOST, message="the GPU fell off the bus")
    gpus = (
        gpu_status(gpu(0), "hhhhddxxxx", wanted_shares=4),
        gpu_status(gpu(1), "fffhhf", wanted=WHOLE, wanted_shares=1, rule="training"),
        gpu_status(lost, "UUuu"),
        gpu_status(gpu(3), "h", wanted=WHOLE, contract=WHOLE, rule="(default)"),
        gpu_status(gpu(4), "", wanted=None, contract=None, rule="broken-riser"),
    )
    bad = document("bad", revision="main@sha1:ffff0000")
    good = document("good")
    older = document("older", name=None)
    base = snapshot(*gpus)
    return snapshot(
        *gpus,
        config=ConfigState(
            path="/etc/nodeagent/sharing.yaml",
            newest=bad,
            desired=good,
            applied=older,
            last_known_good=good,
            violations=(
                violation(),
                violation('unknown key "replica", did you mean "replicas"? <script>alert(1)</script>'),
            ),
            notes=("rule broken-riser withholds 1 GPU",),
            generation=5,
            observed_generation=4,
        ),
        conditions=conditions(
            Ready=(False, "NotRegistered", "nvidia.com/gpu is foreign: another plugin keeps taking it"),
            ConfigAccepted=(False, "SchemaError", str(violation())),
            InventoryReady=(False, "GpuLost", "GPU 2 fell off the bus"),
            Registered=(False, "ForeignPlugin", "nvidia.com/gpu is foreign"),
            Draining=(True, "PodsHoldShares", "2 held shares drain on GPU 0"),
            Stalled=(True, "DrainTimeout", "the drain lasts longer than allowed on GPU 0"),
        ),
        resources=(
            ResourceStatus(
                "nvidia.com/gpu",
                {ShareState.HELD: 1},
                RegistrationStatus(
                    "nvidia.com/gpu", RegistrationState.FOREIGN, "another plugin keeps taking it", 0, 3, 2
                ),
            ),
            ResourceStatus(
                "nvidia.com/gpu.shared", base.resources[1].counts, base.resources[1].registration, AT - 7200
            ),
            ResourceStatus("nvidia.com/new", {}, None),
        ),
        drift=(
            Drift(DriftKind.CONFIG, "/etc/nodeagent/sharing.yaml", "accepted", "SchemaError", AT - 60.5),
            Drift(DriftKind.SHARES, "GPU 0", "4 x time-sliced nvidia.com/gpu.shared", "10", AT - 7200),
            Drift(DriftKind.SHARES, "GPU 1", "1 x exclusive nvidia.com/gpu", "6 time-sliced", AT - 100),
            Drift(DriftKind.HARDWARE, "GPU 2", "ok", "lost", AT - 300),
        ),
        plan=Plan(
            (Fence(gpus[1].gpu.uuid, frozenset({0, 1, 2, 5})), Drop(gpus[0].gpu.uuid, frozenset({6, 7, 8, 9}))),
            (
                Wait(gpus[0].gpu.uuid, WaitReason.PODS, frozenset({4, 5})),
                Wait(gpus[1].gpu.uuid, WaitReason.PODS, frozenset({3, 4})),
            ),
        ),
        reloads=(
            Reload(AT - 30, None, ReloadResult.FAILED, None, "no space left on device", 0.2),
            Reload(AT - 60.5, bad, ReloadResult.REJECTED, None, f"{violation()}\n{violation()}", 0.012),
            Reload(AT - 7200, good, ReloadResult.ACCEPTED, ChangeClass.DRAINED, "10 -> 4 shares on GPU 0", 0.061),
        ),
        in_sync=False,
    )


def sharing_by_mps() -> Snapshot:
    """A node with a daemon in every state: ready, altered, failed, starting, occupied, not there, leaving, outdated."""
    held_by = "held by process 4242 (python)"
    gone = "exited with status 1"
    altered = replace(mps_daemon(1), altered="40960 MiB, 100 %", restored=3)
    gpus = (
        under_mps(0, "hhff", mps_daemon(0)),
        under_mps(1, "fffh", altered),
        under_mps(2, "UUuu", replace(mps_daemon(2, DaemonState.FAILED, gone), restarts=2)),
        under_mps(3, "", mps_daemon(3, DaemonState.STARTING, "its limits are being set")),
        under_mps(4, "", mps_daemon(4, DaemonState.OCCUPIED, held_by)),
        under_mps(5, "", None),
        gpu_status(gpu(6), "", contract=None, daemon=mps_daemon(6, DaemonState.STOPPING, "it is asked to end")),
        under_mps(7, "", mps_daemon(7), SMALL),
    )
    daemons = frozenset(range(4))
    troubles = {
        1: f"a client has changed the limits: {altered.altered}",
        2: gone,
        3: "its limits are being set",
        4: held_by,
        5: "it has not been started yet",
        6: "it is asked to end",
        7: f"it still serves {MPS}",
    }
    return snapshot(
        *gpus,
        conditions=conditions(
            MpsReady=(False, "DaemonFailed", "; ".join(f"GPU {index}: {text}" for index, text in troubles.items()))
        ),
        drift=tuple(
            Drift(
                DriftKind.MPS,
                f"GPU {index}",
                "no MPS daemon" if index == 6 else f"an MPS daemon with {(SMALL if index == 7 else MPS).limits}",
                text,
                AT - index,
            )
            for index, text in troubles.items()
        ),
        plan=Plan((), tuple(Wait(gpu(index).uuid, WaitReason.DAEMON, daemons) for index in (3, 4, 5, 6, 7))),
        in_sync=False,
    )


def mislabelled() -> Snapshot:
    """A node that is as Git wants it, and whose labels cannot be written."""
    differences = (
        LabelDifference("nodeagent.io/config.state", "applied", "draining"),
        LabelDifference("nvidia.com/gpu.replicas", "10", None),
        LabelDifference("nvidia.com/mps.capable", None, "true"),
    )
    message = 'cannot write labels: nodes "gpu-node-1" is forbidden: User cannot patch resource "nodes"'
    told = (("applied", "draining"), ("10", "none"), ("no label", "true"))
    return snapshot(
        gpu_status(gpu(0), "hhf"),
        gpu_status(gpu(1), "fff"),
        node_object=NodeStatus(SyncReason.FORBIDDEN, message, differences, api=True),
        conditions=conditions(LabelsSynced=(False, "Forbidden", message)),
        drift=tuple(
            Drift(DriftKind.LABELS, one.key, want, have, AT - 600)
            for one, (want, have) in zip(differences, told, strict=True)
        ),
    )


SLICES = Contract("nvidia.com/gpu.slices", Mode.TIME_SLICED)


def partitioned() -> Snapshot:
    """Six A100, of which three are used through MIG devices: seven alike; two profiles, one of them shared by two and
    unhealthy; and those of a GPU that has fallen off the bus. GPU 3 is unhealthy as a whole.
    """
    lost, gone = a100(4, mig_enabled=True), "the driver no longer lists it"
    gpus = (
        gpu_status(a100(0), "h", wanted=WHOLE, contract=WHOLE, rule="(default)"),
        through_mig(1),
        *(mig_status(mig(1, instance), state) for instance, state in zip(range(7, 14), "hhfhfff", strict=True)),
        through_mig(2),
        mig_status(mig(2, 1, "3g.20gb"), "Uu", rule="halves", contract=SLICES),
        mig_status(mig(2, 2, "3g.20gb"), "hf", rule="halves", contract=SLICES),
        mig_status(mig(2, 9), "f"),
        gpu_status(a100(3), "UUUuuuuuuu"),
        replace(through_mig(4), gpu=replace(lost, health=GpuHealth.LOST, message=gone)),
        *(mig_status(replace(mig(4, instance), health=GpuHealth.LOST, message=gone), "u") for instance in (7, 8)),
        gpu_status(a100(5), "f", wanted=WHOLE, contract=WHOLE, rule="(default)"),
    )
    off_the_bus, sick = {79: AT - 190.0}, {48: AT - 4000.0, 94: AT - 3700.5}
    base = snapshot(
        *gpus,
        conditions=conditions(
            InventoryReady=(False, "GpuLost", f"GPU 4 ({lost.uuid}): {gone}"),
            HealthWatched=(True, "Watching", ""),
        ),
        xids=XidLog(
            EventsReason.WATCHING,
            "",
            {
                XidSource(a100(3).uuid, 79): XidTally(1, AT - 190.0),
                XidSource(a100(2).uuid, 48, 1, 0): XidTally(1, AT - 4000.0),
                XidSource(a100(2).uuid, 94, 1, 0): XidTally(2, AT - 3700.5),
                XidSource(a100(2).uuid, 31, 2, 0): XidTally(3, AT - 86_400.0),
                XidSource(a100(0).uuid, 13): XidTally(41, AT - 20.0),
                XidSource(a100(0).uuid, 31): XidTally(1, AT - 7200.0),
            },
        ),
        drift=(
            Drift(DriftKind.HARDWARE, "MIG device 2:1", "ok", describe_xids(sick), AT - 4000.0),
            Drift(DriftKind.HARDWARE, "GPU 3", "ok", describe_xids(off_the_bus), AT - 190.0),
            Drift(DriftKind.HARDWARE, "GPU 4", "ok", f"lost: {gone}", AT - 400.0),
        ),
    )
    return unwell(base, {a100(3).uuid: off_the_bus, mig(2, 1).uuid: sick})


def renumbered() -> Snapshot:
    """A node whose GPU 0 has dropped out, so that the driver calls GPU 1 by 0; the number of GPU 9 may not stay."""
    lost = gpu_status(gpu(0, health=GpuHealth.LOST, message="the driver no longer lists it"), "u" * 10)
    here = [replace(gpu(1), driver_index=0), replace(gpu(9), driver_index=1, provisional=True)]
    told = "the driver, and nvidia-smi, count the GPUs otherwise than rules and messages: GPU 1 has index 0 there"
    listed = tuple(replace(one, index=index, driver_index=None, provisional=False) for index, one in enumerate(here))
    base = snapshot(
        lost,
        *(gpu_status(one, "f" * 10) for one in here),
        conditions=conditions(GpusRenumbered=(True, "NumbersDiffer", told)),
    )
    return replace(base, inventory=replace(base.inventory, gpus=listed, counted=2))


def every_action() -> Plan:
    """One action of each type and one wait of each reason."""
    one, numbers = gpu(0), frozenset({3, 1})
    actions: tuple[Action, ...] = (
        Remember(one),
        Remember(mig(1, 7)),
        Forget("GPU-gone"),
        Verdict(one.uuid, "its MPS daemon is not ready: it ended"),
        Verdict(one.uuid, ""),
        Diagnose(one.uuid, {79: AT}, LOAD),
        Diagnose(one.uuid, {}, None),
        Adopt(one.uuid, SHARED, numbers),
        Start(one.uuid, MPS),
        Advertise(one.uuid, SHARED, numbers),
        Fence(one.uuid, numbers),
        Restore(one.uuid, frozenset({1})),
        Drop(one.uuid, numbers),
        Release(one.uuid),
        Limit(one.uuid, 2),
        Limit(one.uuid, None),
        Register(SHARED.resource),
        Retire(WHOLE.resource),
        Resend(SHARED.resource),
        Reconnect(SHARED.resource),
    )
    return Plan(actions, tuple(Wait(one.uuid, reason, numbers) for reason in WaitReason))


def large(gpus: int = 8, shares: int = 5_000) -> Snapshot:
    """A node with very many shares, every third of them held."""
    return snapshot(*(gpu_status(gpu(index), ("hff" * shares)[:shares]) for index in range(gpus)))
