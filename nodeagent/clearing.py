"""A person's word that a GPU is well: what may be cleared by hand, and the way of it into the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from nodeagent.admin import CannotDo
from nodeagent.model.health import describe_xids
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import Applied
from nodeagent.state.health import inherited


class Clearing:
    """What is to be cleared, until the loop has done it. `wake` makes it take a turn."""

    def __init__(self, *, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._asked: dict[str, asyncio.Event] = {}

    @property
    def asked(self) -> frozenset[str]:
        """The uuids that are to be cleared in the next turn."""
        return frozenset(self._asked)

    def done(self, uuids: Iterable[str]) -> None:
        """These have been cleared."""
        for uuid in uuids:
            self._asked.pop(uuid).set()

    async def clear(self, uuid: str, applied: Applied) -> str:
        """Have a GPU, or a MIG device, cleared; returns what was done when it has been. Raises CannotDo."""
        entry = applied.gpus.get(uuid)
        if entry is None:
            raise CannotDo(f"cannot clear {uuid}: this node has no such GPU or MIG device")
        gpu = entry.gpu
        if not entry.xids:
            if gpu.health is not GpuHealth.OK:
                told = f"no XID stands against it, but the driver says that it {gpu.health.said()}: {gpu.message}"
                raise CannotDo(f"cannot clear {gpu.name}: {told}")
            raise CannotDo(f"cannot clear {gpu.name}: there is nothing to clear, no XID stands against it")
        if (parent := inherited(applied, uuid)) is not None:
            raise CannotDo(f"cannot clear {gpu.name}: the fault is that of {parent.name}: clear {parent.uuid}")
        waiting = self._asked.setdefault(uuid, asyncio.Event())
        self._wake()
        await waiting.wait()
        return f"{gpu.name} ({uuid}) is cleared of {describe_xids(entry.xids)}"
