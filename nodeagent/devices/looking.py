"""What the drivers have in common: looking again and again, and making one inventory of what the GPUs answered."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from nodeagent.model.health import XidLog
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason, Vgpu
from nodeagent.model.topology import Topology

Subscribe = Callable[[Path, Callable[[], None]], None]
"""`subscribe(directory, wake)`: `wake` is called on the loop whenever something happens in that directory."""


class LookingDriver(ABC):
    """A driver that looks every `interval` seconds, or when told to, and publishes what differs."""

    def __init__(self, *, wake: Callable[[], None], interval: float) -> None:
        self._wake = wake
        self._interval = interval
        self._inventory = Inventory()
        self._xids = XidLog()
        self._asked = asyncio.Event()
        self._under_way: asyncio.Task[Inventory] | None = None

    @property
    def inventory(self) -> Inventory:
        """The newest inventory; PENDING until the first look has ended."""
        return self._inventory

    @property
    def xids(self) -> XidLog:
        """The newest XIDs; PENDING until the first look has ended."""
        return self._xids

    def refresh(self) -> None:
        """Look again now."""
        self._asked.set()

    @abstractmethod
    async def _look(self, last: Inventory) -> Inventory:
        """What the node has now, `last` being what it had. Nothing that a GPU, a library or a file does raises."""

    async def look(self) -> Inventory:
        """One look that begins after this call: returns, and keeps, the newest inventory."""
        while self._under_way is not None:
            await asyncio.wait((self._under_way,))
        return await self._looked()

    async def _looked(self) -> Inventory:
        """The outcome of the look that is under way, or else of a new one; it goes on when its callers do not wait."""
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._look_once())
        return await asyncio.shield(self._under_way)

    async def _look_once(self) -> Inventory:
        last, xids = self._inventory, self._xids
        try:
            self._inventory = await self._look(last)
        finally:
            self._under_way = None
        if (self._inventory, self._xids) != (last, xids):
            self._wake()
        return self._inventory

    async def run(self) -> None:
        """Looks until cancelled, one look at a time."""
        while True:
            self._asked.clear()
            await self.look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the GPU at `index` could not be asked: `health` LOST or HANG, and the words for it. `blocked`: it may be that
    nobody lets us ask, and nothing is wrong with it.
    """

    index: int
    health: GpuHealth
    message: str
    blocked: bool = False


def assemble(
    found: Iterable[Gpu],
    faults: Iterable[Fault] = (),
    *,
    known: Iterable[Gpu] = (),
    driver_version: str | None = None,
    cuda_version: str | None = None,
    driver_load: str | None = None,
    topology: Topology | None = None,
    vgpu: Vgpu | None = None,
) -> Inventory:
    """The inventory of a look in which every GPU has answered or failed. Both `found` and `known` are whole GPUs and
    their MIG devices.

    A GPU that failed keeps the facts that are `known` of it, and its MIG devices, which have its fault. Which GPU it is
    can only be told by its index; where the one that had this index answers under another, or none had it, the fault
    stands in the message alone. A GPU that is well but has a message does not tell of all its MIG devices: those that
    are known are kept, and lost for that reason. The message names GPUs by uuid, as far as that is known: who reads it
    may have other numbers for them.
    """
    found, faults = tuple(found), tuple(faults)
    gpus = {gpu.uuid: gpu for gpu in found}
    parts: dict[str, list[Gpu]] = {}
    missing: dict[int, Gpu] = {}
    for gpu in known:
        if gpu.mig is not None:
            parts.setdefault(gpu.mig.parent, []).append(gpu)
        elif gpu.uuid not in gpus:
            missing[gpu.index] = gpu
    messages = []
    worst = {gpu.health for gpu in gpus.values()}
    for fault in faults:
        worst.add(fault.health)
        whole = missing.get(fault.index)
        if whole is None:
            messages.append(f"the driver's GPU {fault.index}: {fault.message}")
            continue
        for one in (whole, *parts.get(whole.uuid, ())):
            gpus[one.uuid] = replace(one, health=fault.health, message=fault.message)
    for whole in [gpu for gpu in gpus.values() if gpu.message and gpu.health is GpuHealth.OK]:
        untold = [one for one in parts.get(whole.uuid, ()) if one.uuid not in gpus]
        for one in untold:
            gpus[one.uuid] = replace(one, index=whole.index, health=GpuHealth.LOST, message=whole.message)
        if untold:
            worst.add(GpuHealth.LOST)
            messages.append(f"{whole.uuid}: {whole.message}")
    ordered = tuple(sorted(gpus.values(), key=lambda gpu: gpu.place))
    messages += [f"{gpu.uuid}: {gpu.message}" for gpu in ordered if gpu.mig is None and gpu.health is not GpuHealth.OK]
    return Inventory(
        gpus=ordered,
        driver_version=driver_version,
        cuda_version=cuda_version,
        reason=_reason(worst),
        message="; ".join(messages) if messages or ordered else "the driver lists no GPU",
        complete=True,
        driver_load=driver_load,
        topology=topology or Topology(),
        vgpu=vgpu,
        counted=sum(gpu.mig is None for gpu in found) + len(faults),
    )


def _reason(health: set[GpuHealth]) -> InventoryReason:
    if GpuHealth.LOST in health:
        return InventoryReason.GPU_LOST
    return InventoryReason.GPU_HANGS if GpuHealth.HANG in health else InventoryReason.FOUND
