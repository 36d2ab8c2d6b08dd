"""No MPS on this node: `--mps-host off`.

An agent that ran otherwise may have left a daemon, and a host that still keeps it. Nothing is believed of them here,
but the GPUs that they hold are told: none of them can be given to anybody else. When the host has gone, its daemons
have and what they were asked for is withdrawn, so that a host that comes after all starts none of them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.durable import atomic
from nodeagent.model.config import Contract
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.mps.disk import Disk, reason
from nodeagent.mps.files import FORGOTTEN, Layout, encode_desired
from nodeagent.mps.look import Seen, look
from nodeagent.mps.remains import ReadMode, Remains

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0

_MESSAGE: Final = "no daemon can be started: this agent runs with --mps-host off"


class NoMps:
    """Keeps no daemon, and says so where one is wanted. `wake` is called on the loop when `status` has changed."""

    def __init__(
        self, root: Path, *, wake: Callable[[], None], read_mode: ReadMode, look_every: float = LOOK_EVERY
    ) -> None:
        self._layout = Layout(root)
        self._wake = wake
        self._look_every = look_every
        self._disk = Disk(root, name="mps-root")
        self._remains = Remains(self._layout, self._disk, read_mode)
        self._again = asyncio.Event()
        self._wanted: frozenset[str] = frozenset()
        self._known: dict[str, Contract] = {}
        self._complaint = ""
        self.status = MpsStatus(MpsReason.OFF, _MESSAGE, root=str(root))

    def want(self, daemons: Mapping[str, Contract], *, prepare: bool = False) -> None:  # noqa: ARG002 - nobody is asked
        """Nothing is started: whoever asks for a daemon is told by `status`. A GPU for which one was asked before may
        have had it from another agent.
        """
        before, self._wanted = self._wanted, frozenset(daemons)
        self._known.update(daemons)
        if before != self._wanted:
            left = {uuid for uuid, one in self.status.daemons.items() if one.state is DaemonState.STOPPING}
            self.status = self._summary(left | (before - self._wanted))
            self._again.set()

    def load_wanted(self) -> Mapping[str, Contract]:
        """Nothing is asked for. Blocks: what an MPS host has left is known when this returns."""
        try:
            self._take(look(self._layout))
            self.status = self._summary(self._known.keys())
        except OSError as error:
            logger.warning("cannot tell which GPUs are under MPS: %s", reason(error))
        return {}

    async def run(self) -> None:
        """Look, as long as anything is left of MPS."""
        while True:
            self._again.clear()
            with suppress(OSError):  # what was there is there still, as far as anybody knows
                await self._look()
            left = self.status.daemons.keys() - self._wanted or self.status.left_modes
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look_every if left else None):
                    await self._again.wait()

    async def _look(self) -> None:
        seen = await self._disk.do(lambda: look(self._layout))
        told = self._take(seen)
        if seen.runs:
            self._remains.forget()
        else:
            told = (told | self._known.keys() | (seen.desired or {}).keys()) - self._wanted
            await self._remains.look(told)
            await self._withdraw(seen)
        if self._again.is_set():  # something else is wanted since: this look was about too little
            return
        found = self._summary(told)
        if found != self.status:
            self.status = found
            self._wake()

    def _take(self, seen: Seen) -> set[str]:
        """The GPUs that an MPS host has laid hands on, as far as its files tell."""
        told = seen.observed.daemons if seen.observed is not None else {}
        self._known.update({uuid: daemon.contract for uuid, daemon in told.items()})
        self._known.update({uuid: contract or FORGOTTEN for uuid, contract in seen.kept.items()})
        return {*told, *seen.kept}

    async def _withdraw(self, seen: Seen) -> None:
        """Ask for nothing any more, once nothing is there of what was asked for."""
        asked = seen.desired or {}
        if not asked or not asked.keys() <= self._remains.gone:
            return
        try:
            await self._disk.do(lambda: atomic.write(self._layout.desired, encode_desired({}), sync=False))
        except OSError as error:
            if reason(error) != self._complaint:
                logger.warning("cannot withdraw the MPS daemons that were asked for: %s", reason(error))
            self._complaint = reason(error)

    def _summary(self, told: AbstractSet[str]) -> MpsStatus:
        message = f"an MPS host has left it, and this agent runs with --mps-host off; see {self._layout.root}"
        daemons = {
            uuid: MpsDaemon(uuid, self._known.get(uuid, FORGOTTEN), DaemonState.STOPPING, message)
            for uuid in sorted(told - self._remains.gone)
        }
        # While a contract is there its daemon may be: it is looked for when the contract has ended.
        wanted = {uuid: MpsDaemon(uuid, self._known[uuid], DaemonState.STARTING, _MESSAGE) for uuid in self._wanted}
        return MpsStatus(
            MpsReason.OFF,
            _MESSAGE,
            daemons={**wanted, **daemons},
            root=str(self._layout.root),
            left_modes={uuid: mode for uuid, mode in self._remains.left_modes.items() if uuid not in wanted},
        )
