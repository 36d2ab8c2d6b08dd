"""Drift: one entry for each difference, with what is wanted, what is there, and since when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest

from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.node import LabelDifference, NodeStatus, SyncReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import ConfigState, DocumentInfo, Drift, DriftKind
from nodeagent.state.desired import Desired
from nodeagent.state.drift import aged, drift
from nodeagent.state.kubelet_view import View
from tests.state import make

GOOD = DocumentInfo("c", "sha-good", "blob-good", None, "test", 1)
BAD = DocumentInfo("c", "sha-bad", "blob-bad", None, None, 1)
CALM = ConfigState("c", newest=GOOD, desired=GOOD)
FULL = make.inventory(make.gpu(0), make.gpu(1))


def found(
    *,
    config: ConfigState = CALM,
    desired: Desired | None = None,
    applied: Applied | None = None,
    inventory: Inventory = FULL,
    mps: MpsStatus | None = None,
    registrations: Iterable[RegistrationStatus] = (),
    views: Mapping[str, View] | None = None,
    node: NodeStatus | None = None,
) -> list[tuple[DriftKind, str, str, str]]:
    """Every difference, without its age."""
    every = drift(
        config=config,
        desired=desired,
        applied=applied or Applied(),
        inventory=inventory,
        mps=mps or MpsStatus(),
        registrations=registrations,
        views=views or {},
        node=node or NodeStatus(),
    )
    return [(one.kind, one.subject, one.want, one.have) for one in every]


def test_a_node_that_is_as_wanted_has_no_drift() -> None:
    """Held or not: who has a share is no difference."""
    have = make.applied(make.entry(0, make.SLICED, {0, 7}), make.entry(1))
    desired = make.wanted([make.gpu(0), make.gpu(1)], make.sliced(2, 0), make.withheld(1))
    live = [RegistrationStatus(make.SHARED, RegistrationState.LIVE)]
    assert found(desired=desired, applied=have, registrations=live, views={make.SHARED: View(1.0, 1, 5, 0)}) == []


@pytest.mark.parametrize(
    ("config", "want", "have"),
    [
        (ConfigState("c", newest=BAD, desired=GOOD), "blob-bad", "blob-good"),
        (ConfigState("c", newest=BAD), "blob-bad", "nothing accepted"),
        (ConfigState("c", desired=GOOD, problem="cannot read c"), "a document", "cannot read c; blob-good"),
        (ConfigState("c", newest=GOOD, desired=GOOD, suspended=True), "blob-good", "suspended"),
    ],
    ids=["rejected", "nothing accepted", "missing", "suspended"],
)
def test_git_differs_from_what_is_in_force(config: ConfigState, want: str, have: str) -> None:
    """A document that is not in force is drift, whatever the reason."""
    assert found(config=config) == [(DriftKind.CONFIG, "c", want, have)]


def test_each_gpu_that_is_not_as_wanted_is_told() -> None:
    """Another contract, another count, shares on their way out, nothing advertised, and GPUs that are gone."""
    gpus = [make.gpu(index) for index in range(4)]
    desired = make.wanted(gpus, make.sliced(2))
    have = make.applied(
        make.entry(0, make.WHOLE, {0}),
        make.entry(1, make.SLICED, range(5)),
        make.entry(2, make.SLICED, range(3), {2: 1.0}),
        make.entry(9, make.SLICED, range(2)),
    )
    want = "time-sliced nvidia.com/gpu.shared x2"
    assert [entry[1:] for entry in found(desired=desired, applied=have)] == [
        ("GPU 0", want, "exclusive nvidia.com/gpu"),
        ("GPU 1", want, "time-sliced nvidia.com/gpu.shared x5"),
        ("GPU 2", want, "time-sliced nvidia.com/gpu.shared x2"),
        ("GPU 3", want, "nothing advertised"),
        ("GPU 9", "gone", "time-sliced nvidia.com/gpu.shared x2"),
    ]


def test_without_a_desired_state_shares_cannot_differ() -> None:
    """Suspended, or nothing accepted: that is drift of the config."""
    assert found(applied=make.applied(make.entry(0, make.WHOLE, {0}))) == []


def test_a_resource_that_the_kubelet_does_not_have_is_told() -> None:
    """Not registered, or registered with another view than our list, seen twice."""
    live = RegistrationStatus("a", RegistrationState.LIVE)
    foreign = RegistrationStatus("b", RegistrationState.FOREIGN, "another plugin keeps taking it")
    absent = RegistrationStatus("d", RegistrationState.ABSENT)
    assert found(registrations=[live, foreign, absent], views={"a": View(1.0, 2, 3, 4), "b": View(1.0, 9)}) == [
        (DriftKind.KUBELET, "a", "the list that was sent", "3 shares missing, 4 too many in the kubelet's view"),
        (DriftKind.KUBELET, "b", "registered, with an open stream", "foreign: another plugin keeps taking it"),
        (DriftKind.KUBELET, "d", "registered, with an open stream", "absent"),
    ]


UNDER = make.applied(make.entry(0, make.QUARTER, range(4)), make.entry(1))
WANT = "an MPS daemon with 9216 MiB and 25 % each"


def test_daemons_that_are_as_their_contracts_say_are_no_drift() -> None:
    """Whoever looks after them, and where there are none."""
    assert found(applied=UNDER, mps=make.host(make.daemon(0))) == []
    assert found(applied=UNDER, mps=make.host(make.daemon(0), reason=MpsReason.ABSENT, message="no host runs")) == []
    assert found(applied=make.applied(make.entry(0))) == []


def test_a_daemon_that_is_not_as_its_contract_says_is_told() -> None:
    """Not there, not ready, with other limits, with limits that a client has changed."""
    failed = make.daemon(0, state=DaemonState.FAILED, message="it has ended")
    assert found(applied=UNDER, mps=make.host(failed)) == [(DriftKind.MPS, "GPU 0", WANT, "it has ended")]
    assert found(applied=UNDER, mps=make.host(make.daemon(0, altered="100 %"))) == [
        (DriftKind.MPS, "GPU 0", WANT, "a client has changed the limits: 100 %")
    ]
    assert found(applied=UNDER, mps=make.host(make.daemon(0, make.HALF))) == [
        (DriftKind.MPS, "GPU 0", WANT, "it still serves mps nvidia.com/gpu.mps (18432 MiB and 50 % each)")
    ]
    assert found(applied=UNDER, mps=MpsStatus(MpsReason.OFF, "no daemon can be started")) == [
        (DriftKind.MPS, "GPU 0", WANT, "no daemon can be started")
    ]


def test_a_daemon_that_nobody_wants_is_told() -> None:
    """Until it, and the compute mode that it needed, are gone; one of a GPU that is not known is not ours."""
    stopping = make.daemon(1, state=DaemonState.STOPPING, message="cannot restore the compute mode")
    told = make.host(make.daemon(0), stopping, make.daemon(9))
    assert found(applied=UNDER, mps=told) == [
        (DriftKind.MPS, "GPU 1", "no MPS daemon", "cannot restore the compute mode")
    ]


def test_a_daemon_that_cannot_be_had_is_told() -> None:
    """Of a GPU that stays what it is, and of one that is offered nothing; not once it has its contract."""
    desired = make.wanted([make.gpu(0), make.gpu(1)], make.mps(4))
    mps = make.host(reason=MpsReason.ABSENT, message="no host runs")
    have = make.applied(make.entry(0, make.SLICED, range(2)), make.entry(1))
    told = [one for one in found(desired=desired, applied=have, mps=mps) if one[0] is DriftKind.MPS]
    want = f"an MPS daemon with {desired.wants['GPU-0'].contract.limits}"  # type: ignore[union-attr]
    assert told == [(DriftKind.MPS, f"GPU {index}", want, "no host runs") for index in (0, 1)]
    able = make.host()
    assert not [one for one in found(desired=desired, applied=have, mps=able) if one[0] is DriftKind.MPS]


def test_a_compute_mode_that_mps_has_left_is_told() -> None:
    """The GPU is not as it was before MPS."""
    mps = MpsStatus(MpsReason.ABSENT, "no host runs", left_modes={"GPU-0": None, "GPU-9": None})
    ((kind, subject, want, have),) = found(applied=make.applied(make.entry(0)), mps=mps)
    assert (kind, subject, want) == (DriftKind.MPS, "GPU 0", "the compute mode that was there before MPS")
    assert have.startswith("MPS has left it in a compute mode that cannot be read")


def test_while_nothing_is_known_of_daemons_they_do_not_differ() -> None:
    """An agent that starts does not tell of drift before it has looked."""
    assert found(applied=UNDER, mps=MpsStatus(MpsReason.PENDING)) == []


def test_a_gpu_whose_daemon_is_not_ready_has_no_shares_yet() -> None:
    """Two differences of one GPU: what is offered, and why not."""
    started = make.applied(make.entry(0, make.QUARTER), make.entry(1, make.WHOLE, {0}))
    desired = make.wanted([make.gpu(0), make.gpu(1)], make.mps(4, 0))
    starting = make.host(make.daemon(0, state=DaemonState.STARTING))
    contract = "mps nvidia.com/gpu.mps (9216 MiB and 25 % each)"
    assert found(desired=desired, applied=started, mps=starting) == [
        (DriftKind.SHARES, "GPU 0", f"{contract} x4", f"{contract} x0"),
        (DriftKind.MPS, "GPU 0", WANT, "starting"),
    ]


def test_a_fault_is_told_once() -> None:
    """By the GPU where one is at fault, else by the inventory."""
    lost = make.applied(make.entry(0, health=GpuHealth.LOST))
    broken = Inventory(reason=InventoryReason.DRIVER_MISSING, message="no driver")
    gpu = (DriftKind.HARDWARE, "GPU 0", "ok", "lost: it is lost")
    assert found(applied=lost) == [gpu]
    assert found(applied=lost, inventory=broken) == [gpu]
    assert found(inventory=broken) == [(DriftKind.HARDWARE, "inventory", "Found", "no driver")]


def test_an_unhealthy_gpu_is_told_by_its_xids() -> None:
    """Whatever is or is not advertised of it."""
    sick = replace(make.entry(1), xids={79: 5.0, 48: 4.0})
    assert found(applied=make.applied(make.entry(0), sick)) == [
        (DriftKind.HARDWARE, "GPU 1", "ok", "XID 48 (double-bit ECC error), XID 79 (GPU has fallen off the bus)")
    ]


def part(instance: int, **changes: object) -> AppliedGpu:
    """What is applied of a MIG device of GPU 1."""
    contract = Contract("nvidia.com/mig-1g.10gb", Mode.EXCLUSIVE)
    whole = AppliedGpu(make.mig(1, instance), contract, frozenset({0}))
    return replace(whole, **changes)  # type: ignore[arg-type]  # the fields of AppliedGpu, as the tests name them


def test_a_mig_device_has_the_faults_of_its_gpu() -> None:
    """They are told of the GPU, once; its own are told of the MIG device."""
    gpu = replace(make.entry(1), gpu=make.with_mig(1))
    assert found(applied=make.applied(gpu, part(7), part(8, xids={94: 5.0}))) == [
        (DriftKind.HARDWARE, "MIG device 1:8", "ok", "XID 94 (contained ECC error)")
    ]
    sick = replace(gpu, xids={79: 5.0})
    assert [one[1] for one in found(applied=make.applied(sick, part(7, xids={79: 5.0}), part(8, xids={79: 5.0})))] == [
        "GPU 1"
    ]
    lost = replace(make.mig(1, 7), health=GpuHealth.LOST, message="it is lost")
    gone = replace(gpu, gpu=make.with_mig(1, health=GpuHealth.LOST))
    assert [one[1] for one in found(applied=make.applied(gone, part(7, gpu=lost)))] == ["GPU 1"]


def test_a_mig_device_that_hangs_alone_is_told() -> None:
    """Its GPU answers, so nothing else would tell of it."""
    hangs = replace(make.mig(1, 7), health=GpuHealth.HANG, message="it does not answer")
    gpu = replace(make.entry(1), gpu=make.with_mig(1))
    stuck = make.inventory(make.with_mig(1), hangs)
    assert found(
        applied=make.applied(gpu, part(7, gpu=hangs)), inventory=replace(stuck, reason=InventoryReason.GPU_HANGS)
    ) == [(DriftKind.HARDWARE, "MIG device 1:7", "ok", "hang: it does not answer")]


def test_a_mig_device_that_was_destroyed_is_no_fault() -> None:
    """Shares of it that pods still have are a difference; what is wrong with the inventory is told as ever."""
    gone = replace(make.mig(1, 7), health=GpuHealth.LOST, message="its instance was destroyed")
    gpu = replace(make.entry(1), gpu=make.with_mig(1))
    applied = make.applied(gpu, part(7, gpu=gone))
    desired = make.wanted([make.with_mig(1)])
    assert found(desired=desired, applied=applied) == [
        (DriftKind.SHARES, "MIG device 1:7", "gone", "exclusive nvidia.com/mig-1g.10gb")
    ]
    bad = replace(FULL, reason=InventoryReason.INVALID_FILE, message="it is no YAML")
    assert found(applied=applied, inventory=bad) == [(DriftKind.HARDWARE, "inventory", "Found", "it is no YAML")]


def test_a_gpu_on_its_way_to_mig_is_told_as_such() -> None:
    """Nothing of it is withheld: it is used through its MIG devices once the last share of the whole has left."""
    held = AppliedGpu(make.with_mig(1), make.WHOLE, frozenset({0}))
    desired = make.wanted([make.with_mig(1), make.mig(1, 7)])
    assert [one[1:] for one in found(desired=desired, applied=make.applied(held))] == [
        ("GPU 1", "used through MIG devices", "exclusive nvidia.com/gpu"),
        ("MIG device 1:7", "exclusive nvidia.com/mig-1g.10gb", "nothing advertised"),
    ]


def test_each_label_that_does_not_say_what_is_true_is_told() -> None:
    """Whatever keeps it from being written: one that is another, one that is missing, and one that should not be."""
    differences = (
        LabelDifference("nvidia.com/gpu.replicas", "4", "10"),
        LabelDifference("nvidia.com/gpu.product", "NVIDIA-H100", None),
        LabelDifference("nvidia.com/mig.strategy", None, "mixed"),
    )
    for reason in (SyncReason.PENDING, SyncReason.FORBIDDEN):
        assert found(node=NodeStatus(reason, "cannot write", differences, api=True)) == [
            (DriftKind.LABELS, "nvidia.com/gpu.replicas", "4", "10"),
            (DriftKind.LABELS, "nvidia.com/gpu.product", "NVIDIA-H100", "none"),
            (DriftKind.LABELS, "nvidia.com/mig.strategy", "no label", "mixed"),
        ]


def test_a_difference_keeps_its_beginning() -> None:
    """Until it is gone; what it consists of may change meanwhile. One that comes back is a new one."""
    first = Drift(DriftKind.SHARES, "GPU 0", "x4", "x10")
    (begun,) = aged([first], (), 100.0)
    assert begun.since == 100.0
    (still, new) = aged(
        [Drift(DriftKind.SHARES, "GPU 0", "x4", "x6"), Drift(DriftKind.SHARES, "GPU 1", "", "")], [begun], 200.0
    )
    assert (still.since, still.have, new.since) == (100.0, "x6", 200.0)
    assert aged([first], (), 300.0)[0].since == 300.0
