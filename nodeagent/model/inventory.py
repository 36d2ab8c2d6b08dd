"""What the node has: its GPUs, as a driver reports them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class GpuHealth(Enum):
    """What the driver says of a GPU; anything but OK makes every share of it Unhealthy."""

    OK = "ok"
    LOST = "lost"
    HANG = "hang"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One whole GPU. `memory` is in bytes; `index` is the driver's, from 0.

    `compute_capability` is (major, minor). `minor`, `pci_bus_id` and `numa_node` are None where the driver
    does not say. `message` explains a health other than OK.
    """

    uuid: str
    index: int
    model: str
    memory: int
    compute_capability: tuple[int, int] | None = None
    minor: int | None = None
    pci_bus_id: str | None = None
    numa_node: int | None = None
    health: GpuHealth = GpuHealth.OK
    message: str = ""


class InventoryReason(Enum):
    """Reasons of the condition InventoryReady."""

    FOUND = "Found"
    PENDING = "Pending"
    DRIVER_MISSING = "DriverMissing"
    DRIVER_ERROR = "DriverError"
    GPU_LOST = "GpuLost"
    GPU_HANGS = "GpuHangs"
    INVALID_FILE = "InvalidFile"


@dataclass(frozen=True, slots=True)
class Inventory:
    """The newest that a driver knows, ordered by index.

    `reason` FOUND means that everything asked was answered. Any other reason comes with a `message`; `gpus` then
    holds what is still known (a bad simulation file keeps the last inventory). `complete` is True when the driver has
    listed all GPUs that it has, so that a GPU that is not among them is lost rather than not yet seen.
    """

    gpus: tuple[Gpu, ...] = ()
    driver_version: str | None = None
    cuda_version: str | None = None
    reason: InventoryReason = InventoryReason.PENDING
    message: str = "the driver has not been asked yet"
    complete: bool = False

    def by_uuid(self) -> dict[str, Gpu]:
        return {gpu.uuid: gpu for gpu in self.gpus}
