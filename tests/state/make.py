"""Short ways to say things about nodes, for tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nodeagent.model.config import (
    DEFAULT_RESOURCE,
    MIB,
    Contract,
    Match,
    Mode,
    MpsLimits,
    MpsTerms,
    Rule,
    SharingConfig,
)
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason, MigDevice
from nodeagent.model.kubelet import CheckpointEntry, Holder, PodListing, PodResourcesReason, PodResourcesStatus
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.desired import Desired, resolve
from nodeagent.state.lists import lists
from nodeagent.state.observed import Observed

SHARED = "nvidia.com/gpu.shared"
MPS = "nvidia.com/gpu.mps"
GIB = 2**30

WHOLE = Contract(DEFAULT_RESOURCE, Mode.EXCLUSIVE)
SLICED = Contract(SHARED, Mode.TIME_SLICED)


def under_mps(memory: int = 9216, threads: int = 25, most: int = 1, *, resource: str = MPS) -> Contract:
    """A contract of so many MiB and percent per share."""
    return Contract(resource, Mode.MPS, MpsLimits(memory, threads, most))


QUARTER = under_mps()
HALF = under_mps(18432, 50)
ROOT = "/run/nodeagent/mps"


def uuid_of(index: int) -> str:
    """The uuid of the test GPU with this index."""
    return f"GPU-{index}"


def gpu(index: int, *, health: GpuHealth = GpuHealth.OK, model: str = "NVIDIA H100", memory: int = 80 * GIB) -> Gpu:
    """A GPU whose uuid tells its index, which the driver calls it by as well while it is well."""
    well = health is GpuHealth.OK
    message = "" if well else f"it is {health.value}"
    driver_index = index if well else None
    return Gpu(uuid_of(index), index, model, memory, health=health, message=message, driver_index=driver_index)


def with_mig(index: int, *, health: GpuHealth = GpuHealth.OK) -> Gpu:
    """A GPU that is used through its MIG devices."""
    return replace(gpu(index, health=health), mig_enabled=True)


def mig(index: int, instance: int, profile: str = "1g.10gb", *, compute: int = 0) -> Gpu:
    """A MIG device of the GPU with this index, whose uuid tells its instances."""
    suffix = f"-{compute}" if compute else ""
    part = MigDevice(uuid_of(index), profile, instance, compute)
    return replace(gpu(index), uuid=f"MIG-{index}-{instance}{suffix}", memory=10 * GIB, mig=part)


def inventory(*gpus: Gpu, complete: bool = True) -> Inventory:
    """What a driver that answers everything says."""
    return Inventory(gpus, reason=InventoryReason.FOUND, message="", complete=complete)


def whole(*indices: int, resource: str = DEFAULT_RESOURCE, name: str = "whole") -> Rule:
    """A rule for whole GPUs; without indices, for all of them."""
    return Rule(name, _match(indices), Contract(resource, Mode.EXCLUSIVE), 1)


def sliced(replicas: int, *indices: int, resource: str = SHARED, most: int | None = None, name: str = "sliced") -> Rule:
    """A rule for time-sliced GPUs; `most` is `maxSharesPerContainer`."""
    return Rule(name, _match(indices), Contract(resource, Mode.TIME_SLICED), replicas, most)


def mps(
    replicas: int,
    *indices: int,
    memory: int | None = 9216,
    threads: int | None = 25,
    resource: str = MPS,
    most: int = 1,
    name: str = "mps",
) -> Rule:
    """A rule for GPUs under MPS; `memory` in MiB, both limits None for a part of the GPU."""
    terms = MpsTerms(None if memory is None else memory * MIB, threads)
    return Rule(name, _match(indices), Contract(resource, Mode.MPS), replicas, most, terms)


def withheld(*indices: int, name: str = "withheld") -> Rule:
    """A rule that nothing is advertised of some GPUs."""
    return Rule(name, _match(indices), None, 0)


def config(*rules: Rule, suspend: bool = False) -> SharingConfig:
    """A sharing config of these rules."""
    return SharingConfig("test", rules, suspend)


def wanted(gpus: Iterable[Gpu], *rules: Rule) -> Desired:
    """What these rules want of these GPUs."""
    return resolve(config(*rules), gpus)


def entry(
    index: int,
    contract: Contract | None = None,
    numbers: Iterable[int] = (),
    fences: Mapping[int, float] | None = None,
    *,
    health: GpuHealth = GpuHealth.OK,
    most: int | None = None,
    fault: str = "",
    leaving: bool = False,
) -> AppliedGpu:
    """What is applied of one GPU."""
    facts = gpu(index, health=health)
    return AppliedGpu(facts, contract, frozenset(numbers), fences or {}, most, fault=fault, leaving=leaving)


def daemon(
    index: int,
    contract: Contract = QUARTER,
    state: DaemonState = DaemonState.READY,
    message: str = "",
    *,
    altered: str = "",
) -> MpsDaemon:
    """The MPS daemon of one GPU."""
    return MpsDaemon(uuid_of(index), contract, state, message, altered=altered)


def host(*daemons: MpsDaemon, reason: MpsReason = MpsReason.RUNNING, message: str = "") -> MpsStatus:
    """An MPS host and its daemons."""
    return MpsStatus(reason, message, {one.uuid: one for one in daemons}, ROOT, f"{ROOT}/shm")


def applied(*entries: AppliedGpu) -> Applied:
    """What is applied of a node."""
    return Applied({one.gpu.uuid: one for one in entries})


def keys(resource: str, index: int, *numbers: int) -> frozenset[ShareKey]:
    """Shares of a time-sliced GPU; without numbers, the whole GPU."""
    uuid = uuid_of(index)
    return frozenset((resource, f"{uuid}::{number}") for number in numbers) or frozenset({(resource, uuid)})


def holder(resource: str, *ids: str, pod: str = "pod", container: str = "main") -> Holder:
    """A container that PodResources lists."""
    return Holder("default", pod, container, resource, ids)


def in_checkpoint(resource: str, share: str, pod: str = "uid", container: str = "main") -> CheckpointEntry:
    """An id in the kubelet's checkpoint."""
    return CheckpointEntry(pod, container, resource, share)


