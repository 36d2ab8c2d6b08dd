"""Whether this node is a virtual machine with vGPUs, by what its host's driver writes into their PCI config space.

That is a vendor specific capability with the signature `VF`, in which records follow one another: id, length, data. The
record 0 has the version and the branch of the host's driver, ten characters each. (NVIDIA's gpu-feature-discovery 0.20
reads it so: internal/vgpu, `pciutil.go` and `vgpu.go`.) The kernel shows that part of the config space only to those
who have CAP_SYS_ADMIN.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.errand import Errand, Hangs
from nodeagent.model.inventory import Vgpu

_NVIDIA: Final = "0x10de"
_SIZE: Final = 256
"""Bytes of the config space that every PCI function has."""

_STATUS, _HAS_CAPABILITIES = 0x06, 0x10
_FIRST_CAPABILITY: Final = 0x34
_VENDOR_SPECIFIC: Final = 0x09
_BROKEN: Final = 0xFF
_SIGNATURE: Final = b"VF"
_RECORDS: Final = 5
_HOST_DRIVER: Final = 0
_TEXT: Final = 10


class VgpuLook:
    """Looks every `interval` seconds, when it is asked; a look that hangs costs nothing but its own answer."""

    def __init__(self, sysfs: Path, *, deadline: float = 1.0, interval: float = 60.0) -> None:
        self._devices = sysfs / "bus/pci/devices"
        self._deadline = deadline
        self._interval = interval
        self._errand = Errand("vgpu", on_late=lambda: None)
        self._due = 0.0
        self._found: Vgpu | None = None

    async def find(self) -> Vgpu | None:
        """What is known; None where nobody may look."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._interval
            with suppress(Hangs):
                self._found = await self._errand.run(lambda: read(self._devices), self._deadline)
        return self._found


def read(devices: Path) -> Vgpu | None:
    """What the PCI functions in this folder of sysfs say; None where one of NVIDIA's cannot be read whole. Blocks."""
    found = Vgpu(present=False)
    try:
        for device in sorted(devices.iterdir()):
            if _beginning(device / "vendor").strip() != _NVIDIA.encode():
                continue
            config = _beginning(device / "config")
            if len(config) < _SIZE:
                return None
            capability = vendor_specific(config)
            if capability is not None and capability[3 : 3 + len(_SIGNATURE)] == _SIGNATURE:
                version, branch = host_driver(capability) or (found.host_version, found.host_branch)
                found = Vgpu(present=True, host_version=version, host_branch=branch)
    except OSError:
        return None
    return found


def vendor_specific(config: bytes) -> bytes | None:
    """The first capability of that kind in a config space, whose capabilities are a chain that may be broken."""
    if not config[_STATUS] & _HAS_CAPABILITIES:
        return None
    for place in _chain(config):
        if config[place] == _VENDOR_SPECIFIC and place + 2 < _SIZE:
            return config[place : min(place + config[place + 2], _SIZE)]
    return None


def host_driver(capability: bytes) -> tuple[str, str] | None:
    """Version and branch of the host's driver; None where no record tells them."""
    place = _RECORDS
    while place + 1 < len(capability):
        identifier, length = capability[place], capability[place + 1]
        if identifier == _HOST_DRIVER:
            texts = capability[place + 2 : place + 2 + 2 * _TEXT]
            return (_text(texts[:_TEXT]), _text(texts[_TEXT:])) if len(texts) == 2 * _TEXT else None
        if not length:
            return None
        place += length
    return None


def _chain(config: bytes) -> Iterator[int]:
    """Where the capabilities are, each once."""
    seen: set[int] = set()
    place = config[_FIRST_CAPABILITY]
    while place and place not in seen and place + 1 < _SIZE and config[place] != _BROKEN:
        seen.add(place)
        yield place
        place = config[place + 1]


def _text(data: bytes) -> str:
    return data.strip(b"\0").decode("latin-1")


def _beginning(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(_SIZE)
