"""What is on disk, what is not yet, and why not: the agent's dealings with its state directory.

A disk that cannot be written degrades one thing, the agent's memory: nothing new is advertised (DESIGN section 5, rule
9), everything that is advertised stays, and writing is tried again at every turn. Writes run off the loop, since a slow
disk must not hold up an Allocate.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol, TypeVar

from nodeagent.model.config import Document
from nodeagent.model.holds import Holds
from nodeagent.model.shares import Applied

logger = logging.getLogger(__name__)

T = TypeVar("T")


class Store(Protocol):
    """The state directory. Every method raises OSError, naming the file."""

    def save_applied(self, applied: Applied) -> None: ...
    def save_holds(self, holds: Holds) -> None: ...
    def save_last_known_good(self, document: Document) -> None: ...


class Keeper:
    """Writes what differs from what is on disk. `document` is the last known good one that is there."""

    def __init__(self, store: Store, *, applied: Applied, holds: Holds, document: Document | None) -> None:
        self._store = store
        self._applied = applied
        self._holds = _durable(holds)
        self._failures: dict[str, str] = {}
        self.document = document

    @property
    def problem(self) -> str | None:
        """Why the disk is behind; None when all that was to be kept has been written."""
        return next(iter(self._failures.values()), None)

    async def keep_applied(self, applied: Applied) -> bool:
        """Have the applied contract on disk, synced. False when it could not be written."""
        if applied == self._applied and "applied" not in self._failures:
            return True
        if not await self._write("applied", self._store.save_applied, applied):
            return False
        self._applied = applied
        return True

    async def keep_holds(self, holds: Holds) -> None:
        """Have what is known of who holds what on disk."""
        durable = _durable(holds)
        if durable != self._holds and await self._write("holds", self._store.save_holds, holds):
            self._holds = durable

    async def keep_document(self, document: Document) -> None:
        """Have the last known good document on disk."""
        if document != self.document and await self._write("document", self._store.save_last_known_good, document):
            self.document = document

    async def _write(self, what: str, save: Callable[[T], None], value: T) -> bool:
        try:
            await asyncio.to_thread(save, value)
        except OSError as error:
            if not self._failures:
                logger.error("%s; nothing new is advertised until it can be written", error)
            self._failures[what] = str(error)
            return False
        if self._failures.pop(what, None) is not None and not self._failures:
            logger.info("the state directory can be written again")
        return True


def _durable(holds: Holds) -> Holds:
    """Grants are not worth a write: an agent that restarts takes all shares for granted for a while."""
    return replace(holds, granted={})
