"""Builds the stand-in `libnvidia-ml.so.1`, and says what it shall answer."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from nodeagent.devices.simulated_mig import attributes
from nodeagent.model.inventory import ComputeMode, Gpu, GpuHealth, GpuProcess, MigAttributes

_SOURCE = Path(__file__).with_name("nvml.c")
SONAME = "libnvidia-ml.so.1"

NOT_SUPPORTED = 3
DRIVER_NOT_LOADED = 9
GPU_IS_LOST = 15
UNKNOWN = 999
SAME_NODE, OTHER_NODE = 40, 50
MODES = {ComputeMode.DEFAULT: 0, ComputeMode.PROHIBITED: 2, ComputeMode.EXCLUSIVE_PROCESS: 3}


def build(gcc: Path, directory: Path, *, old: bool = False) -> Path:
    """The library, compiled into `directory`; an `old` one lacks what old ones do. Returns its path."""
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
            answers = {**_answers(gpu), "kept": self.path.with_name(f"mode-of-{gpu.uuid}")}
            lines |= {f"gpu.{position}.{key}": value for key, value in answers.items()}
            if gpu.pci_bus_id is not None:
                self._attach(gpu.pci_bus_id, gpu)
        lines |= {"events": self.events}
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
        bound = {_kernel_address(bus_id) for bus_id in bus_ids}
        for entry in directory.iterdir():
            if entry.name not in bound:
                entry.rmdir()
        for address in bound:
            (directory / address).mkdir(exist_ok=True)

    def report(self, index: int, *xid: int, times: int = 1) -> None:
        """Have the GPU at `index` report an XID; `xid` may be followed by GPU and compute instance."""
        self.report_all([f"{index} {' '.join(map(str, xid))}\n"] * times)

    def report_all(self, lines: Iterable[str]) -> None:
        """Have all of these reported at once."""
        with self.events.open("ab", buffering=0) as file:
            file.write("".join(lines).encode("ascii"))

    @property
    def events(self) -> Path:
        """Where XIDs are taken from."""
        return self.path.with_suffix(".events")

    def show_pci(self, address: str, vendor: str, config: bytes) -> None:
        """Let the kernel show a PCI function."""
        device = self.sysfs / "bus/pci/devices" / address
        device.mkdir(parents=True, exist_ok=True)
        (device / "vendor").write_text(f"{vendor}\n", encoding="ascii")
        (device / "config").write_bytes(config)

    def load_driver(self) -> None:
        """Let the kernel show that the driver has been loaded, and unloaded before if it was there."""
        module = self.sysfs / "module/nvidia"
        fresh = module.with_name("nvidia.new")
        fresh.mkdir(parents=True)  # while the old one is there, whose inode it could get
        if module.exists():
            module.rmdir()
        fresh.rename(module)

    def _attach(self, bus_id: str, gpu: Gpu) -> None:
        device = self.sysfs / "bus/pci/devices" / _kernel_address(bus_id)
        device.mkdir(parents=True, exist_ok=True)
        told = {"numa_node": f"{-1 if gpu.numa_node is None else gpu.numa_node}"}
        if gpu.pci_class is not None:
            told["class"] = gpu.pci_class
        for name, text in told.items():
            fresh = device / f".{name}.new"
            fresh.write_text(f"{text}\n", encoding="ascii")
            fresh.replace(device / name)  # whole at once, as the kernel's


def config_space(*capabilities: bytes, listed: bool = True) -> bytes:
    """The 256 bytes of a PCI function with these capabilities, each from its third byte on: its length and
    what follows.
    """
    space = bytearray(256)
    space[6] = 0x10 if listed else 0
    place, link = 0x60, 0x34
    for capability in capabilities:
        space[link] = place
        space[place : place + 2 + len(capability)] = bytes([0x09, 0]) + capability
        link, place = place + 1, (place + 2 + len(capability) + 3) & ~3
    return bytes(space)


def vgpu_capability(*records: tuple[int, bytes]) -> bytes:
    """That of a vGPU, with these records by id."""
    body = b"VF" + b"".join(bytes([number, len(data) + 2]) + data for number, data in records)
    return bytes([len(body) + 3]) + body


def _kernel_address(bus_id: str) -> str:
    return bus_id.lower().removeprefix("0000")


def _answers(gpu: Gpu) -> dict[str, object]:
    answers: dict[str, object] = {"uuid": gpu.uuid, "name": gpu.model, "memory": gpu.memory, "mode": 0}
    if gpu.compute_capability is not None:
        answers |= {"major": gpu.compute_capability[0], "minor": gpu.compute_capability[1]}
    if gpu.minor is not None:
        answers["number"] = gpu.minor
    if gpu.pci_bus_id is not None:
        answers["bus"] = gpu.pci_bus_id
    if gpu.clique is not None:
        answers["cluster"], _, answers["clique"] = gpu.clique.partition(".")
    if gpu.health is GpuHealth.LOST:
        answers["error"] = GPU_IS_LOST
    if gpu.health is GpuHealth.HANG:
        answers["hang"] = 1
    return answers


def computing(position: int, processes: Iterable[GpuProcess]) -> dict[str, object]:
    """What `Controls.answer` takes so that these processes compute on the GPU at this position."""
    told = list(processes)
    return {
        f"gpu__{position}__processes": ",".join(str(one.pid) for one in told),
        f"gpu__{position}__clients": ",".join(str(one.pid) for one in told if one.mps),
        **{f"process__{one.pid}": f"/usr/bin/{one.name} --argument /some/path" for one in told},
    }


def partitioned(position: int, gpu: Gpu, profiles: Iterable[str]) -> dict[str, object]:
    """What `Controls.answer` takes so that MIG is enabled on the GPU at this position, with these MIG devices."""
    lines: dict[str, object] = {f"gpu__{position}__mig": 1}
    before: Counter[str] = Counter()
    for place, profile in enumerate(profiles):
        device = {
            "uuid": f"MIG-{uuid5(NAMESPACE_URL, f'{gpu.uuid}/{profile}/{before[profile]}')}",
            "name": f"{gpu.model} MIG {profile}",
            "memory": int(profile.partition("g.")[2].partition("gb")[0]) << 30,
            "gi": place + 7,
            "ci": 0,
            **_made_of(attributes(profile)),
        }
        before[profile] += 1
        lines |= {f"gpu__{position}__mig__{place}__{key}": value for key, value in device.items()}
    return lines


def _made_of(found: MigAttributes) -> dict[str, int]:
    return {
        "slices": found.slices_gi,
        "computing": found.slices_ci,
        "multiprocessors": found.multiprocessors,
        "copy": found.engines_copy,
        "decoder": found.engines_decoder,
        "encoder": found.engines_encoder,
        "jpeg": found.engines_jpeg,
        "ofa": found.engines_ofa,
    }


def connected(gpus: Sequence[Gpu], islands: Iterable[Iterable[int]]) -> dict[str, object]:
    """What `Controls.answer` takes so that these GPUs are as near as their NUMA nodes are, and one NVLink leads from
    each to each other one of its island.
    """
    lines: dict[str, object] = {}
    for one, other in combinations(range(len(gpus)), 2):
        nodes = gpus[one].numa_node, gpus[other].numa_node
        if None not in nodes:
            lines[f"ways__{one}__{other}"] = SAME_NODE if nodes[0] == nodes[1] else OTHER_NODE
    for island in map(list, islands):
        for one in island:
            others = [other for other in island if other != one]
            lines[f"gpu__{one}__links"] = len(others) + 1  # and one that is down
            lines |= {f"gpu__{one}__link__{place + 1}": gpus[to].pci_bus_id for place, to in enumerate(others)}
    return lines


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of this process with `environment` on top."""
    return {**os.environ, **environment}
