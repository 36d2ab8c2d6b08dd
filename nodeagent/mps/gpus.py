"""What the MPS host needs of a driver: both drivers of `devices` do it."""

from __future__ import annotations

from typing import Protocol

from nodeagent.model.inventory import ComputeMode, GpuProcess, Inventory


class Gpus(Protocol):
    """Compute modes and processes of GPUs by uuid. Each call raises DriverError, and returns within a deadline."""

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        """Which processes may use this GPU; None when it has no compute mode."""
        ...

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        """Change that, for processes that start to compute from now on."""
        ...

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """The processes that compute on this GPU."""
        ...


class AllGpus(Gpus, Protocol):
    """The same of a driver that knows which GPUs there are."""

    @property
    def inventory(self) -> Inventory:
        """The GPUs that there are, as the driver last saw them."""
        ...
