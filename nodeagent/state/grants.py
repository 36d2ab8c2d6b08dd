"""What one container gets of its GPUs: variables, mounts, device nodes and names of CDI devices.

The result is that of NVIDIA's plugin, strategy by strategy and in its order, so that every container runtime that works
with that plugin works with this one. Where every strategy is one of CDI nothing else is handed over, save what makes a
client of MPS, which no CDI specification has.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Final

from nodeagent.model.allocation import ContainerGrant, DeviceSpec, Mount, RefusalReason, Refused
from nodeagent.model.config import Contract
from nodeagent.model.handover import (
    CONTROL_NODES,
    IMEX_CHANNEL,
    HandOver,
    HostFiles,
    IdStrategy,
    ListStrategy,
)
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import SHARED_MEMORY, MpsStatus
from nodeagent.state.daemons import verified

VISIBLE_DEVICES: Final = "NVIDIA_VISIBLE_DEVICES"
IMEX_CHANNELS: Final = "NVIDIA_IMEX_CHANNELS"
GDRCOPY: Final = "NVIDIA_GDRCOPY"
GDS: Final = "NVIDIA_GDS"
MOFED: Final = "NVIDIA_MOFED"
ENABLED: Final = "enabled"
"""What NVIDIA's container runtime reads."""

PIPE_DIRECTORY: Final = "CUDA_MPS_PIPE_DIRECTORY"
MEMORY_LIMIT: Final = "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"
THREAD_PERCENTAGE: Final = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
"""What a client of MPS reads (CUDA's own names)."""

PIPE_IN_CONTAINER: Final = "/mps/pipe"

_LISTED_BY_MOUNTS: Final = "/var/run/nvidia-container-devices"
_NOTHING: Final = "/dev/null"
"""The strategy `volume-mounts`: the runtime lists the devices by what is mounted below the one, which is the other."""

_ALLOCATIONS: Final = uuid.uuid5(uuid.NAMESPACE_URL, "https://nodeagent.io/allocation")

NO_CLIENT: Final = ContainerGrant({})
"""What a container needs for MPS where it is not under MPS."""


def grant(
    gpus: Sequence[Gpu],
    handover: HandOver,
    host: HostFiles,
    *,
    resource: str,
    shares: Iterable[str],
    client: ContainerGrant = NO_CLIENT,
) -> ContainerGrant:
    """The grant of one container that gets these shares, which are of these GPUs. `client` is what MPS takes.

    The same shares are granted by the same answer: nothing in it is random. Raises Refused (UNHEALTHY) where a device
    cannot be named or its name is another GPU's, or a node that must be passed is not there.
    """
    ids = [_id(resource, gpu, handover) for gpu in gpus]
    channels = _channels(resource, handover, host)
    annotations: dict[str, str] = {}
    devices: Sequence[str] = ()
    if handover.cdi:
        _demand_current(resource, gpus, handover, host)
        devices = cdi_devices(ids, channels, handover)
        if ListStrategy.CDI_ANNOTATIONS in handover.strategies:
            annotations[_annotation(handover, resource, shares)] = ",".join(devices)
        if ListStrategy.CDI_CRI not in handover.strategies:
            devices = ()
        if handover.only_cdi:
            return ContainerGrant(client.envs, client.mounts, annotations=annotations, cdi_devices=devices)
    envs, mounts = dict(client.envs), list(client.mounts)
    if ListStrategy.ENVVAR in handover.strategies:
        envs[VISIBLE_DEVICES] = ",".join(ids)
        if channels:
            envs[IMEX_CHANNELS] = ",".join(channels)
    if ListStrategy.VOLUME_MOUNTS in handover.strategies:
        envs[VISIBLE_DEVICES] = _LISTED_BY_MOUNTS
        listed = [*ids, *(f"imex/{channel}" for channel in channels)]
        mounts += [Mount(f"{_LISTED_BY_MOUNTS}/{one}", _NOTHING) for one in listed]
    envs |= {variable: ENABLED for variable, wanted in _extras(handover) if wanted}
    nodes = _nodes(resource, gpus, channels, host) if handover.device_specs else ()
    root = handover.dev_root.rstrip("/")
    specs = tuple(DeviceSpec(node, f"{root}{node}") for node in nodes)
    return ContainerGrant(envs, tuple(mounts), specs, annotations, devices)


def client(resource: str, gpu: Gpu, contract: Contract, shares: int, mps: MpsStatus) -> ContainerGrant:
    """What makes a container a client of the GPU's daemon: its pipe directory, the memory that clients share with the
    server, and its limits, which can only tighten what the daemon allows (FACTS).

    Where all this is follows from what the agent has verified: of another daemon it would be a guess, and Refused.
    """
    limits = contract.limits
    if limits is None or not verified(contract, gpu.uuid, mps):
        raise Refused(
            RefusalReason.UNHEALTHY,
            f"cannot allocate shares of {resource}: {gpu.name}: its MPS daemon is not ready: "
            f"{mps.trouble(gpu.uuid, contract)}",
        )
    memory, threads = limits.times(shares)
    return ContainerGrant(
        {
            PIPE_DIRECTORY: PIPE_IN_CONTAINER,
            MEMORY_LIMIT: f"0={memory}M",
            THREAD_PERCENTAGE: str(threads),
        },
        (Mount(PIPE_IN_CONTAINER, mps.pipe(gpu.uuid)), Mount(SHARED_MEMORY, mps.shared_memory)),
    )


