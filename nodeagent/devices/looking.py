"""What the drivers have in common: looking again and again, and making one inventory of what the GPUs answered."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason

Subscribe = Callable[[Path, Callable[[], None]], None]
"""`subscribe(directory, wake)`: `wake` is called on the loop whenever something happens in that directory."""


class LookingDriver(ABC):
    """A driver that looks every `interval` seconds, or when told to, and publishes what differs."""

    def __init__(self, *, wake: Callable[[], None], interval: float) -> None:
        self._wake = wake
        self._interval = interval
        self._inventory = Inventory()
        self._asked = asyncio.Event()

    @property
    def inventory(self) -> Inventory:
        """The newest inventory; PENDING until the first look has ended."""
        return self._inventory

    def refresh(self) -> None:
        """Look again now."""
        self._asked.set()

    @abstractmethod
    async def _look(self, last: Inventory) -> Inventory:
        """What the node has now, `last` being what it had. Nothing that a GPU, a library or a file does raises."""

    async def look(self) -> Inventory:
        """One look: returns, and keeps, the newest inventory."""
        self._inventory = await self._look(self._inventory)
        return self._inventory

    async def run(self) -> None:
        """Looks until cancelled, one look at a time."""
        while True:
            self._asked.clear()
            last = self._inventory
            if await self.look() != last:
                self._wake()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._asked.wait()


@dataclass(frozen=True, slots=True)
class Fault:
    """Why the GPU at `index` could not be asked: `health` LOST or HANG, and the words for it."""

    index: int
    health: GpuHealth
    message: str


def assemble(
    found: Iterable[Gpu],
    faults: Iterable[Fault] = (),
    *,
    known: Iterable[Gpu] = (),
    driver_version: str | None = None,
    cuda_version: str | None = None,
) -> Inventory:
    """The inventory of a look in which every GPU has answered or failed.

    A GPU that failed keeps the facts that are `known` of it. Which GPU it is can only be told by its index; where the
    one that had this index answers under another, or none had it, the fault stands in the message alone.
    """
    gpus = {gpu.uuid: gpu for gpu in found}
    missing = {gpu.index: gpu for gpu in known if gpu.uuid not in gpus}
    messages = []
    worst = {gpu.health for gpu in gpus.values()}
    for fault in faults:
        worst.add(fault.health)
        gpu = missing.get(fault.index)
        if gpu is not None:
            gpus[gpu.uuid] = replace(gpu, health=fault.health, message=fault.message)
        else:
            messages.append(f"GPU {fault.index}: {fault.message}")
    ordered = tuple(sorted(gpus.values(), key=lambda gpu: (gpu.index, gpu.uuid)))
    messages += [f"GPU {gpu.index} ({gpu.uuid}): {gpu.message}" for gpu in ordered if gpu.health is not GpuHealth.OK]
    return Inventory(
        gpus=ordered,
        driver_version=driver_version,
        cuda_version=cuda_version,
        reason=_reason(worst),
        message="; ".join(messages) if messages or ordered else "the driver lists no GPU",
        complete=True,
    )


def _reason(health: set[GpuHealth]) -> InventoryReason:
    if GpuHealth.LOST in health:
        return InventoryReason.GPU_LOST
    return InventoryReason.GPU_HANGS if GpuHealth.HANG in health else InventoryReason.FOUND
