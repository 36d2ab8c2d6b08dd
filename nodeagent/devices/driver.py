"""The one protocol behind which all drivers look the same, and how one is chosen by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from nodeagent.devices.looking import Subscribe
from nodeagent.model.inventory import Inventory

_FORMS = '"nvml" or "simulated:FILE"'


class Driver(Protocol):
    """Keeps an inventory of the node up to date. Lives on one event loop."""

    @property
    def inventory(self) -> Inventory:
        """The newest inventory, replaced as a whole."""
        ...

    def refresh(self) -> None:
        """Look again now instead of at the next interval. Returns at once; to be called on the loop."""
        ...

    async def run(self) -> None:
        """Looks until cancelled, and calls the `wake` that the driver was made with whenever the inventory differs."""
        ...


def open_driver(spec: str, *, node_name: str, subscribe: Subscribe, wake: Callable[[], None]) -> Driver:
    """The driver that `spec` (`nvml` or `simulated:FILE`) names; it does nothing before `run`.

    Raises ValueError for any other spec. Whether there are a library, GPUs or a file is for the inventory to say.
    """
    path = _simulation_file(spec)
    if path is None:
        from nodeagent.devices.nvml import NvmlDriver

        return NvmlDriver(wake=wake)
    from nodeagent.devices.simulated import SimulatedDriver

    return SimulatedDriver(path, node_name=node_name, subscribe=subscribe, wake=wake)


async def read_once(spec: str, *, node_name: str) -> Inventory:
    """One look, for commands that need an inventory but follow nothing.

    Raises ValueError for a bad spec, OSError for a simulation file that cannot be read and `documents.strict.Rejected`,
    with all violations, for one that is not valid. What is wrong with real GPUs is in the inventory itself.
    """
    path = _simulation_file(spec)
    if path is None:
        from nodeagent.devices.nvml import NvmlDriver

        return await NvmlDriver(wake=lambda: None).look()
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
