"""The one protocol behind which all drivers look the same, and how one is chosen by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from nodeagent.devices.looking import Subscribe
from nodeagent.model.health import XidLog
from nodeagent.model.inventory import ComputeMode, GpuProcess, Inventory

_FORMS = '"nvml" or "simulated:FILE"'

_ROOT = Path("/")


class Driver(Protocol):
    """Keeps an inventory of the node up to date, and does what MPS needs of a GPU. Lives on one event loop.

    What concerns one GPU can be asked whether or not the driver runs. It raises DriverError, within the deadline of the
    driver, when there is no such GPU or the GPU does not do it.
    """

    @property
    def inventory(self) -> Inventory:
        """The newest inventory, replaced as a whole."""
        ...

    @property
    def xids(self) -> XidLog:
        """The XIDs that the driver has reported since this one runs, replaced as a whole."""
        ...

    def refresh(self) -> None:
        """Look again now instead of at the next interval. Returns at once; to be called on the loop."""
        ...

    async def run(self) -> None:
        """Looks until cancelled, and calls the `wake` that the driver was made with whenever the inventory differs."""
        ...

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        """Which processes may use this GPU; None when it has no compute mode."""
        ...

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        """Change that. It concerns processes that start to compute from now on, and takes privilege on a real GPU."""
        ...

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """The processes that compute on this GPU, by pid."""
        ...


def open_driver(
    spec: str,
    *,
    node_name: str,
    subscribe: Subscribe,
    wake: Callable[[], None],
    driver_root: Path = _ROOT,
    nvml_library: Path | None = None,
    xids: bool = True,
) -> Driver:
    """The driver that `spec` (`nvml` or `simulated:FILE`) names; it does nothing before `run`.

    `driver_root` and `nvml_library` say where NVML is, as the options of `run` do; without `xids` real GPUs are not
    listened to. Raises ValueError for any other spec. Whether there are a library, GPUs or a file is for the inventory
    to say.
    """
    path = _simulation_file(spec)
    if path is None:
        from nodeagent.devices.nvml import NvmlDriver

        return NvmlDriver(wake=wake, driver_root=driver_root, library=nvml_library, xids=xids)
    from nodeagent.devices.simulated import SimulatedDriver

    return SimulatedDriver(path, node_name=node_name, subscribe=subscribe, wake=wake)


async def read_once(
    spec: str, *, node_name: str, driver_root: Path = _ROOT, nvml_library: Path | None = None
) -> Inventory:
    """One look, for commands that need an inventory but follow nothing.

    Raises ValueError for a bad spec, OSError for a simulation file that cannot be read and `documents.strict.Rejected`,
    with all violations, for one that is not valid. What is wrong with real GPUs is in the inventory itself.
    """
    path = _simulation_file(spec)
    if path is None:
        from nodeagent.devices.nvml import NvmlDriver

        return await NvmlDriver(wake=lambda: None, driver_root=driver_root, library=nvml_library).look()
    from nodeagent.devices.simulated import load_inventory

    return await asyncio.to_thread(load_inventory, path, node_name)


def _simulation_file(spec: str) -> Path | None:
    """The file of `simulated:FILE`, None for `nvml`."""
    kind, separator, file = spec.partition(":")
    if spec == "nvml":
        return None
    if kind == "simulated" and separator and file:
        return Path(file)
    if kind == "simulated":
        raise ValueError(f"cannot open driver {spec!r}: it needs a file, as in simulated:node.yaml")
    raise ValueError(f"cannot open driver {spec!r}: expected {_FORMS}")
