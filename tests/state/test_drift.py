"""Drift: one entry for each difference, with what is wanted, what is there, and since when."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.shares import Applied
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
    registrations: Iterable[RegistrationStatus] = (),
    views: Mapping[str, View] | None = None,
) -> list[tuple[DriftKind, str, str, str]]:
    """Every difference, without its age."""
    every = drift(
        config=config,
        desired=desired,
        applied=applied or Applied(),
        inventory=inventory,
        registrations=registrations,
        views=views or {},
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


def test_a_fault_is_told_once() -> None:
    """By the GPU where one is at fault, else by the inventory."""
    lost = make.applied(make.entry(0, health=GpuHealth.LOST))
    broken = Inventory(reason=InventoryReason.DRIVER_MISSING, message="no driver")
    gpu = (DriftKind.HARDWARE, "GPU 0", "ok", "lost: it is lost")
    assert found(applied=lost) == [gpu]
    assert found(applied=lost, inventory=broken) == [gpu]
    assert found(inventory=broken) == [(DriftKind.HARDWARE, "inventory", "Found", "no driver")]


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
