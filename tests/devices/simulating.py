"""A simulation file and the driver that reads it, in the process of the test: looks happen when the test says so."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.devices.simulated import SimulatedDriver
from nodeagent.devices.simulation_file import SimulatedNode, parse
from nodeagent.model.inventory import Inventory

HEAD = "apiVersion: nodeagent.io/v1alpha1\nkind: SimulatedNode\n"
A100 = "model: NVIDIA A100-SXM4-40GB, memory: 40Gi"


def parsed(text: str) -> SimulatedNode:
    """What a file means whose first two lines are HEAD."""
    return parse(f"{HEAD}{text}".encode(), "node.yaml", "node")


@dataclass
class Looked:
    """A driver on `file`, made by the first look. `wakes` counts how often it has woken somebody."""

    file: Path
    wakes: int = 0
    _driver: SimulatedDriver | None = field(default=None)

    @property
    def driver(self) -> SimulatedDriver:
        """The driver; to be asked for on a loop."""
        if self._driver is None:
            self._driver = SimulatedDriver(
                self.file, node_name="node", subscribe=lambda _directory, _wake: None, wake=self._woken
            )
        return self._driver

    async def look(self, text: str | None = None) -> Inventory:
        """One look, after the file has got this text behind HEAD."""
        if text is not None:
            self.file.write_text(f"{HEAD}{text}", encoding="utf-8")
        return await self.driver.look()

    def _woken(self) -> None:
        self.wakes += 1
