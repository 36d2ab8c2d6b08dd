"""The GPUs that NVIDIA's driver knows, through NVML: the only speaker to `pynvml`.

NVML is initialised once: a cycle of shutdown and init costs half a second of CPU on a large node. It is done again only
when

- the kernel binds other PCI devices to the driver than before: an initialised library is not documented to see those;
- a GPU has been lost for a while: shutting down closes its device file, without which nobody can reset it, and a GPU
  that was reset is seen by a fresh library only;
- NVML itself says that it must be.

Handles may become invalid whenever GPUs come or go, so each look gets them anew and asks everything anew: it is a
handful of calls per GPU.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from nodeagent.devices.looking import Fault, LookingDriver, assemble
from nodeagent.errand import Errand, Hangs
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason

_T = TypeVar("_T")

_UNLOADED = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})
"""What any call answers when it is the driver that is gone, not a GPU."""

_NOT_TOLD = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})


@dataclass(frozen=True, slots=True)
class _System:
    """What the library says of itself."""

    count: int
    driver_version: str | None
    cuda_version: str | None


class NvmlDriver(LookingDriver):
    """Whole GPUs by NVML; looks every `interval` seconds.

    `deadline` is how long a GPU, or the library, may take to answer in seconds (a GPU without persistence mode takes
    a few when it is first touched). While a GPU is lost NVML is initialised anew every `reopen_after` seconds.
    """

    def __init__(
        self,
        *,
        wake: Callable[[], None],
        interval: float = 10.0,
        deadline: float = 5.0,
        reopen_after: float = 60.0,
        sysfs: Path = Path("/sys"),
    ) -> None:
        super().__init__(wake=wake, interval=interval)
        self._deadline = deadline
        self._hangs = f"no answer within {deadline:g} s"
        self._library = _Library(sysfs, reopen_after)
        self._library_errand = Errand("nvml", on_late=self.refresh)
        self._gpu_errands: dict[int, Errand] = {}
        self._sysfs = sysfs

    async def _look(self, last: Inventory) -> Inventory:
        """All GPUs at once; takes `deadline` seconds at most for the library and as much for the GPUs."""
        idle = not any(errand.busy for errand in self._gpu_errands.values())
        open_ = partial(self._library.open, may_reopen=idle, lost=last.reason is InventoryReason.GPU_LOST)
        try:
            system = await self._library_errand.run(open_, self._deadline)
            answers = await asyncio.gather(*(self._ask(index) for index in range(system.count)))
            gone = [answer for answer in answers if isinstance(answer, pynvml.NVMLError)]
            if gone:
                raise gone[0]
        except Hangs:
            return _unanswered(last, InventoryReason.DRIVER_ERROR, f"cannot ask NVML: {self._hangs}", GpuHealth.HANG)
        except pynvml.NVMLError as error:
            self._library.distrust()
            return _library_failed(last, error)
        return assemble(
            [answer for answer in answers if isinstance(answer, Gpu)],
            [answer for answer in answers if isinstance(answer, Fault)],
            known=last.gpus,
            driver_version=system.driver_version,
            cuda_version=system.cuda_version,
        )

    async def _ask(self, index: int) -> Gpu | Fault | Exception:
        """One GPU; an NVMLError where it is the driver that is gone."""
        errand = self._gpu_errands.get(index)
        if errand is None:
            errand = self._gpu_errands[index] = Errand(f"nvml-gpu-{index}", on_late=self.refresh)
        try:
            return await errand.run(partial(_read_gpu, index, self._sysfs), self._deadline)
        except Hangs:
            return Fault(index, GpuHealth.HANG, self._hangs)
        except UnicodeError as error:
            return Fault(index, GpuHealth.LOST, f"its answer is garbage: {error}")
        except pynvml.NVMLError as error:
            return Fault(index, GpuHealth.LOST, str(error)) if error.value not in _UNLOADED else error


class _Library:
    """NVML's own life cycle. Its methods block; they are called one at a time."""

    def __init__(self, sysfs: Path, reopen_after: float) -> None:
        self._bound_devices = sysfs / "bus/pci/drivers/nvidia"
        self._reopen_after = reopen_after
        self._opened_at: float | None = None
        self._distrusted = False
        self._bound: frozenset[str] = frozenset()

    def open(self, *, may_reopen: bool, lost: bool) -> _System:
        """The library, initialised; left alone unless `may_reopen`: it must not be shut down under a running call."""
        bound = self._read_bound()
        if self._opened_at is not None and may_reopen:
            overdue = lost and time.monotonic() - self._opened_at >= self._reopen_after
            if self._distrusted or overdue or bound != self._bound:
                self._opened_at = None
                with contextlib.suppress(pynvml.NVMLError):  # what cannot be shut down was not up
                    pynvml.nvmlShutdown()
        if self._opened_at is None:
            pynvml.nvmlInit()
            self._opened_at, self._bound, self._distrusted = time.monotonic(), bound, False
        cuda = _optional(pynvml.nvmlSystemGetCudaDriverVersion)
        return _System(
            count=pynvml.nvmlDeviceGetCount(),
            driver_version=_optional(pynvml.nvmlSystemGetDriverVersion),
            cuda_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
        )

    def distrust(self) -> None:
        """The library answers that it is of no use as it is: it is initialised anew at the next look."""
        self._distrusted = True

    def _read_bound(self) -> frozenset[str]:
        """PCI addresses of the devices that the kernel driver serves; empty where it is absent or not to be seen."""
        try:
            return frozenset(entry.name for entry in self._bound_devices.iterdir() if ":" in entry.name)
        except OSError:
            return frozenset()


