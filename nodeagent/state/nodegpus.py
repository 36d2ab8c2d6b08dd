"""Which GPUs this node has, and the number that each keeps: what rules are matched against.

The driver's numbers shift when a GPU drops out (FACTS of NVML), and a GPU that is lost is missing from its list. A rule
by index must go on meaning the GPU it meant, and shares of a lost GPU must be sent Unhealthy rather than dropped. So
the inventory is never used as it comes, but laid over what is remembered in the applied contract.

A container runtime knows the driver's numbers only. So each GPU has both: `index` is the number that it keeps, and
`driver_index` what the driver calls it at this moment. The latter, and the number of its device node, are the driver's
word or nothing: what was remembered of them is not believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.shares import Applied, AppliedGpu

UNLISTED = "the driver no longer lists it"
REMOVED = "it was taken out of the node"
DESTROYED = "its instance was destroyed"


def node_gpus(inventory: Inventory, applied: Applied) -> tuple[Gpu, ...]:
    """The node's GPUs by index: those that the driver lists, with the numbers they keep, and those it has lost.

    Without a driver no GPU can be used; while the driver has merely not answered yet, each is as it was.

    One that is remembered from before a reboot and has not been seen since was taken out of the node, and is not a GPU
    of this node any more, once every GPU that the driver counts has answered: one that hangs or is lost may be it.
    A MIG device that a GPU which answers does not list was destroyed, and is no more either, whatever becomes of its
    GPU. A GPU that does not answer keeps what it last said of MIG: it is whole, or its MIG devices are, and never both.
    """
    inventory = replace(inventory, gpus=tuple(_with_its_mig(gpu, applied) for gpu in inventory.gpus))
    listed = inventory.by_uuid()
    known = {uuid: entry.gpu for uuid, entry in applied.gpus.items() if not _is_gone(entry, listed, inventory, applied)}
    numbers = _numbers(inventory, known.values())
    gpus = [_called(gpu, inventory) for gpu in inventory.gpus]
    for uuid in known.keys() - listed.keys():
        gpu = _nameless(known[uuid])
        if inventory.complete:
            gpu = replace(gpu, health=GpuHealth.LOST, message=UNLISTED)
        elif inventory.reason is InventoryReason.DRIVER_MISSING:
            gpu = replace(gpu, health=GpuHealth.LOST, message=inventory.message)
        gpus.append(gpu)
    return tuple(sorted((_numbered(gpu, numbers) for gpu in gpus), key=lambda gpu: gpu.place))


def unseen(applied: Applied) -> Applied:
    """The applied contract after a reboot: no GPU of it is known to be there still, and each has been reset."""
    return Applied(
        {uuid: replace(entry, unseen=True, xids={}, driver_load=None) for uuid, entry in applied.gpus.items()}
    )


def lost(gpu: Gpu) -> Gpu:
    """A GPU, or MIG device, that is not one of this node any more, as it is remembered."""
    return replace(_nameless(gpu), health=GpuHealth.LOST, message=REMOVED if gpu.mig is None else DESTROYED)


def _with_its_mig(gpu: Gpu, applied: Applied) -> Gpu:
    """A GPU that does not answer does not say whether MIG is in force either, whatever the driver makes of it."""
    known = applied.gpus.get(gpu.uuid)
    if gpu.health is GpuHealth.OK or gpu.mig is not None or known is None:
        return gpu
    return replace(gpu, mig_enabled=known.gpu.mig_enabled)


def _is_gone(entry: AppliedGpu, listed: Mapping[str, Gpu], inventory: Inventory, applied: Applied) -> bool:
    if entry.gpu.uuid in listed:
        return False
    return (entry.unseen and inventory.whole) or _is_destroyed(entry.gpu, listed, applied)


def _is_destroyed(gpu: Gpu, listed: Mapping[str, Gpu], applied: Applied) -> bool:
    if gpu.mig is None:
        return False
    if gpu.message == DESTROYED:
        return True
    parent = listed.get(gpu.mig.parent)
    if parent is not None:
        # A GPU that is well and has something to say cannot be asked for its MIG devices.
        return not parent.mig_enabled or (parent.health is GpuHealth.OK and not parent.message)
    known = applied.gpus.get(gpu.mig.parent)
    return known is not None and not known.gpu.mig_enabled


# --- the number that a GPU keeps ------------------------------------------------------------------------------------


def _numbers(inventory: Inventory, known: Iterable[Gpu]) -> dict[str, tuple[int, bool]]:
    """The number of each whole GPU by uuid, and whether it is provisional.

    A GPU keeps its number. One that is new gets the driver's, or where another one has that the lowest that is free.
    The other one may turn out to be gone: a number that is not the driver's is provisional until no GPU is missing,
    neither of those that the driver counts nor of those that are remembered. Then it is given anew, and for good.
    """
    listed = sorted((gpu for gpu in inventory.gpus if gpu.mig is None), key=lambda gpu: gpu.place)
    remembered = [gpu for gpu in known if gpu.mig is None]
    final = inventory.whole and {gpu.uuid for gpu in remembered} <= {gpu.uuid for gpu in listed}
    found = {gpu.uuid: (gpu.index, gpu.provisional) for gpu in remembered if not (final and gpu.provisional)}
    taken = {index for index, _ in found.values()}
    new = [gpu for gpu in listed if gpu.uuid not in found]
    # The driver's numbers first: the lowest that is free for one may be another's.
    for gpu in new:
        if gpu.index not in taken:
            found[gpu.uuid] = gpu.index, False
            taken.add(gpu.index)
    for gpu in new:
        if gpu.uuid not in found:
            index = _lowest_free(taken)
            found[gpu.uuid] = index, not final
            taken.add(index)
    return found


def _numbered(gpu: Gpu, numbers: Mapping[str, tuple[int, bool]]) -> Gpu:
    """A MIG device of a GPU that nobody knows keeps what it has."""
    index, provisional = numbers.get(gpu.physical, (gpu.index, gpu.provisional))
    return replace(gpu, index=index, provisional=provisional)


def _lowest_free(taken: AbstractSet[int]) -> int:
    return next(index for index in range(len(taken) + 1) if index not in taken)


# --- what the driver calls it now -----------------------------------------------------------------------------------


def _called(gpu: Gpu, inventory: Inventory) -> Gpu:
    """A GPU of the inventory, its index there told apart from the one it keeps. It is the driver's word of now where
    the newest look has come to an end, and this GPU has answered it.
    """
    answers = inventory.complete and gpu.health is GpuHealth.OK
    return replace(gpu, driver_index=gpu.index if answers else None)


def _nameless(gpu: Gpu) -> Gpu:
    """A GPU that the driver does not list. (Another one may have its numbers by now.)"""
    return replace(gpu, driver_index=None, minor=None)
