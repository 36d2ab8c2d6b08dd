"""Two ways to say which GPUs there are, each with a driver that runs in a process of its own and sees them."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nodeagent.model.health import XidLog
from nodeagent.model.inventory import ComputeMode, DriverError, Gpu, GpuHealth, GpuProcess, Inventory
from tests.fakes.nvml.library import MODES, SONAME, Controls, computing, connected, inherited, partitioned
from tests.waiting import WITHIN, eventually, longer

ROOT = Path(__file__).resolve().parents[2]

Modes = Mapping[str, ComputeMode]
Processes = Mapping[str, Sequence[GpuProcess]]


@dataclass(frozen=True)
class Node:
    """What there is besides the facts of the GPUs, all by uuid.

    `modes` are the compute modes other than the default that they have had from the start, `processes` what computes on
    them, `mig` the profiles of the MIG devices of those that have MIG enabled. `silent` ones report no XIDs. Those of
    one island, by index, are linked by NVLink.
    """

    gpus: tuple[Gpu, ...] = ()
    modes: Modes = field(default_factory=dict)
    processes: Processes = field(default_factory=dict)
    mig: Mapping[str, Sequence[str]] = field(default_factory=dict)
    silent: Collection[str] = ()
    islands: Sequence[Sequence[int]] = ()


@dataclass
class World(ABC):
    """GPUs, and a driver that looks at them. `seen` are all inventories that it has published, oldest first, `logs` the
    XIDs published with each.

    A driver that does not follow is asked, but does not look by itself.
    """

    directory: Path
    follows: bool = True
    seen: list[Inventory] = field(default_factory=list)
    logs: list[XidLog] = field(default_factory=list)
    node: Node = field(default_factory=Node)
    process: asyncio.subprocess.Process | None = None
    _reader: asyncio.Task[None] | None = None
    _asked: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    def has(self, *gpus: Gpu, **more: Any) -> None:  # noqa: ANN401  # as the fields of Node
        """These are the GPUs from now on, each as healthy as it says; `more` are the other fields of `Node`."""
        self.node = Node(gpus, **more)
        self.show(self.node)

    @abstractmethod
    def show(self, node: Node) -> None:
        """All of this is so from now on."""

    @abstractmethod
    def report(self, gpu: Gpu, xid: int, part: int | None = None) -> None:
        """The GPU reports this XID once, of its MIG device at this position if it is told."""

    @abstractmethod
    def reload(self) -> None:
        """The kernel driver is unloaded, and loaded again."""

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
            json.dumps({"follows": self.follows, **self.options()}),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1 << 24,
            env=inherited({"PYTHONPATH": str(ROOT), **self.environment()}),
        )
        self._reader = asyncio.create_task(self._read())

    async def refresh(self) -> None:
        """Make the driver look again."""
        await self._write(b"\n")

    async def restart(self) -> None:
        """End what follows the driver, and begin it anew, in the same process."""
        await self._write(b"restart\n")

    async def _write(self, line: bytes) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(line)
        await self.process.stdin.drain()

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        """What the driver answers, or cannot."""
        mode = await self._ask("compute_mode", uuid)
        return None if mode is None else ComputeMode(mode)

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        """Make the driver set it, if it can."""
        await self._ask("set_compute_mode", uuid, mode.value)

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """What the driver answers, or cannot."""
        return tuple(GpuProcess(**one) for one in await self._ask("processes", uuid))

    async def _ask(self, method: str, *arguments: str) -> Any:  # noqa: ANN401  # as told in JSON
        number = len(self._asked)
        answer = self._asked[number] = asyncio.get_running_loop().create_future()
        line = json.dumps({"ask": number, "method": method, "arguments": arguments})
        await self._write(f"{line}\n".encode())
        return await asyncio.wait_for(answer, longer(WITHIN))

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

    async def xids(self, holds: Callable[[XidLog], object]) -> XidLog:
        """The newest XIDs, once `holds` is true of them."""

        def newest() -> XidLog | None:
            return self.logs[-1] if self.logs and holds(self.logs[-1]) else None

        try:
            found = await eventually(newest)
        except AssertionError:
            raise AssertionError(f"never published; last seen: {self.logs[-1:]}") from None
        assert found is not None
        return found

    async def end(self, within: float = 10.0) -> int:
        """Ask the process to end; its exit status."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(longer(within)):
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
            if not line.endswith(b"\n"):  # it was killed while it wrote
                break
            match json.loads(line):
                case {"answer": number, "value": value}:
                    self._asked[number].set_result(value)
                case {"answer": number, "error": message}:
                    self._asked[number].set_exception(DriverError(message))
                case {"seen": text}:
                    inventory, xids = pickle.loads(base64.b64decode(text))  # noqa: S301  # of our own process
                    self.seen.append(inventory)
                    self.logs.append(xids)


