"""Drift: every difference between Git and the node, one by one, each with what is wanted, what is there, and since
when.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from nodeagent.model.config import THROUGH_MIG, MpsLimits
from nodeagent.model.health import describe_xids
from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.model.node import NodeStatus
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import ConfigState, Drift, DriftKind
from nodeagent.model.words import count
from nodeagent.state.daemons import left_over, missing, troubles
from nodeagent.state.desired import Desired, Want, describe
from nodeagent.state.kubelet_view import View

NOT_TOLD = NodeStatus()
"""Of a node that tells nobody of itself."""

GONE = "gone"
"""What is wanted of a GPU that is not there any more."""


def drift(
    *,
    config: ConfigState,
    desired: Desired | None,
    applied: Applied,
    inventory: Inventory,
    mps: MpsStatus,
    registrations: Iterable[RegistrationStatus],
    views: Mapping[str, View],
    node: NodeStatus = NOT_TOLD,
) -> tuple[Drift, ...]:
    """All differences, in the order Git, GPUs, MPS, kubelet, labels, hardware. `since` is left at 0: see `aged`."""
    return (
        *_of_config(config),
        *_of_shares(desired, applied),
        *_of_mps(desired, applied, mps),
        *_of_kubelet(registrations, views),
        *_of_labels(node),
        *_of_hardware(applied, inventory),
    )


def aged(found: Iterable[Drift], before: Iterable[Drift], now: float) -> tuple[Drift, ...]:
    """The same differences with their beginning: what was there before keeps its `since`, even where its want or have
    has changed.
    """
    since = {(entry.kind, entry.subject): entry.since for entry in before}
    return tuple(replace(entry, since=since.get((entry.kind, entry.subject), now)) for entry in found)


def _of_config(config: ConfigState) -> Iterable[Drift]:
    accepted = config.desired.git_blob if config.desired is not None else "nothing accepted"
    if config.newest is None:
        yield Drift(DriftKind.CONFIG, config.path, "a document", f"{config.problem or 'no document'}; {accepted}")
    elif config.desired is None or config.newest.sha256 != config.desired.sha256:
        yield Drift(DriftKind.CONFIG, config.path, config.newest.git_blob, accepted)
    elif config.suspended:
        yield Drift(DriftKind.CONFIG, config.path, config.newest.git_blob, "suspended")
    if config.obstacles:
        have = f"these GPUs are at odds with it: {config.obstacles[0].message}"
        yield Drift(DriftKind.CONFIG, "GPUs", accepted, have)


def _of_shares(desired: Desired | None, applied: Applied) -> Iterable[Drift]:
    if desired is None:
        return
    for want in sorted(desired.wants.values(), key=lambda want: want.gpu.place):
        entry = applied.gpus.get(want.gpu.uuid)
        have = share_count(entry) if entry is not None else 0
        contract = entry.contract if entry is not None else None
        fenced = entry is not None and bool(entry.fences)
        if contract != want.contract or have != want.count or fenced:
            yield Drift(
                DriftKind.SHARES,
                want.gpu.name,
                wish(want),
                describe(contract, have) if contract is not None else "nothing advertised",
            )
    for entry in applied.ordered():
        if entry.gpu.uuid not in desired.wants and entry.contract is not None:
            yield Drift(DriftKind.SHARES, entry.gpu.name, GONE, describe(entry.contract, share_count(entry)))


def _of_mps(desired: Desired | None, applied: Applied, mps: MpsStatus) -> Iterable[Drift]:
    if mps.reason is MpsReason.PENDING:
        return
    found = troubles(applied, mps)
    for trouble in found:
        contract = trouble.entry.contract
        limits = contract.limits if contract is not None else None
        want = _daemon(limits) if limits is not None else "no MPS daemon"
        yield Drift(DriftKind.MPS, trouble.entry.gpu.name, want, trouble.message)
    told = {trouble.entry.gpu.uuid for trouble in found}
    yield from _unprepared(desired, applied, mps, told)
    for entry in applied.ordered():
        if have := left_over(entry.gpu.uuid, mps):
            yield Drift(DriftKind.MPS, entry.gpu.name, "the compute mode that was there before MPS", have)


def _unprepared(desired: Desired | None, applied: Applied, mps: MpsStatus, told: AbstractSet[str]) -> Iterable[Drift]:
    """GPUs that are to come under MPS, and for which there can be no daemon yet."""
    for want in sorted(desired.wants.values(), key=lambda want: want.gpu.place) if desired is not None else ():
        entry, contract = applied.gpus.get(want.gpu.uuid), want.contract
        if contract is None or contract.limits is None or want.gpu.uuid in told:
            continue
        if (entry is None or entry.contract != contract) and (have := missing(contract, want.gpu, mps)):
            yield Drift(DriftKind.MPS, want.gpu.name, _daemon(contract.limits), have)


def _daemon(limits: MpsLimits) -> str:
    return f"an MPS daemon with {limits}"


def _of_kubelet(registrations: Iterable[RegistrationStatus], views: Mapping[str, View]) -> Iterable[Drift]:
    for status in registrations:
        view = views.get(status.resource)
        if status.state is not RegistrationState.LIVE:
            have = f"{status.state.value}: {status.message}" if status.message else status.state.value
            yield Drift(DriftKind.KUBELET, status.resource, "registered, with an open stream", have)
        elif view is not None and view.drifted:
            yield Drift(
                DriftKind.KUBELET,
                status.resource,
                "the list that was sent",
                f"{count(view.missing, 'share')} missing, {view.surplus} too many in the kubelet's view",
            )


def _of_labels(node: NodeStatus) -> Iterable[Drift]:
    for key, want, have in node.differences:
        yield Drift(
            DriftKind.LABELS, key, want if want is not None else "no label", have if have is not None else "none"
        )


def _of_hardware(applied: Applied, inventory: Inventory) -> Iterable[Drift]:
    """A MIG device has the faults of its GPU, and one that is gone has been destroyed, which is no fault: what is left
    of its shares is told as such.
    """
    unwell = [entry for entry in applied.ordered() if not entry.well]
    sick = {entry.gpu.uuid for entry in unwell}
    faulty = [
        entry
        for entry in unwell
        if entry.gpu.mig is None or (entry.gpu.mig.parent not in sick and entry.gpu.health is not GpuHealth.LOST)
    ]
    for entry in faulty:
        gpu = entry.gpu
        broken = gpu.health is not GpuHealth.OK
        have = f"{gpu.health.value}: {gpu.message}" if broken else describe_xids(entry.xids)
        yield Drift(DriftKind.HARDWARE, gpu.name, GpuHealth.OK.value, have)
    told = any(entry.gpu.health is not GpuHealth.OK for entry in faulty)
    if inventory.reason is not InventoryReason.FOUND and not told:
        yield Drift(DriftKind.HARDWARE, "inventory", InventoryReason.FOUND.value, inventory.message)


def wish(want: Want) -> str:
    """What is wanted of a GPU: `time-sliced nvidia.com/gpu.shared x10`, `withheld`, `used through MIG devices`."""
    if want.rule == THROUGH_MIG:
        return "used through MIG devices" if want.gpu.mig is None else "part of a whole GPU"
    return describe(want.contract, want.count)


def share_count(entry: AppliedGpu) -> int:
    """How many shares of a GPU are offered: those on the list that are not on their way out."""
    return len(entry.numbers) - len(entry.fences)
