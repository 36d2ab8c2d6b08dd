"""Two ways to say which GPUs there are, each with a driver that runs in a process of its own and sees them."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from tests.fakes.nvml.library import SONAME, Controls, inherited
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class World(ABC):
    """GPUs, and a driver that looks at them. `seen` are all inventories that it has published, oldest first."""

    directory: Path
    seen: list[Inventory] = field(default_factory=list)
    process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None

    @abstractmethod
    def has(self, *gpus: Gpu) -> None:
        """These are the GPUs from now on, each as healthy as it says."""

    @abstractmethod
    def options(self) -> dict[str, object]:
        """What the driver is made with."""

    def environment(self) -> Mapping[str, str]:
        """What the process of the driver gets besides our own environment."""
        return {}

    def expected(self, gpu: Gpu) -> Gpu:
        """`gpu` as far as this driver can tell."""
        return gpu

    async def start(self) -> None:
        """Start the driver."""
        program = Path(__file__).with_name("driver_process.py")
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(program),
            json.dumps(self.options()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=inherited({"PYTHONPATH": str(ROOT), **self.environment()}),
        )
        self._reader = asyncio.create_task(self._read())

    async def refresh(self) -> None:
        """Make the driver look again."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        await self.process.stdin.drain()

    async def inventory(self, holds: Callable[[Inventory], object]) -> Inventory:
        """The newest inventory, once `holds` is true of it."""

        def newest() -> Inventory | None:
            return self.seen[-1] if self.seen and holds(self.seen[-1]) else None

        try:
            found = await eventually(newest)
        except AssertionError:
            raise AssertionError(f"never published; seen: {self.seen}") from None
        assert found is not None
        return found

    async def end(self, within: float = 10.0) -> int:
        """Ask the process to end; its exit status."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(within):
            return await self.process.wait()

    async def clean_up(self) -> None:
        """Leave nothing behind."""
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        if self._reader is not None:
            await self._reader

    async def _read(self) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.seen.append(_inventory(json.loads(line)))


@dataclass
class NvmlWorld(World):
    """Real pynvml on a stand-in library. Options of the driver may be changed before it starts."""

    built: Path = Path()
    interval: float = 0.05
    deadline: float = 1.0
    reopen_after: float = 60.0

    def __post_init__(self) -> None:
        self.library = self.directory / "lib" / SONAME
        self.library.parent.mkdir()
        self.controls = Controls(self.directory / "nvml.conf", self.directory / "calls", self.directory / "sys")

    def has(self, *gpus: Gpu) -> None:
        self.controls.answer(gpus)
        self.install()

    def install(self) -> None:
        """Put the library where the process finds it, whole at once."""
        if not self.library.exists():
            fresh = self.library.with_suffix(".new")
            shutil.copy(self.built, fresh)
            fresh.replace(self.library)

    def environment(self) -> Mapping[str, str]:
        return self.controls.environment(self.library)

    def options(self) -> dict[str, object]:
        return {
            "sysfs": str(self.controls.sysfs),
            "interval": self.interval,
            "deadline": self.deadline,
            "reopen_after": self.reopen_after,
        }


@dataclass
class SimulatedWorld(World):
    """A simulation file."""

    def __post_init__(self) -> None:
        self.file = self.directory / "node.yaml"

    def has(self, *gpus: Gpu) -> None:
        entries = []
        for gpu in gpus:
            entry: dict[str, object] = {"model": gpu.model, "memory": f"{gpu.memory >> 10}Ki", "uuid": gpu.uuid}
            if gpu.compute_capability is not None:
                entry["computeCapability"] = "{}.{}".format(*gpu.compute_capability)
            if gpu.numa_node is not None:
                entry["numaNode"] = gpu.numa_node
            entries.append({**entry, "health": gpu.health.value})
        self.write(
            json.dumps(
                {
                    "apiVersion": "nodeagent.io/v1alpha1",
                    "kind": "SimulatedNode",
                    "driverVersion": "550.163.01",
                    "cudaVersion": "12.4",
                    "gpus": entries,
                },
                indent=1,
            )
        )

    def write(self, text: str) -> None:
        """Replace the file at once."""
        fresh = self.file.with_name(".node.yaml.new")
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.file)

    def expected(self, gpu: Gpu) -> Gpu:
        return Gpu(
            gpu.uuid,
            gpu.index,
            gpu.model,
            gpu.memory,
            gpu.compute_capability,
            minor=gpu.index,
            numa_node=gpu.numa_node,
        )

    def options(self) -> dict[str, object]:
        return {"simulated": str(self.file)}


def gpu(index: int, name: str | None = None, health: GpuHealth = GpuHealth.OK) -> Gpu:
    """A GPU like those of a common server. `name`, by default the index, makes its uuid."""
    digit = str(index) if name is None else name
    return Gpu(
        uuid=f"GPU-{digit * 8}-{digit * 4}-{digit * 4}-{digit * 4}-{digit * 12}",
        index=index,
        model="NVIDIA H100 80GB HBM3",
        memory=81559 << 20,
        compute_capability=(9, 0),
        minor=index,
        pci_bus_id=f"00000000:{index + 0x1A:02X}:00.0",
        numa_node=index % 2,
        health=health,
    )


def _inventory(fields: dict[str, Any]) -> Inventory:
    gpus = tuple(
        Gpu(
            **{
                **one,
                "health": GpuHealth(one["health"]),
                "compute_capability": one["compute_capability"] and tuple(one["compute_capability"]),
            }
        )
        for one in fields["gpus"]
    )
    return Inventory(**{**fields, "gpus": gpus, "reason": InventoryReason(fields["reason"])})
