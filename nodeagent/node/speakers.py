"""Several who speak beside each other: a fault of one is logged, that one is started again, and the others go on."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from nodeagent.node.pace import Pace

_log = logging.getLogger(__name__)


async def _nobody(_error: BaseException) -> None:
    """Nobody wants to hear of a fault but the log."""


async def keep(
    name: str,
    speak: Callable[[], Awaitable[None]],
    pace: Pace,
    on_fault: Callable[[BaseException], Awaitable[None]] = _nobody,
) -> None:
    """Have somebody speak until cancelled. What was not foreseen is logged with its traceback, once for as long as it
    is the same; `on_fault` is told each time; and after a pause that grows it begins anew.
    """
    failures, told = 0, ""
    while True:
        begun = time.monotonic()
        try:
            await speak()
        except asyncio.CancelledError as error:
            if (task := asyncio.current_task()) is None or task.cancelling():
                raise
            fault: BaseException = error  # a library has let one of its own escape: nobody wants us to end
        except Exception as error:  # noqa: BLE001 - whatever it is
            fault = error
        else:
            return
        if time.monotonic() - begun > pace.backoff[1]:
            failures, told = 0, ""
        failures += 1
        if repr(fault) != told:
            told = repr(fault)
            _log.error("%s failed; starting it again", name, exc_info=fault)
        await on_fault(fault)
        await asyncio.sleep(pace.after(failures, pace.backoff))
