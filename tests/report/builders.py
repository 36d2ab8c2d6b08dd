"""Snapshots for tests of what is made from snapshots: small, complete, and with the rare things in them."""

from __future__ import annotations

import hashlib
from collections import Counter

from nodeagent.model.config import Contract, Mode, Stage, Violation, Where
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.plan import (
    Action,
    Advertise,
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
SHARED = Contract("nvidia.com/gpu.shared", Mode.TIME_SLICED)
WHOLE = Contract("nvidia.com/gpu", Mode.EXCLUSIVE)


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


def gpu_status(
    facts: Gpu,
    states: str,
    *,
    wanted: Contract | None = SHARED,
    contract: Contract | None = SHARED,
    wanted_shares: int | None = None,
    rule: str | None = "small-inference",
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
            f"team-a/worker-{facts.index}-{number}/main" if letter in "hd" else None,
            held=letter in "hdU",
            fenced=letter == "x",
        )
        for number, letter in enumerate(states)
    )
    return GpuStatus(facts, rule, wanted, len(states) if wanted_shares is None else wanted_shares, contract, shares)


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
            tuple(entry.gpu for entry in found), "550.163.01", "12.4", InventoryReason.FOUND, "", complete=True
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
        **changes,
    }
    return Snapshot(**fields)  # type: ignore[arg-type]


def _applied(entry: GpuStatus) -> AppliedGpu:
    shares = list(entry.shares)
    return AppliedGpu(
        entry.gpu,
        entry.contract,
        frozenset(share.number for share in shares),
        {share.number: 0.0 for share in shares if share.fenced},
        2 if entry.contract is SHARED else None,
    )


def conditions(**reasons: tuple[bool, str, str]) -> tuple[Condition, ...]:
    """All conditions, well but for those given as `Type=(status, reason, message)`."""
    well = {
        "Ready": (True, "Serving", ""),
        "ConfigAccepted": (True, "Accepted", ""),
        "InventoryReady": (True, "Found", "2 GPUs"),
        "Registered": (True, "AllRegistered", ""),
        "PodResourcesReady": (True, "Listed", ""),
        "StateDirWritable": (True, "Writable", ""),
        "Draining": (False, "NothingDrains", ""),
        "Stalled": (False, "InTime", ""),
        "ServingLastKnownGood": (False, "DocumentAccepted", ""),
        "Suspended": (False, "NotSuspended", ""),
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


def every_action() -> Plan:
    """One action of each type and one wait of each reason."""
    one, numbers = gpu(0), frozenset({3, 1})
    actions: tuple[Action, ...] = (
        Remember(one),
        Forget("GPU-gone"),
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
