"""What is asked of one GPU through NVML, each thing with all the calls that it takes.

Everything here blocks, for ever where the driver does; `nvml` makes the calls in threads with deadlines. Handles may
become invalid whenever GPUs come or go, so they are got anew each time. A GPU is found by its index and then asked for
its uuid: searching by uuid, NVML touches the GPUs on its way, of which one may hang.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TypeVar

import pynvml

from nodeagent.devices import nvml_fabric, nvml_mig
from nodeagent.devices.nvml_errors import Handle, NVMLError, is_refused, optional
from nodeagent.model.inventory import ComputeMode, Gpu, GpuProcess

T = TypeVar("T")

_COMPUTE_MODES = {
    pynvml.NVML_COMPUTEMODE_DEFAULT: ComputeMode.DEFAULT,
    pynvml.NVML_COMPUTEMODE_EXCLUSIVE_PROCESS: ComputeMode.EXCLUSIVE_PROCESS,
    pynvml.NVML_COMPUTEMODE_PROHIBITED: ComputeMode.PROHIBITED,
}

_KEPT = 15
"""Characters that the kernel keeps of the name of a process."""

_MPS_SERVER = "nvidia-cuda-mps-server"
_SERVERS = frozenset({_MPS_SERVER, _MPS_SERVER[:_KEPT]})


MIG_REFUSED = "seeing its MIG devices takes the capability mig/monitor (component mig)"
"""Said of a GPU that is well, and of whose MIG devices the driver tells only who has that."""


def read_gpu(index: int, sysfs: Path) -> tuple[Gpu, ...]:
    """Everything about one GPU, followed by its MIG devices. Raises NVMLError when it cannot be identified."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    mig_capable, mig_enabled = nvml_mig.mode(handle)
    memory, refused = None, False
    try:
        memory = optional(pynvml.nvmlDeviceGetMemoryInfo, handle)
    except NVMLError as error:
        refused = mig_enabled and is_refused(error)
        if not refused:
            raise
    pci = optional(pynvml.nvmlDeviceGetPciInfo, handle)
    bus_id = None if pci is None else pci.busId
    gpu = Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        model=pynvml.nvmlDeviceGetName(handle),
        memory=0 if memory is None else memory.total,  # a GPU that shares the memory of its host says nothing
        compute_capability=optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        minor=optional(pynvml.nvmlDeviceGetMinorNumber, handle),
        pci_bus_id=bus_id,
        numa_node=None if bus_id is None else _numa_node(bus_id, sysfs),
        mig_enabled=mig_enabled,
        mig_capable=mig_capable,
        pci_class=None if bus_id is None else _pci_attribute(bus_id, sysfs, "class"),
        clique=nvml_fabric.clique(handle),
    )
    parts: tuple[Gpu, ...] = ()
    try:
        parts = tuple(nvml_mig.devices(handle, gpu)) if mig_enabled else ()
    except NVMLError as error:
        refused = is_refused(error)
        if not refused:
            raise
    return (replace(gpu, message=MIG_REFUSED) if refused else gpu, *parts)


def _numa_node(bus_id: str, sysfs: Path) -> int | None:
    """The NUMA node of the host that a GPU is attached to, as the kernel knows it; None where it does not.

    (NVML's own call speaks of GPUs that are NUMA nodes themselves, which is something else.)
    """
    try:
        node = int(_pci_attribute(bus_id, sysfs, "numa_node") or "")
    except ValueError:
        return None
    return node if node >= 0 else None


def _pci_attribute(bus_id: str, sysfs: Path, name: str) -> str | None:
    """What the kernel says of a PCI function; None where it does not.

    NVML writes the PCI domain with eight digits, the kernel with four or as many as it takes.
    """
    domain, _, rest = bus_id.lower().partition(":")
    try:
        return (sysfs / "bus/pci/devices" / f"{int(domain, 16):04x}:{rest}" / name).read_text().strip()
    except (OSError, ValueError):
        return None


def at(index: int, uuid: str, call: Callable[[Handle], T]) -> T:
    """What `call` makes of the handle of the GPU at `index`, if it is this one; raises NVMLError."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    if pynvml.nvmlDeviceGetUUID(handle) != uuid:
        raise NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
    return call(handle)


def compute_mode(handle: Handle) -> ComputeMode | None:
    """The compute mode of a GPU, None where it has none. Raises NVMLError."""
    mode = optional(pynvml.nvmlDeviceGetComputeMode, handle)
    if mode is None:
        return None
    if mode not in _COMPUTE_MODES:  # the mode that drivers of long ago called EXCLUSIVE_THREAD
        raise NVMLError(pynvml.NVML_ERROR_UNKNOWN)
    return _COMPUTE_MODES[mode]


def set_compute_mode(mode: ComputeMode, handle: Handle) -> None:
    """Change the compute mode of a GPU. Raises NVMLError."""
    numbers = {told: number for number, told in _COMPUTE_MODES.items()}
    pynvml.nvmlDeviceSetComputeMode(handle, numbers[mode])


def processes(handle: Handle) -> tuple[GpuProcess, ...]:
    """The processes with a compute context on a GPU, by pid. Raises NVMLError, also where the driver does not tell.

    Clients of MPS are in the list of all such processes and in one of their own, which is read last: who is not in it
    was no client. The server of an MPS daemon is in the first one only, like any process that uses the GPU directly,
    and is told apart by its name: whose it is, its pid tells. (The third version of both functions means different
    things to different drivers.)
    """
    pids = {one.pid for one in pynvml.nvmlDeviceGetComputeRunningProcesses_v2(handle)}
    clients = {one.pid for one in optional(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v2, handle) or ()}
    names = {pid: _name(pid) for pid in sorted(pids | clients)}
    return tuple(GpuProcess(pid, name, mps=pid in clients or name in _SERVERS) for pid, name in names.items())


def _name(pid: int) -> str:
    """The name of the program of a process. NVML tells its command line or a part of it, the kernel a short name."""
    with contextlib.suppress(NVMLError, UnicodeError):
        words = pynvml.nvmlSystemGetProcessName(pid).split()
        if words:
            return PurePosixPath(words[0]).name
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").removesuffix("\n")
    return ""