def device_id(gpu: Gpu, strategy: IdStrategy) -> str | None:
    """What names a GPU to the container runtime: by index the driver's number of now, since that is what it counts by.

    None where nothing does: while the driver does not say which number a GPU has, and for MIG devices, which a runtime
    counts in the driver's order, which is not known here.
    """
    if strategy is IdStrategy.UUID:
        return gpu.uuid
    return str(gpu.driver_index) if gpu.mig is None and gpu.driver_index is not None else None


def cdi_devices(ids: Iterable[str], channels: Iterable[str], handover: HandOver) -> tuple[str, ...]:
    """The fully qualified names of CDI devices, in NVIDIA's order."""
    kinds = [kind for kind, wanted in cdi_extras(handover) if wanted]
    return (
        *(f"{handover.cdi_vendor}/gpu={one}" for one in ids),
        *(f"{handover.cdi_vendor}/imex-channel={channel}" for channel in channels),
        *(f"{handover.cdi_vendor}/{kind}=all" for kind in kinds),
    )


def is_outdated(gpu: Gpu, handover: HandOver, host: HostFiles) -> bool:
    """Whether a CDI specification from before gives another GPU by the name of this one: its device node is not that of
    this GPU. A specification that says nothing of device nodes, or is not there yet, may be right.
    """
    minors = host.cdi_minors.get(f"{handover.cdi_vendor}/gpu={device_id(gpu, handover.id_strategy)}")
    return minors is not None and gpu.minor is not None and gpu.minor not in minors


def cdi_extras(handover: HandOver) -> tuple[tuple[str, bool], ...]:
    """The classes of CDI devices that belong to no GPU, and whether they are asked for."""
    return ("gdrcopy", handover.gdrcopy), ("gds", handover.gds), ("mofed", handover.mofed)


def channels_found(handover: HandOver, host: HostFiles) -> tuple[str, ...]:
    """The IMEX channels that a container gets: those asked for that are there."""
    return tuple(map(str, handover.imex_channels)) if IMEX_CHANNEL in host.nodes else ()


def gpu_nodes(gpu: Gpu, host: HostFiles) -> tuple[str, ...] | None:
    """The device nodes of one GPU; of a MIG device its GPU's, and its capabilities. None where they are not known."""
    if gpu.minor is None:
        return None
    node = f"/dev/nvidia{gpu.minor}"
    if gpu.mig is None:
        return (node,)
    of_gpu = host.caps.get((gpu.minor, gpu.mig.gpu_instance, None))
    of_compute = host.caps.get((gpu.minor, gpu.mig.gpu_instance, gpu.mig.compute_instance))
    return None if of_gpu is None or of_compute is None else (node, of_gpu, of_compute)


def _id(resource: str, gpu: Gpu, handover: HandOver) -> str:
    found = device_id(gpu, handover.id_strategy)
    if found is None:
        raise _refused(
            resource,
            f"{gpu.name}: a MIG device cannot be handed over by index; set the device id strategy to uuid"
            if gpu.mig is not None
            else f"{gpu.name} cannot be handed over by index: the driver does not report its current index",
        )
    return found


def _demand_current(resource: str, gpus: Sequence[Gpu], handover: HandOver, host: HostFiles) -> None:
    for gpu in gpus:
        if is_outdated(gpu, handover, host):
            raise _refused(resource, f"{gpu.name}: the CDI specification gives another GPU by its name; make it anew")


def _channels(resource: str, handover: HandOver, host: HostFiles) -> tuple[str, ...]:
    """Raises Refused where a channel must be there and is not, or where files that matter have not been looked at."""
    if not host.looked and (handover.passes_nodes or handover.imex_channels):
        raise _refused(resource, f"the host's device nodes are not known: {host.problem or 'nobody has looked yet'}")
    if not handover.imex_channels:
        return ()
    found = channels_found(handover, host)
    if handover.imex_required and not found:
        raise _refused(resource, f"IMEX channel 0 is required, and there is no {IMEX_CHANNEL} on the node")
    return found


def _nodes(resource: str, gpus: Sequence[Gpu], channels: Sequence[str], host: HostFiles) -> tuple[str, ...]:
    found = [node for node in CONTROL_NODES if node in host.nodes]
    for gpu in gpus:
        nodes = gpu_nodes(gpu, host)
        if nodes is None:
            raise _refused(resource, f"{gpu.name}: its device nodes are not known, and they must be passed")
        found += nodes
    if channels:
        found.append(IMEX_CHANNEL)
    # MIG devices have the node of their GPU in common.
    return tuple(dict.fromkeys(found))


def _extras(handover: HandOver) -> tuple[tuple[str, bool], ...]:
    return (GDRCOPY, handover.gdrcopy), (GDS, handover.gds), (MOFED, handover.mofed)


def _annotation(handover: HandOver, resource: str, shares: Iterable[str]) -> str:
    """The key of the annotation. It must differ from that of any other allocation of the container."""
    unique = uuid.uuid5(_ALLOCATIONS, "\n".join([resource, *sorted(set(shares))]))
    return f"{handover.annotation_prefix}nvidia-device-plugin_{unique}"


def _refused(resource: str, why: str) -> Refused:
    return Refused(RefusalReason.UNHEALTHY, f"cannot allocate {resource}: {why}")
