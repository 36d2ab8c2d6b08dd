"""What is told of the daemon of one GPU: to the agent, by way of the host, and in the log when the words change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nodeagent.model.config import Contract
from nodeagent.model.mps import DaemonState
from nodeagent.mps.files import FORGOTTEN, ObservedDaemon, Record
from nodeagent.mps.process import Process

logger = logging.getLogger(__name__)

_BAD = frozenset({DaemonState.FAILED, DaemonState.OCCUPIED})


class Telling:
    """What was told last of the GPU `uuid`; `changed` is called whenever that differs from before."""

    def __init__(self, uuid: str, contract: Contract | None, changed: Callable[[], None]) -> None:
        self._uuid = uuid
        self._changed = changed
        self.observed = ObservedDaemon(contract or FORGOTTEN, DaemonState.STARTING)
        self.settled = asyncio.Event()
        """Set when `observed` rests on what was found."""

    def tell(
        self,
        state: DaemonState,
        message: str,
        *,
        contract: Contract | None,
        process: Process | None,
        record: Record | None,
        altered: str,
    ) -> None:
        """This is so now."""
        told = ObservedDaemon(
            contract=contract or FORGOTTEN,
            state=state,
            message=message,
            pid=None if process is None else process.pid,
            start_time=None if process is None else process.start_time,
            restarts=0 if record is None else record.restarts,
            restored=0 if record is None else record.restored,
            altered=altered,
        )
        before, self.observed = self.observed, told
        if _words(told) != _words(before):
            logger.log(logging.WARNING if state in _BAD else logging.INFO, "%s: %s", self._uuid, _words(told))
        self.settled.set()
        if told != before:
            self._changed()


def _words(told: ObservedDaemon) -> str:
    if told.state is not DaemonState.READY:
        return f"{told.state.value}: {told.message}" if told.message else told.state.value
    return f"ready: process {told.pid}, {told.contract}"