def _read_gpu(index: int, sysfs: Path) -> Gpu:
    """Everything about one GPU. Blocks. Raises NVMLError when it cannot be identified."""
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = _optional(pynvml.nvmlDeviceGetMemoryInfo, handle)
    pci = _optional(pynvml.nvmlDeviceGetPciInfo, handle)
    bus_id = None if pci is None else pci.busId
    return Gpu(
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        index=index,
        model=pynvml.nvmlDeviceGetName(handle),
        memory=0 if memory is None else memory.total,  # a GPU that shares the memory of its host says nothing
        compute_capability=_optional(pynvml.nvmlDeviceGetCudaComputeCapability, handle),
        minor=_optional(pynvml.nvmlDeviceGetMinorNumber, handle),
        pci_bus_id=bus_id,
        numa_node=None if bus_id is None else _numa_node(bus_id, sysfs),
    )


def _optional(call: Callable[..., _T], *arguments: object) -> _T | None:
    """What `call` returns; None where this driver or GPU does not tell."""
    try:
        return call(*arguments)
    except pynvml.NVMLError as error:
        if error.value in _NOT_TOLD:
            return None
        raise


def _numa_node(bus_id: str, sysfs: Path) -> int | None:
    """The NUMA node of the host that a GPU is attached to, as the kernel knows it; None where it does not.

    (NVML's own call speaks of GPUs that are NUMA nodes themselves, which is something else.) NVML writes the PCI domain
    with eight digits, the kernel with four or as many as it takes.
    """
    domain, _, rest = bus_id.lower().partition(":")
    try:
        node = int((sysfs / "bus/pci/devices" / f"{int(domain, 16):04x}:{rest}" / "numa_node").read_text())
    except (OSError, ValueError):
        return None
    return node if node >= 0 else None


def _library_failed(last: Inventory, error: Any) -> Inventory:  # noqa: ANN401  # pynvml has no types
    """The inventory after an error that is about the driver as a whole."""
    match error.value:
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            message = "cannot load libnvidia-ml.so.1: it is not there, or not loadable"
            return _unanswered(last, InventoryReason.DRIVER_MISSING, message, GpuHealth.LOST)
        case pynvml.NVML_ERROR_DRIVER_NOT_LOADED | pynvml.NVML_ERROR_UNINITIALIZED:
            message = "cannot ask NVML: the NVIDIA kernel driver is not loaded"
            return _unanswered(last, InventoryReason.DRIVER_MISSING, message, GpuHealth.LOST)
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            message = (
                "cannot ask NVML: kernel driver and library differ in version; restart the agent to load the right one"
            )
        case _:
            message = f"cannot ask NVML: {error}"
    return _unanswered(last, InventoryReason.DRIVER_ERROR, message)


def _unanswered(last: Inventory, reason: InventoryReason, message: str, health: GpuHealth | None = None) -> Inventory:
    """There was no look. An error of our own access (`health` None) says nothing about the GPUs: they stay as they are.

    An absent or hanging driver does.
    """
    gpus = last.gpus
    if health is not None:
        gpus = tuple(replace(gpu, health=health, message=message) for gpu in gpus)
    return Inventory(gpus, last.driver_version, last.cuda_version, reason, message, complete=False)
