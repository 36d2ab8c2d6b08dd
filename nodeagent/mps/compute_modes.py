"""The compute modes that GPUs had before MPS: remembered on disk before they are changed, restored when MPS leaves.

A GPU under MPS is set to EXCLUSIVE_PROCESS, so that its daemon's server is the one process on it and nothing gets past
the limits. What it was before is known to nobody else. So it is on the disk before the GPU is asked to change, and is
forgotten after the GPU has changed back: a host that is killed in between leaves one that knows what to do.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from nodeagent.durable import atomic
from nodeagent.model.inventory import ComputeMode
from nodeagent.mps.disk import DEADLINE, Disk, reason
from nodeagent.mps.files import decode_compute_modes, encode_compute_modes
from nodeagent.mps.gpus import Gpus

logger = logging.getLogger(__name__)

_WANTED = ComputeMode.EXCLUSIVE_PROCESS


class ComputeModes:
    """Sets and restores the modes of the GPUs of one MPS root; what is to be restored is in the file `path`."""

    def __init__(self, path: Path, gpus: Gpus, *, deadline: float = DEADLINE) -> None:
        self._path = path
        self._gpus = gpus
        self._disk = Disk(path, name="mps-compute-modes", deadline=deadline)
        self._found: Mapping[str, ComputeMode] = {}
        self._changing: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @property
    def uuids(self) -> frozenset[str]:
        """The GPUs whose mode is to be restored."""
        return frozenset(self._found)

    async def load(self) -> None:
        """Know what the hosts before had to restore. A damaged file is set aside. Raises OSError."""
        self._found = await self._disk.do(self._read)

    def _read(self) -> Mapping[str, ComputeMode]:
        try:
            data = atomic.read(self._path)
            return {} if data is None else decode_compute_modes(data)
        except atomic.Untrusted as error:
            kept = atomic.set_aside(self._path)
            logger.error(
                "cannot use %s: %s; it is kept as %s, and the compute modes that GPUs had before MPS are not restored",
                self._path,
                error,
                kept.name,
            )
            return {}

    async def take(self, uuid: str) -> None:
        """The GPU is EXCLUSIVE_PROCESS, and what it was is remembered. Raises DriverError, OSError."""
        async with self._changing[uuid]:
            mode = await self._gpus.compute_mode(uuid)
            if mode is None or mode is _WANTED:
                return
            if uuid not in self._found:
                await self._remember(uuid, mode)
            await self._gpus.set_compute_mode(uuid, _WANTED)
        logger.info("%s: compute mode %s, was %s", uuid, _WANTED.value, mode.value)

    async def try_out(self, uuid: str) -> None:
        """See that the mode of a GPU can be set, by setting the one that it has. Raises DriverError."""
        async with self._changing[uuid]:
            mode = await self._gpus.compute_mode(uuid)
            if mode is not None:
                await self._gpus.set_compute_mode(uuid, mode)

    async def give_back(self, uuid: str) -> None:
        """The GPU has the mode that it had before; one that somebody else has changed since is left alone.

        Raises DriverError, OSError.
        """
        before = self._found.get(uuid)
        if before is None:
            return
        async with self._changing[uuid]:
            if await self._gpus.compute_mode(uuid) is _WANTED:
                await self._gpus.set_compute_mode(uuid, before)
                logger.info("%s: compute mode %s again", uuid, before.value)
            await self._remember(uuid, None)

    async def _remember(self, uuid: str, mode: ComputeMode | None) -> None:
        """Returns when it is on the disk."""

        def write() -> None:
            # In the thread, where one follows the other: each writes what the one before has written, and its own.
            found = {other: known for other, known in self._found.items() if other != uuid}
            if mode is not None:
                found[uuid] = mode
            atomic.write(self._path, encode_compute_modes(found), sync=True)
            self._found = found

        try:
            await self._disk.do(write)
        except OSError as error:
            raise OSError(error.errno, f"cannot remember its compute mode: {reason(error)}") from error
