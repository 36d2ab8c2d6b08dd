"""NVML itself: where its library is, and when it is initialised.

NVML is initialised once: a cycle of shutdown and init costs half a second of CPU on a large node. It is done again only
when

- the kernel binds other PCI devices to the driver than before: an initialised library is not documented to see those;
- a GPU has been lost for a while, or is not even listed: shutting down closes its device file, without which nobody can
  reset it, and a GPU that was reset is seen by a fresh library only;
- NVML itself says that it must be.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pynvml

from nodeagent.devices.nvml_errors import CannotLoad, NVMLError, optional

SONAME = "libnvidia-ml.so.1"

_KERNEL_VERSION = re.compile(r"^NVRM version:.*?Kernel Module.*?\s(\d+\.\d+(?:\.\d+)*)\s", re.MULTILINE)
"""`NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue …`, and with `Open Kernel Module for x86_64`."""

_MOST_TEXT = 4096
"""Bytes that are read of what the kernel says."""

MOST_PATIENCE = 900.0
"""Seconds at most until a library that has lost a GPU is started anew: it is twice as long after each time that did not
help.
"""

_DIRECTORIES = (
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",  # where links lead through /etc, which may not be there
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib",
    "lib64",
    "lib/x86_64-linux-gnu",
    "lib/aarch64-linux-gnu",
    "lib",
)
"""Where distributions keep the library, below the root directory of the driver."""


@dataclass(frozen=True, slots=True)
class System:
    """What the library says of itself. `opening` counts how often it has been initialised."""

    count: int
    driver_version: str | None
    cuda_version: str | None
    driver_load: str | None
    opening: int
    kernel_version: str | None = None

    @property
    def is_one(self) -> bool | None:
        """Whether the kernel has the version of the driver that answers here; None where either is not known."""
        if self.kernel_version is None or self.driver_version is None:
            return None
        return self.kernel_version == self.driver_version


class Library:
    """NVML's own life cycle. Its methods block; they are called one at a time.

    `driver_root` is the root directory of the driver's files, `/` for wherever the loader finds the library; `path` is
    the library itself.
    """

    def __init__(
        self,
        sysfs: Path,
        reopen_after: float,
        *,
        driver_root: Path,
        path: Path | None,
        procfs: Path = Path("/proc"),
    ) -> None:
        self._kernel_says = procfs / "driver/nvidia/version"
        self._version: str | None = None
        self._kernel_version: str | None = None
        self._bound_devices = sysfs / "bus/pci/drivers/nvidia"
        self._module = sysfs / "module/nvidia"
        self._reopen_after = self._patience = reopen_after
        self._overdue = False
        self._count = 0
        self._driver_root = driver_root
        self._path = path
        self._loaded = path is None and not str(driver_root).strip("/")
        self._opened_at: float | None = None
        self._openings = 0
        self._distrusted = False
        self._bound: frozenset[str] = frozenset()

    def is_stale(self, *, lost: bool) -> bool:
        """Whether it is to be initialised anew. `lost`: a GPU is."""
        if self._opened_at is None:
            return False
        lost = lost or self._count < len(self._bound)
        if not lost:
            self._patience = self._reopen_after
        self._overdue = lost and time.monotonic() - self._opened_at >= self._patience
        return self._distrusted or self._overdue or self._read_bound() != self._bound

    def open(self, *, anew: bool) -> System:
        """The library, initialised. Raises NVMLError and CannotLoad.

        `anew` is for when no call is under way and no event set is there, as the library is shut down before.
        """
        self._kernel_version = _kernel_version(self._kernel_says)
        if self._opened_at is not None and anew:
            self._opened_at = None
            self._patience = min(2 * self._patience, MOST_PATIENCE) if self._overdue else self._reopen_after
            with contextlib.suppress(NVMLError):  # what cannot be shut down was not up
                pynvml.nvmlShutdown()
        if self._opened_at is None:
            bound = self._read_bound()
            if not self._loaded:
                _load(self._path, self._driver_root)
                self._loaded = True
            pynvml.nvmlInit()
            self._opened_at, self._bound, self._distrusted = time.monotonic(), bound, False
            self._openings += 1
        cuda = optional(pynvml.nvmlSystemGetCudaDriverVersion)
        version = self._version = optional(pynvml.nvmlSystemGetDriverVersion)
        self._count = pynvml.nvmlDeviceGetCount()
        return System(
            count=self._count,
            driver_version=version,
            cuda_version=None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            driver_load=self._driver_load(version),
            opening=self._openings,
            kernel_version=self._kernel_version,
        )

    @property
    def kernel_version(self) -> str | None:
        """Which version of the driver the kernel had when the library was last opened, or was tried to be; None where
        it did not say. Blocks nobody.
        """
        return self._kernel_version

    def versions(self) -> str:
        """Those of kernel driver and library, as far as they are known, to be put behind a message. Blocks nobody."""
        kernel = self._kernel_version
        told = [f"the kernel has {kernel}"] if kernel is not None else []
        told += [f"the library was {self._version}"] if self._version is not None else []
        return f" ({', '.join(told)})" if told else ""

    def distrust(self) -> None:
        """The library answers that it is of no use as it is: it is initialised anew at the next look."""
        self._distrusted = True

    def _read_bound(self) -> frozenset[str]:
        """PCI addresses of the devices that the kernel driver serves; empty where it is absent or not to be seen."""
        try:
            return frozenset(entry.name for entry in self._bound_devices.iterdir() if ":" in entry.name)
        except OSError:
            return frozenset()

    def _driver_load(self, version: str | None) -> str | None:
        """What tells this loading of the kernel driver from every other one on this boot: the kernel does not use the
        inode of a module's directory in sysfs a second time.
        """
        try:
            return f"{version or 'unknown'}/{self._module.stat().st_ino}"
        except OSError:
            return None


def _kernel_version(file: Path) -> str | None:
    """What the kernel says in this file. A driver that hangs may not answer here either."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            text = os.read(descriptor, _MOST_TEXT)
        finally:
            os.close(descriptor)
    except OSError:
        return None
    found = _KERNEL_VERSION.search(text.decode("utf-8", errors="replace"))
    return found[1] if found is not None else None


def _load(path: Path | None, root: Path) -> None:
    """Load the library from where it is: `pynvml` then finds it by its name, as it is in this process already."""
    refused = None
    for candidate in (path.absolute(),) if path is not None else _candidates(root.absolute()):
        try:
            if path is None and not candidate.is_file():
                continue
            loaded = ctypes.CDLL(str(candidate), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            why = error.strerror or str(error).removeprefix(f"{candidate}: ")
            refused = refused or f"cannot load {candidate}: {why}"
            continue
        if _is_found_by_name(loaded):
            return
        refused = refused or f"cannot load {candidate}: it is no {SONAME}, or another one is loaded already"
    raise CannotLoad(refused or f"cannot load {SONAME}: no directory of libraries below {root} has it")


def _is_found_by_name(library: ctypes.CDLL) -> bool:
    try:
        named = ctypes.CDLL(SONAME, mode=os.RTLD_NOW | os.RTLD_NOLOAD)
    except OSError:
        return False
    return bool(named._handle == library._handle)  # noqa: SLF001  # documented, in spite of its name


def _candidates(root: Path) -> Iterator[Path]:
    return (root / directory / SONAME for directory in _DIRECTORIES)