@dataclass
class NvmlWorld(World):
    """Real pynvml on a stand-in library. Options of the driver may be changed before it starts."""

    built: Path = Path()
    interval: float = 0.05
    deadline: float = 1.0
    reopen_after: float = 60.0
    driver_root: Path | None = None
    nvml_library: Path | None = None

    def __post_init__(self) -> None:
        self.library = self.directory / "lib" / SONAME
        self.library.parent.mkdir()
        self.controls = Controls(self.directory / "nvml.conf", self.directory / "calls", self.directory / "sys")
        self.controls.load_driver()

    def show(self, node: Node) -> None:
        self.controls.answer(node.gpus, **self.lines(node))
        self.install()

    def lines(self, node: Node) -> dict[str, object]:
        """What the library is to answer besides the facts of the GPUs."""
        lines = connected(node.gpus, node.islands)
        for position, gpu in enumerate(node.gpus):
            lines |= computing(position, node.processes.get(gpu.uuid, ()))
            lines[f"gpu__{position}__mode"] = MODES[node.modes.get(gpu.uuid, ComputeMode.DEFAULT)]
            lines[f"gpu__{position}__events"] = int(gpu.uuid not in node.silent)
            if gpu.uuid in node.mig:
                lines |= partitioned(position, gpu, node.mig[gpu.uuid])
        return lines

    def report(self, gpu: Gpu, xid: int, part: int | None = None) -> None:
        position = self.node.gpus.index(gpu)
        lines = partitioned(position, gpu, self.node.mig.get(gpu.uuid, ()))
        instances = () if part is None else (int(str(lines[f"gpu__{position}__mig__{part}__gi"])), 0)
        self.controls.report(position, xid, *instances)

    def reload(self) -> None:
        self.controls.load_driver()

    def kernel(self, line: str | None) -> None:
        """What the kernel says of the driver's version; None: nothing."""
        file = self.directory / "proc/driver/nvidia/version"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        if line is not None:
            file.write_text(f"{line}\nGCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)\n")

    def install(self) -> None:
        """Put the library where the process finds it, whole at once."""
        if not self.library.exists():
            fresh = self.library.with_suffix(".new")
            shutil.copy(self.built, fresh)
            fresh.replace(self.library)

    def environment(self) -> Mapping[str, str]:
        found = self.controls.environment(self.library)
        elsewhere = self.driver_root is not None or self.nvml_library is not None
        return {**found, "LD_LIBRARY_PATH": ""} if elsewhere else found

    def options(self) -> dict[str, object]:
        return {
            "sysfs": str(self.controls.sysfs),
            "procfs": str(self.directory / "proc"),
            "interval": self.interval,
            "deadline": self.deadline,
            "reopen_after": self.reopen_after,
            **({} if self.driver_root is None else {"driver_root": str(self.driver_root)}),
            **({} if self.nvml_library is None else {"library": str(self.nvml_library)}),
        }


@dataclass
class SimulatedWorld(World):
    """A simulation file."""

    def __post_init__(self) -> None:
        self.file = self.directory / "node.yaml"
        self.loads = 1
        self.reported: list[tuple[str, dict[str, int]]] = []

    def show(self, node: Node) -> None:
        entries = []
        for gpu in node.gpus:
            entry: dict[str, object] = {"model": gpu.model, "memory": f"{gpu.memory >> 10}Ki", "uuid": gpu.uuid}
            if gpu.compute_capability is not None:
                entry["computeCapability"] = "{}.{}".format(*gpu.compute_capability)
            if gpu.numa_node is not None:
                entry["numaNode"] = gpu.numa_node
            if gpu.pci_class is not None:
                entry["pciClass"] = gpu.pci_class
            if gpu.clique is not None:
                entry["clique"] = gpu.clique
            if gpu.uuid in node.modes:
                entry["computeMode"] = node.modes[gpu.uuid].value
            if gpu.uuid in node.processes:
                entry["processes"] = [asdict(one) for one in node.processes[gpu.uuid]]
            if gpu.uuid in node.mig:
                entry["mig"] = {"enabled": True, "devices": list(node.mig[gpu.uuid])}
            if gpu.uuid in node.silent:
                entry["events"] = False
            entry["xids"] = [xid for uuid, xid in self.reported if uuid == gpu.uuid]
            entries.append({**entry, "health": gpu.health.value})
        self.write(
            json.dumps(
                {
                    "apiVersion": "nodeagent.io/v1alpha1",
                    "kind": "SimulatedNode",
                    "driverVersion": "550.163.01",
                    "cudaVersion": "12.4",
                    "driverLoads": self.loads,
                    "nvlink": [list(island) for island in node.islands],
                    "gpus": entries,
                },
                indent=1,
            )
        )

    def report(self, gpu: Gpu, xid: int, part: int | None = None) -> None:
        event = {"code": xid, "seq": len(self.reported) + 1}
        self.reported.append((gpu.uuid, event if part is None else {**event, "migDevice": part}))
        self.show(self.node)

    def reload(self) -> None:
        self.loads += 1
        self.show(self.node)

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
            pci_class=gpu.pci_class,
            clique=gpu.clique,
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
        pci_class="0x030200",
        health=health,
    )
