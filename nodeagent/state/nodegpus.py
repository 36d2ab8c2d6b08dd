"""Which GPUs this node has, with the index each keeps: what rules are matched against.

The driver's indices shift when a GPU drops out (FACTS of NVML), and a GPU that is lost is missing from its list. A rule
by index must go on meaning the GPU it meant, and shares of a lost GPU must be sent Unhealthy rather than dropped. So
the inventory is never used as it comes, but laid over what is remembered in the applied contract.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import replace

from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.shares import Applied

UNLISTED = "the driver no longer lists it"
REMOVED = "it was taken out of the node"
DESTROYED = "its instance was destroyed"


def node_gpus(inventory: Inventory, applied: Applied) -> tuple[Gpu, ...]:
    """The node's GPUs by index: those that the driver lists, with their remembered indices, and those it has lost.

    Without a driver no GPU can be used; while the driver has merely not answered yet, each is as it was.

    One that is remembered from before a reboot and has not been seen since was taken out of the node, and is not a GPU
    of this node any more, once the driver has listed everything without a fault: a GPU that hangs or is lost may be it.
    A MIG device that a GPU which answers does not list was destroyed, and is no more either, whatever becomes of its
    GPU. A GPU that does not answer keeps what it last said of MIG: it is whole, or its MIG devices are, and never both.
    """
    inventory = replace(inventory, gpus=tuple(_with_its_mig(gpu, applied) for gpu in inventory.gpus))
    listed = inventory.by_uuid()
    whole = inventory.complete and inventory.reason is InventoryReason.FOUND
    gone = {uuid for uuid, entry in applied.gpus.items() if whole and entry.unseen and uuid not in listed}
    away = [entry.gpu for uuid, entry in applied.gpus.items() if uuid not in listed]
    gone |= {gpu.uuid for gpu in away if _is_destroyed(gpu, inventory, applied)}
    remembered = {uuid: entry.gpu.index for uuid, entry in applied.gpus.items() if uuid not in gone}
    taken = {entry.gpu.index for uuid, entry in applied.gpus.items() if uuid in remembered and entry.gpu.mig is None}
    gpus = []
    for gpu in sorted(inventory.gpus, key=lambda gpu: gpu.place):
        index = remembered.get(gpu.physical)
        if index is None:
            index = gpu.index if gpu.index not in taken else _lowest_free(taken)
            taken.add(index)
            remembered[gpu.uuid] = index
        gpus.append(gpu if index == gpu.index else replace(gpu, index=index))
    for uuid in remembered.keys() - listed.keys():
        gpu = applied.gpus[uuid].gpu
        if inventory.complete:
            gpu = replace(gpu, health=GpuHealth.LOST, message=UNLISTED)
        elif inventory.reason is InventoryReason.DRIVER_MISSING:
            gpu = replace(gpu, health=GpuHealth.LOST, message=inventory.message)
        gpus.append(gpu)
    return tuple(sorted(gpus, key=lambda gpu: gpu.place))


def unseen(applied: Applied) -> Applied:
    """The applied contract after a reboot: no GPU of it is known to be there still, and each has been reset."""
    return Applied(
        {uuid: replace(entry, unseen=True, xids={}, driver_load=None) for uuid, entry in applied.gpus.items()}
    )


def lost(gpu: Gpu) -> Gpu:
    """A GPU, or MIG device, that is not one of this node any more, as it is remembered."""
    return replace(gpu, health=GpuHealth.LOST, message=REMOVED if gpu.mig is None else DESTROYED)


def _with_its_mig(gpu: Gpu, applied: Applied) -> Gpu:
    """A GPU that does not answer does not say whether MIG is in force either, whatever the driver makes of it."""
    known = applied.gpus.get(gpu.uuid)
    if gpu.health is GpuHealth.OK or gpu.mig is not None or known is None:
        return gpu
    return replace(gpu, mig_enabled=known.gpu.mig_enabled)


def _is_destroyed(gpu: Gpu, inventory: Inventory, applied: Applied) -> bool:
    if gpu.mig is None:
        return False
    if gpu == lost(gpu):
        return True
    parent = inventory.by_uuid().get(gpu.mig.parent)
    if parent is not None:
        # A GPU that is well and has something to say cannot be asked for its MIG devices.
        return not parent.mig_enabled or (parent.health is GpuHealth.OK and not parent.message)
    known = applied.gpus.get(gpu.mig.parent)
    return known is not None and not known.gpu.mig_enabled


def _lowest_free(taken: AbstractSet[int]) -> int:
    return next(index for index in range(len(taken) + 1) if index not in taken)
