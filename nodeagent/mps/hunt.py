"""The processes of MPS that belong to one GPU: finding the daemon among them, and ending those that should not be.

A host that was killed leaves daemons that it was just starting, and a daemon that was killed leaves its servers. They
are known by the pipe directory in their environment, never by what a file says of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from functools import partial
from signal import SIGKILL, SIGTERM

from nodeagent.mps.control import Control, ControlError, NoAnswer, NoDaemon
from nodeagent.mps.disk import Disk
from nodeagent.mps.files import Layout
from nodeagent.mps.lifecycle import Found, Timing
from nodeagent.mps.process import Process, mps_processes

logger = logging.getLogger(__name__)

_BETWEEN_LOOKS = 0.05


class CannotEnd(Exception):
    """A process outlives SIGKILL: it hangs in the kernel."""


class Hunt:
    """The processes of the GPU `uuid`; /proc is read by way of `disk`."""

    def __init__(self, uuid: str, layout: Layout, disk: Disk, timing: Timing) -> None:
        self._uuid = uuid
        self._layout = layout
        self._disk = disk
        self._timing = timing

    async def seen(self) -> Found:
        """Those that are there now. Raises OSError."""
        return Found.of(self._uuid, await self._disk.do(partial(mps_processes, self._layout.root)))

    async def strays(self, kept: Process) -> list[Process]:
        """The daemons that are there beside the one that is kept. Raises OSError.

        A server that it is just starting has everything of the daemon, until it has become another program: so no
        child of the daemon is one of them.
        """
        others = [process for process in (await self.seen()).daemons if process != kept]
        return [process for process in others if process.parent() not in {None, kept.pid}]

    async def end_strays(self, kept: Process) -> None:
        """End those: somebody was killed while starting them. What cannot be done says nothing about `kept`."""
        try:
            await self.end(await self.strays(kept))
        except (CannotEnd, OSError) as error:
            logger.warning("%s: cannot end other daemons of this GPU: %s", self._uuid, error)

    def listening(self) -> int:
        """The pid of whoever listens at its socket; NVIDIA's program is not needed for that. Raises ControlError."""
        return Control(self._layout.pipe(self._uuid)).peer()

    def identify(self, process: Process) -> None:
        """It is this process that listens. Raises NoDaemon, NoAnswer."""
        try:
            pid = self.listening()
        except NoAnswer:
            raise
        except ControlError as error:  # whatever is there, it is not the socket of a daemon
            raise NoDaemon(str(error)) from error
        if pid != process.pid:
            raise NoDaemon("another process listens at its socket")

    async def find(self) -> Process | None:
        """The daemon that listens, if it is ours. One that is only just starting is given time to. Raises OSError."""
        until = time.monotonic() + self._timing.appears_within
        while True:
            daemons = (await self.seen()).daemons
            try:
                pid = self.listening()
            except NoAnswer:  # so many wait for it that nobody else is let in
                if len(daemons) == 1:
                    return daemons[0]
            except ControlError:
                pass
            else:
                for process in daemons:
                    if process.pid == pid:
                        return process
            if not daemons or time.monotonic() >= until:
                return None
            await asyncio.sleep(_BETWEEN_LOOKS)

    async def end(self, processes: Iterable[Process]) -> None:
        """None of these is there any more. Raises CannotEnd."""
        for process in processes:
            for number in (SIGTERM, SIGKILL):
                if not process.signal(number) or await process.ended(self._timing.ends_within):
                    break
            else:
                raise CannotEnd(f"cannot end process {process.pid}: it does not even end when it is killed")

    async def kill(self, process: Process) -> None:
        """The same for one that would keep SIGTERM waiting. Raises CannotEnd."""
        process.signal(SIGKILL)
        if not await process.ended(self._timing.ends_within):
            raise CannotEnd(f"cannot end process {process.pid}: it does not even end when it is killed")
