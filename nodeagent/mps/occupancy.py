"""What others do to a GPU while its daemon runs: nothing that a daemon is asked would tell.

The compute mode keeps processes that are no clients of the daemon off the GPU; whoever may set it can take that away,
and a reset of the GPU does. Then, or in a moment without a server, a process may have come that computes without MPS:
new clients could not start beside it.
"""

from __future__ import annotations

import asyncio
import logging
import time

from nodeagent.model.inventory import ComputeMode, DriverError
from nodeagent.mps.gpus import Gpus
from nodeagent.mps.hunt import Hunt
from nodeagent.mps.lifecycle import Timing, in_the_way

logger = logging.getLogger(__name__)

_NEEDED = ComputeMode.EXCLUSIVE_PROCESS


class Occupancy:
    """Looks at the GPU `uuid` each `strays_every` seconds, sooner while there is somebody."""

    def __init__(self, uuid: str, gpus: Gpus, hunt: Hunt, timing: Timing) -> None:
        self._uuid = uuid
        self._gpus = gpus
        self._hunt = hunt
        self._timing = timing
        self._due = 0.0
        self._direct: frozenset[int] = frozenset()
        self._complaint = ""
        self.held = ""
        """By whom it is held that is no client of MPS; empty when by nobody."""

    def forget(self) -> None:
        """Another daemon comes: nothing is known of the GPU, and it is looked at when that one runs."""
        self._due, self._direct, self._complaint, self.held = 0.0, frozenset(), "", ""

    async def look(self) -> None:
        """See to the compute mode, and know `held`. While the driver does not tell, all stays as it was."""
        if time.monotonic() < self._due:
            return
        complaint = ""
        try:
            # So that a driver that hangs does not keep anybody from knowing how the daemon is.
            async with asyncio.timeout(self._timing.answers_within):
                await self._see_to_the_mode()
                await self._see_who_is_there()
        except TimeoutError:
            complaint = "no answer from the driver"
        except (DriverError, OSError) as error:
            complaint = str(error)
        if complaint and complaint != self._complaint:
            logger.warning("%s: cannot see whether others use it: %s", self._uuid, complaint)
        self._complaint = complaint
        self._due = time.monotonic() + (self._timing.look_again if self._direct else self._timing.strays_every)

    async def has_clients(self) -> bool:
        """Whether there are clients of MPS, or may be."""
        try:
            servers = {server.pid for server in (await self._hunt.seen()).servers}
            return any(one.mps and one.pid not in servers for one in await self._gpus.processes(self._uuid))
        except (DriverError, OSError):
            return True

    async def _see_to_the_mode(self) -> None:
        """What is remembered as the mode from before MPS stays: this one came later."""
        mode = await self._gpus.compute_mode(self._uuid)
        if mode is None or mode is _NEEDED:
            return
        logger.warning("%s: somebody has set its compute mode to %s: it is set again", self._uuid, mode.value)
        await self._gpus.set_compute_mode(self._uuid, _NEEDED)

    async def _see_who_is_there(self) -> None:
        direct = [one for one in await self._gpus.processes(self._uuid) if not one.mps]
        if direct:  # a server whose name the driver does not know is one all the same
            servers = {server.pid for server in (await self._hunt.seen()).servers}
            direct = [one for one in direct if one.pid not in servers]
        before, self._direct = self._direct, frozenset(one.pid for one in direct)
        # A client that is just ending looks like one without MPS for a moment.
        self.held = in_the_way([one for one in direct if one.pid in before], ())
