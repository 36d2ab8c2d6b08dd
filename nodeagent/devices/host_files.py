"""The host's files by which devices are handed over: device nodes, capabilities of MIG, CDI specifications."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from nodeagent.model.handover import HandOver, HostFiles


class HostLook:
    """Looks at the host's files while anything of how devices are handed over needs them."""

    def __init__(self, driver_root: Path, cdi_dirs: tuple[Path, ...], *, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.files = HostFiles()

    def need(self, handover: HandOver) -> None:
        """Devices are handed over so by now."""

    async def run(self) -> None:
        """Look until cancelled."""
        await asyncio.Event().wait()


def machine_type(path: Path | None) -> str:
    """What the firmware calls this machine; `unknown` where nobody says."""
    return "unknown"
