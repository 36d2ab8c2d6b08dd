"""No MPS on this node: `--mps-host off`.

An agent that ran otherwise may have left a daemon, and a host that still keeps it. Nothing is asked of them and nothing
is believed of them here, but the GPUs that they hold are told: none of them can be given to anybody else.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from nodeagent.model.config import Contract
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.files import FORGOTTEN, Layout
from nodeagent.mps.look import look

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0

_MESSAGE: Final = "no daemon can be started: this agent runs with --mps-host off"


class NoMps:
    """Keeps no daemon, and says so where one is wanted. `wake` is called on the loop when `status` has changed."""

    def __init__(self, root: Path, *, wake: Callable[[], None], look_every: float = LOOK_EVERY) -> None:
        self._layout = Layout(root)
        self._wake = wake
        self._look_every = look_every
        self._disk = Disk(root, name="mps-root")
        self.status = MpsStatus(MpsReason.OFF, _MESSAGE, root=str(root))

    def want(self, daemons: Mapping[str, Contract], *, prepare: bool = False) -> None:
        """Nothing: whoever asks for a daemon is told by `status`."""

    def load_wanted(self) -> Mapping[str, Contract]:
        """Nothing is asked for. Blocks: what an MPS host has left is known when this returns."""
        try:
            self.status = self._look()
        except OSError as error:
            logger.warning("cannot tell which GPUs are under MPS: %s", reason(error))
        return {}

    async def run(self) -> None:
        """Look until nothing is left of MPS."""
        while self.status.daemons:
            await asyncio.sleep(self._look_every)
            try:
                found = await self._disk.do(self._look)
            except OSError:
                continue  # what was there is there still, as far as anybody knows
            if found != self.status:
                self.status = found
                self._wake()

    def _look(self) -> MpsStatus:
        seen = look(self._layout)
        told = seen.observed.daemons if seen.observed is not None else {}
        contracts = {**seen.kept, **{uuid: daemon.contract for uuid, daemon in told.items()}}
        message = f"an MPS host has left it, and this agent runs with --mps-host off; see {self._layout.root}"
        daemons = {
            uuid: MpsDaemon(uuid, contract or FORGOTTEN, DaemonState.STOPPING, message)
            for uuid, contract in contracts.items()
        }
        return MpsStatus(MpsReason.OFF, _MESSAGE, daemons=daemons, root=str(self._layout.root))
