"""Ends the agent, in order and seldom, where only a new container can use the driver: `--restart-on-driver-change`.

What is done when is decided by `state.renewal`; here it is looked at, noted down and done. Without a note on disk there
is no end: an agent that could not remember that it has tried would try for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from nodeagent.errand import Errand
from nodeagent.model.inventory import Inventory, RenewalNote
from nodeagent.state.renewal import Step, decide, trouble

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 1.0


class Renewal:
    """Looks at the newest inventory now and then. Belongs to one event loop.

    `load` and `save` keep the note, in a thread; they raise OSError. `end` is called when the agent is to end, `wake`
    when the `remark` has changed.
    """

    def __init__(
        self,
        *,
        wanted: bool,
        inventory: Callable[[], Inventory],
        load: Callable[[], RenewalNote | None],
        save: Callable[[RenewalNote], None],
        end: Callable[[], None],
        wake: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wanted = wanted
        self._inventory = inventory
        self._load = load
        self._save = save
        self._end = end
        self._wake = wake
        self._clock = clock
        self._errand = Errand("renewal", on_late=lambda: None)
        self._note: RenewalNote | None = None
        self._ended = False
        self._found: str | None = None
        self._since = clock()
        self._told = ""
        self.remark = ""
        """What is said of a trouble of the driver beside what it is; empty where there is none."""

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """One look, however long the disk takes to answer; the last one is that with which it ends."""
        if self._ended:
            return
        if self._note is None:
            self._note = await self._known()
        inventory, now = self._inventory(), self._clock()
        found = trouble(inventory)
        if found != self._found:
            self._found, self._since = found, now
        if self._note is None:
            self._say("the agent cannot read whether it has ended itself for it before, and stays" if found else "")
            return
        before, decision = self._note, decide(self._note, inventory, now - self._since, now, wanted=self._wanted)
        if decision.note != before and not await self._keep(decision.note):
            self._say("the agent cannot note down that it ends itself for it, and stays" if found else "")
            return
        if decision.step is Step.END and trouble(self._inventory()) != found:
            await self._keep(before)  # it went while the disk was slow
            return
        self._say(decision.remark)
        if decision.step is Step.END:
            logger.warning("%s: ending in order, so that a new container has the driver as it is", inventory.message)
            self._ended = True
            self._end()

    async def _known(self) -> RenewalNote | None:
        try:
            return await self._errand.run(self._load, None) or RenewalNote()
        except OSError as error:
            self._tell(str(error))
            return None

    async def _keep(self, note: RenewalNote) -> bool:
        try:
            await self._errand.run(lambda: self._save(note), None)
        except OSError as error:
            self._tell(str(error))
            return False
        self._note = note
        return True

    def _tell(self, problem: str) -> None:
        if problem != self._told:
            logger.warning("%s", problem)
        self._told = problem

    def _say(self, remark: str) -> None:
        if remark != self.remark:
            self.remark = remark
            self._wake()
