"""What the MPS host can do, tried before any daemon is asked for, so that no GPU gives anything up for one in vain.

What a daemon needs of a GPU is tried by doing it: its compute mode is set to what it is, which takes the same privilege
as any other, and its processes are listed. The control program is run. What is found goes into `host.json`, anew
whenever it differs.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from functools import partial
from typing import Final

from nodeagent import __version__
from nodeagent.durable import atomic
from nodeagent.model.config import MIB
from nodeagent.model.inventory import DriverError, Gpu, GpuHealth
from nodeagent.model.mps import GpuMeans, most_clients
from nodeagent.mps.daemon import Means
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.gpus import AllGpus
from nodeagent.mps.host_file import HostWord, encode_host
from nodeagent.mps.launch import CannotLaunch

logger = logging.getLogger(__name__)

_GPU_WITHIN: Final = 12.0
"""Seconds for one GPU: two calls, and each of them may first have to find it."""


class Preparation:
    """Tries everything, and writes the word of the host of this `life`."""

    def __init__(self, means: Means, gpus: AllGpus, *, life: str) -> None:
        self._layout, self._gpus, self._modes = means.layout, gpus, means.modes
        self._launcher, self._rooms, self._timing = means.launcher, means.rooms, means.timing
        self._life = life
        self._disk = Disk(self._layout.host, name="mps-host-file")
        self._again = asyncio.Event()
        self._written: bytes | None = None
        self._complaint = ""

    def look_again(self) -> None:
        """Try anew now: GPUs may have come, or a program."""
        self._again.set()

    async def clear(self) -> None:
        """Remove what the host before has said. Raises OSError."""
        await self._disk.do(partial(self._layout.host.unlink, missing_ok=True))

    async def run(self) -> None:
        """Try until cancelled, sooner while something is not to be had."""
        while True:
            self._again.clear()
            word = await self._try()
            pause = self._timing.look_again
            if await self._tell(word) and word.program:
                able = not any(means.obstacle for means in word.gpus.values())
                pause = self._timing.strays_every if able else self._timing.tries_every
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._again.wait()

    async def _try(self) -> HostWord:
        inventory = self._gpus.inventory
        gpus = [gpu for gpu in inventory.gpus if gpu.mig is None and not gpu.mig_enabled]  # MPS is for whole ones
        program, fault = "", ""
        try:
            program = self._launcher.find()
            await self._launcher.try_out()
        except CannotLaunch as error:
            fault = str(error)
        found = await asyncio.gather(*(self._means(gpu, fault) for gpu in gpus))
        return HostWord(
            self._life,
            __version__,
            program=program,
            driver_version=inventory.driver_version or "",
            bounded=self._rooms.bounded,
            gpus={gpu.uuid: means for gpu, means in zip(gpus, found, strict=True)},
        )

    async def _means(self, gpu: Gpu, fault: str) -> GpuMeans:
        obstacle = fault
        if not obstacle and gpu.health is not GpuHealth.OK:
            obstacle = f"the GPU is not well: {gpu.message or gpu.health.value}"
        if not obstacle:
            try:
                async with asyncio.timeout(_GPU_WITHIN):
                    await self._modes.try_out(gpu.uuid)
                    await self._gpus.processes(gpu.uuid)
            except TimeoutError:
                obstacle = "no answer from the driver"
            except DriverError as error:
                obstacle = str(error)
        memory = gpu.memory // MIB if gpu.memory else None
        return GpuMeans(obstacle, memory, most_clients(gpu))

    async def _tell(self, word: HostWord) -> bool:
        """Whether the file holds this word."""
        told = encode_host(word)
        try:
            await self._disk.do(partial(self._write, told))
        except OSError as error:
            if reason(error) != self._complaint:
                logger.error("cannot tell what this host can do: %s", reason(error))
            self._complaint = reason(error)
            return False
        self._complaint = ""
        if told == self._written:
            return True
        self._written = told
        for uuid, means in sorted(word.gpus.items()):
            if means.obstacle:
                logger.warning("%s: no daemon can be prepared: %s", uuid, means.obstacle)
        return True

    def _write(self, told: bytes) -> None:
        """The file holds this, also where somebody has removed it since. Raises OSError."""
        try:
            if atomic.read(self._layout.host) == told:
                return
        except atomic.Untrusted as error:
            logger.warning("cannot use %s: %s; it is written anew", self._layout.host, error)
        atomic.write(self._layout.host, told, sync=False)