def holders(held: Iterable[ShareKey]) -> tuple[Holder, ...]:
    """One container per share."""
    return tuple(holder(resource, share, pod=f"pod-{share}") for resource, share in sorted(held))


def followed(have: Applied) -> dict[str, frozenset[str]]:
    """What a kubelet that knows our newest lists would hand out."""
    found = lists(have, (), {})
    return {name: frozenset(one.id for one in listing.devices if one.healthy) for name, listing in found.items()}


def look(
    begun_at: float,
    held: Iterable[ShareKey] = (),
    allocatable: Mapping[str, frozenset[str]] | None = None,
    checkpoint: Iterable[CheckpointEntry] | None = (),
    kubelet: str = "kubelet-1",
) -> PodListing:
    """A look at the kubelet."""
    entries = None if checkpoint is None else frozenset(checkpoint)
    return PodListing(begun_at, kubelet, holders(held), allocatable or {}, entries)


def listed(listing: PodListing) -> PodResourcesStatus:
    """PodResources that can be read."""
    return PodResourcesStatus(PodResourcesReason.LISTED, "", listing)


def unreadable(listing: PodListing | None = None) -> PodResourcesStatus:
    """PodResources that cannot be read (any more)."""
    return PodResourcesStatus(PodResourcesReason.TIMEOUT, "PodResources did not answer", listing)


def seen(
    have: Applied,
    now: float = 100.0,
    held: Iterable[ShareKey] = (),
    pods: PodResourcesStatus | None = None,
    **more: object,
) -> Observed:
    """An observation of this very moment: a fresh look, and a kubelet that knows our newest lists."""
    held = frozenset(held)
    if pods is None:
        pods = listed(look(now, held, followed(have)))
    gpus = tuple(one.gpu for one in have.ordered())
    plain = Observed(now=now, gpus=gpus, applied=have, held=held, pods=pods, registered=have.resources())
    return replace(plain, **more)  # type: ignore[arg-type]  # the fields of Observed, as the tests name them


def _match(indices: tuple[int, ...]) -> Match:
    return Match(indices=frozenset(indices)) if indices else Match()
