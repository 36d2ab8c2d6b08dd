"""What MPS has left on GPUs where no host runs any more: nobody else can say that they are free of it.

A daemon whose socket accepts nobody is gone, as is one without a socket. What it leaves is the compute mode of its GPU,
which the host would have put back; that is read from the driver, since what was remembered of it is no measure of how
it is now. Files are no measure either: nobody is left who would remove them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final

from nodeagent.model.inventory import ComputeMode, DriverError
from nodeagent.mps.control import Control, ControlError, NoDaemon
from nodeagent.mps.disk import Disk
from nodeagent.mps.files import Layout

_DRIVER_WITHIN: Final = 6.0

ReadMode = Callable[[str], Awaitable[ComputeMode | None]]
"""The compute mode of a GPU by uuid, None where it has none. Raises DriverError."""


class Remains:
    """Knows of the GPUs whose daemons are `gone`, and in which compute mode they were left."""

    def __init__(self, layout: Layout, disk: Disk, read_mode: ReadMode) -> None:
        self._layout = layout
        self._disk = disk
        self._read_mode = read_mode
        self._modes: dict[str, ComputeMode | None] = {}

    @property
    def gone(self) -> frozenset[str]:
        """GPUs without a daemon."""
        return frozenset(self._modes)

    @property
    def left_modes(self) -> Mapping[str, ComputeMode | None]:
        """Those of them that are not in the compute mode DEFAULT; None where nobody can tell."""
        return {uuid: mode for uuid, mode in sorted(self._modes.items()) if mode is not ComputeMode.DEFAULT}

    def forget(self) -> None:
        """A host runs: it knows."""
        self._modes.clear()

    async def look(self, uuids: Iterable[str]) -> None:
        """Look at exactly these GPUs. One that was found in DEFAULT is nobody's any more, and is not asked again."""
        asked = sorted(uuids)
        there = await self._disk.do(lambda: [uuid for uuid in asked if self._listens(uuid)])
        free = [uuid for uuid in asked if uuid not in there]
        known = {uuid: mode for uuid, mode in self._modes.items() if uuid in free and mode is ComputeMode.DEFAULT}
        others = [uuid for uuid in free if uuid not in known]
        modes = await asyncio.gather(*(self._mode(uuid) for uuid in others))
        self._modes = {**known, **dict(zip(others, modes, strict=True))}

    def _listens(self, uuid: str) -> bool:
        """Whether somebody accepts connections where the daemon of a GPU would, or may. Never waits."""
        try:
            Control(self._layout.pipe(uuid)).peer()
        except NoDaemon:
            return False
        except ControlError:
            return True
        return True

    async def _mode(self, uuid: str) -> ComputeMode | None:
        try:
            async with asyncio.timeout(_DRIVER_WITHIN):
                mode = await self._read_mode(uuid)
        except (DriverError, TimeoutError):
            return None
        return ComputeMode.DEFAULT if mode is None else mode  # without compute modes, MPS has changed none
