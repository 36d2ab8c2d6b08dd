"""Builds the stand-in `libnvidia-ml.so.1`, and says what it shall answer."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nodeagent.model.inventory import Gpu, GpuHealth

_SOURCE = Path(__file__).with_name("nvml.c")
SONAME = "libnvidia-ml.so.1"

DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15


def build(gcc: Path, directory: Path, *, old: bool = False) -> Path:
    """The library, compiled into `directory`; an `old` one lacks a function. Returns its path."""
    library = directory / SONAME
    command = [str(gcc), "-Wall", "-Wextra", "-Werror", "-O1", "-shared", "-fPIC", f"-Wl,-soname,{SONAME}"]
    subprocess.run([*command, *(["-DOLD"] if old else []), "-o", str(library), str(_SOURCE)], check=True)
    return library


@dataclass
class Controls:
    """What the library answers: `path` is read at each call, `log` gets a line per call."""

    path: Path
    log: Path
    sysfs: Path
    extra: dict[str, object] = field(default_factory=dict)

    def environment(self, library: Path) -> dict[str, str]:
        """What a process needs to load the library at `library` and to be steered."""
        return {"LD_LIBRARY_PATH": str(library.parent), "FAKE_NVML": str(self.path)}

    def answer(self, gpus: tuple[Gpu, ...], **extra: object) -> None:
        """Report these GPUs, in this order; `extra` are further lines (`error__nvmlShutdown=1`), `__` meaning a dot."""
        lines: dict[str, object] = {"driver": "550.163.01", "cuda": 12040, "count": len(gpus), "log": self.log}
        for position, gpu in enumerate(gpus):
            lines |= {f"gpu.{position}.{key}": value for key, value in _answers(gpu).items()}
            if gpu.pci_bus_id is not None:
                self._attach(gpu.pci_bus_id, gpu.numa_node)
        lines |= {key.replace("__", "."): value for key, value in extra.items()}
        self.write(lines)

    def write(self, lines: Mapping[str, object]) -> None:
        """Replace the whole file at once."""
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text, encoding="ascii")
        fresh.replace(self.path)

    def calls(self, function: str, index: int) -> int:
        """How often `function` has been called for the GPU at `index` (-1 for none)."""
        if not self.log.exists():
            return 0
        return self.log.read_text(encoding="ascii").splitlines().count(f"{function} {index}")

    def bind(self, *bus_ids: str) -> None:
        """Let the kernel show these devices, and no others, as served by the driver."""
        directory = self.sysfs / "bus/pci/drivers/nvidia"
        directory.mkdir(parents=True, exist_ok=True)
        for entry in directory.iterdir():
            entry.rmdir()
        for bus_id in bus_ids:
            (directory / _kernel_address(bus_id)).mkdir()

    def _attach(self, bus_id: str, numa_node: int | None) -> None:
        device = self.sysfs / "bus/pci/devices" / _kernel_address(bus_id)
        device.mkdir(parents=True, exist_ok=True)
        (device / "numa_node").write_text(f"{-1 if numa_node is None else numa_node}\n", encoding="ascii")


def _kernel_address(bus_id: str) -> str:
    return bus_id.lower().removeprefix("0000")


def _answers(gpu: Gpu) -> dict[str, object]:
    answers: dict[str, object] = {"uuid": gpu.uuid, "name": gpu.model, "memory": gpu.memory}
    if gpu.compute_capability is not None:
        answers |= {"major": gpu.compute_capability[0], "minor": gpu.compute_capability[1]}
    if gpu.minor is not None:
        answers["number"] = gpu.minor
    if gpu.pci_bus_id is not None:
        answers["bus"] = gpu.pci_bus_id
    if gpu.health is GpuHealth.LOST:
        answers["error"] = GPU_IS_LOST
    if gpu.health is GpuHealth.HANG:
        answers["hang"] = 1
    return answers


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process with `environment` on top."""
    return {**os.environ, **environment}
