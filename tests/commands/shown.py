"""The nodes that docs/commands.md shows: eight H100 shared by ten, of which two then become whole, a node with two GPUs
under MPS, and one with MIG devices.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from nodeagent.config.load import load
from nodeagent.model.config import Contract, Document, Mode, MpsLimits, Stage, Violation, Where
from nodeagent.model.health import describe_xids
from nodeagent.model.mps import DaemonState
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Applied
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
    Snapshot,
)
from nodeagent.state.acceptance import info
from tests.commands.conftest import EXAMPLES
from tests.report import builders
from tests.report.builders import SHARED, WHOLE, gpu, gpu_status

PATH = "/etc/nodeagent/sharing.yaml"


def document(example: str, revision: str) -> DocumentInfo:
    """An example, as a node has it mounted."""
    found = info(load(Document(PATH, (EXAMPLES / example).read_bytes(), revision)))
    assert found is not None
    return found


BEFORE = document("time-slicing.yaml", "main@sha1:5d1e90c")
AFTER = document("mixed.yaml", "main@sha1:c2a77f4")
SIDE_BY_SIDE = document("side-by-side.yaml", "main@sha1:7be0a11")


def before() -> Snapshot:
    """In sync with examples/time-slicing.yaml; pods hold two shares of GPU 0 and six of GPU 3."""
    gpus = [gpu_status(gpu(index), "f" * 10, rule="every-gpu") for index in range(8)]
    gpus[0] = gpu_status(gpu(0), "hhffffffff", rule="every-gpu")
    gpus[3] = gpu_status(gpu(3), "hhhhhhffff", rule="every-gpu")
    reload = Reload(
        time.time() - 86_400, BEFORE, ReloadResult.ACCEPTED, ChangeClass.LIVE,
        "GPUs 0-7: exclusive nvidia.com/gpu -> time-sliced nvidia.com/gpu.shared x10", 0.041,
    )  # fmt: skip
    config = ConfigState(PATH, BEFORE, BEFORE, BEFORE, BEFORE, generation=2, observed_generation=2)
    return _snapshot(gpus, config, (reload,), in_sync=True)


def draining() -> Snapshot:
    """Two minutes after examples/mixed.yaml was accepted: GPU 1 has changed, GPU 0 waits for its pods."""
    gpus = [gpu_status(gpu(index), "f" * 10, rule="inference") for index in range(8)]
    gpus[0] = gpu_status(gpu(0), "dd", wanted=WHOLE, wanted_shares=1, rule="training")
    gpus[1] = gpu_status(gpu(1), "f", wanted=WHOLE, contract=WHOLE, rule="training")
    gpus[3] = gpu_status(gpu(3), "hhhhhhffff", rule="inference")
    since = time.time() - 150
    reload = Reload(
        since, AFTER, ReloadResult.ACCEPTED, ChangeClass.DRAINED,
        "GPUs 0-1: time-sliced nvidia.com/gpu.shared x10 -> exclusive nvidia.com/gpu; held shares drain: 2 on GPU 0",
        0.037,
    )  # fmt: skip
    config = ConfigState(PATH, AFTER, AFTER, BEFORE, AFTER, generation=3, observed_generation=2)
    return _snapshot(
        gpus,
        config,
        (reload,),
        conditions=builders.conditions(Draining=(True, "PodsHoldShares", "2 held shares drain on GPU 0")),
        drift=(Drift(DriftKind.SHARES, "GPU 0", str(WHOLE), f"{SHARED} x2", since),),
        plan=Plan((), (Wait(gpus[0].gpu.uuid, WaitReason.PODS, frozenset({0, 1})),)),
        in_sync=False,
    )


def under_mps() -> Snapshot:
    """Two minutes after examples/side-by-side.yaml was accepted: a process outside the cluster keeps GPU 3 from MPS."""
    contract = Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(20480, 25, 2))
    gpus = [gpu_status(gpu(index), "f" * 10, rule="notebooks") for index in range(8)]
    gpus[0] = gpu_status(gpu(0), "hhffffffff", rule="notebooks")
    gpus[2] = builders.under_mps(2, "hhff", builders.mps_daemon(2, contract=contract), contract)
    held = "held by process 4242 (python)"
    occupied = builders.mps_daemon(3, DaemonState.OCCUPIED, held, contract)
    gpus[3] = builders.under_mps(3, "", occupied, contract)
    gpus[4] = gpu_status(gpu(4), "", wanted=None, contract=None, rule="broken-riser")
    gpus[5:] = [gpu_status(gpu(index), "h", wanted=WHOLE, contract=WHOLE, rule="training") for index in (5, 6, 7)]
    since = time.time() - 150
    reload = Reload(
        since, SIDE_BY_SIDE, ReloadResult.FAILED, None,
        f"GPU 3: {SHARED} x10 -> {contract} x4: GPU 3: its MPS daemon is not as it should be: {held}", 10.021,
    )  # fmt: skip
    config = ConfigState(PATH, SIDE_BY_SIDE, SIDE_BY_SIDE, BEFORE, SIDE_BY_SIDE, generation=4, observed_generation=3)
    return replace(
        _snapshot(
            gpus,
            config,
            (reload,),
            conditions=builders.conditions(MpsReady=(False, "Occupied", f"GPU 3: {held}")),
            drift=(
                Drift(DriftKind.SHARES, "GPU 3", f"{contract} x4", f"{contract} x0", since),
                Drift(DriftKind.MPS, "GPU 3", f"an MPS daemon with {contract.limits}", held, since),
            ),
            plan=Plan((), (Wait(gpus[3].gpu.uuid, WaitReason.DAEMON, frozenset(range(4))),)),
            in_sync=False,
        ),
        node="gpu-node-9",
    )


def partitioned() -> Snapshot:
    """In sync with examples/time-slicing.yaml: two of four A100 are divided by MIG, and two minutes ago another one
    fell off the bus.
    """
    small, halves = range(7, 14), (1, 2)
    gpus = [
        gpu_status(builders.a100(0), "hhffffffff", rule="every-gpu"),
        gpu_status(builders.a100(1), "Uuuuuuuuuu", rule="every-gpu"),
        builders.through_mig(2),
        *(builders.mig_status(builders.mig(2, number), "h" if number < 10 else "f") for number in small),
        builders.through_mig(3),
        *(builders.mig_status(builders.mig(3, number, "3g.20gb"), "h") for number in halves),
    ]
    since = time.time() - 150
    reload = Reload(
        time.time() - 86_400, BEFORE, ReloadResult.ACCEPTED, ChangeClass.LIVE,
        "GPUs 0-1: exclusive nvidia.com/gpu -> time-sliced nvidia.com/gpu.shared x10", 0.039,
    )  # fmt: skip
    config = ConfigState(PATH, BEFORE, BEFORE, BEFORE, BEFORE, generation=2, observed_generation=2)
    xids = {79: since}
    base = _snapshot(
        gpus,
        config,
        (reload,),
        drift=(Drift(DriftKind.HARDWARE, "GPU 1", "ok", describe_xids(xids), since),),
        in_sync=True,
    )
    return replace(builders.unwell(base, {gpus[1].gpu.uuid: xids}), node="gpu-node-12")


def rejecting(document_: DocumentInfo) -> Snapshot:
    """As before, with a document in the mount that is not accepted."""
    message = 'expected a known key, got "replica"; did you mean "replicas"?'
    wrong = Violation(PATH, Where("spec.rules[0].timeSlicing.replica", 9, 21), message, Stage.SCHEMA)
    base = before()
    config = ConfigState(
        PATH, document_, BEFORE, BEFORE, BEFORE, violations=(wrong,), generation=2, observed_generation=2
    )
    return _snapshot(base.gpus, config, base.reloads, in_sync=False)


def _snapshot(gpus: Sequence[GpuStatus], config: ConfigState, reloads: tuple[Reload, ...], **more: object) -> Snapshot:
    now = time.time()
    facts: dict[str, object] = {"conditions": builders.conditions(), **more}
    found = facts["conditions"]
    assert isinstance(found, tuple)
    since = tuple(
        Condition(one.type, one.status, one.reason, one.message, now - 150)
        for one in found
        if isinstance(one, Condition)
    )
    base = builders.snapshot(*gpus).applied
    limited = {
        uuid: replace(entry, max_shares_per_container=1 if entry.contract is SHARED else None)
        for uuid, entry in base.gpus.items()
    }
    return builders.snapshot(
        *gpus,
        applied=Applied(limited),
        node="gpu-node-7",
        at=now,
        started_at=now - 3 * 86_400,
        config=config,
        reloads=reloads,
        **{**facts, "conditions": since},
    )
