"""What is on disk, what is not yet, and why not: the agent's dealings with its state directory.

A disk that cannot be written degrades one thing, the agent's memory: nothing new is advertised (DESIGN section 5, rule
9), everything that is advertised stays, and writing is tried again at every turn. Writes run off the loop, since a slow
disk must not hold up an Allocate, and one that hangs is a disk that cannot be written. A write cannot be called back:
until it has returned, whatever became of its caller, no other begins and the state directory is not given up.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from nodeagent.errand import Errand, Hangs
from nodeagent.model.config import Document
from nodeagent.model.holds import Holds
from nodeagent.model.shares import Applied, AppliedGpu

logger = logging.getLogger(__name__)

WRITE_SECONDS = 5.0
"""A write that takes longer is a failure until it returns."""

_APPLIED, _HOLDS, _DOCUMENT = "applied.json", "holds.json", "last-known-good"

T = TypeVar("T")


class Store(Protocol):
    """The state directory. Every method raises OSError, naming the file."""

    def save_applied(self, applied: Applied) -> None: ...
    def save_holds(self, holds: Holds) -> None: ...
    def save_last_known_good(self, document: Document) -> None: ...


@dataclass(slots=True)
class _Write:
    """One write, in the thread and after it: `kept` is called on the loop when the file is on disk."""

    file: str
    save: Callable[[], None]
    kept: Callable[[], None]
    before: int = 0
    error: Exception | None = None

    def perform(self) -> None:
        try:
            self.save()
        except Exception as error:  # noqa: BLE001 - raised again on the loop, if it is a fault of ours
            self.error = error


class Keeper:
    """Writes what differs from what is on disk. `document` is the last known good one that is there. With `owed` the
    applied contract and the holds are written though they do not differ.

    `wake` is called on the loop when a write returns that had been given up after `deadline` seconds.
    """

    def __init__(
        self,
        store: Store,
        *,
        applied: Applied,
        holds: Holds,
        document: Document | None,
        owed: bool = False,
        wake: Callable[[], None] = lambda: None,
        deadline: float = WRITE_SECONDS,
    ) -> None:
        self._store = store
        self._applied = _timeless(applied)
        self._holds = _durable(holds)
        self._owed = {_APPLIED, _HOLDS} if owed else set[str]()
        self._wake = wake
        self._deadline = deadline
        self._errand = Errand("state-dir", on_late=self._take_late)
        self._newest: _Write | None = None
        self._failures: dict[str, str] = {}
        self._losses = 0
        self.document = document

    @property
    def problem(self) -> str | None:
        """Why the disk is behind; None when all that was to be kept has been written."""
        return next(iter(self._failures.values()), None)

    def forget(self, why: str) -> None:
        """Nothing of what was written is on disk any more, nor what is being written now: all of it is owed again."""
        self._losses += 1
        for file in (_APPLIED, _HOLDS, *([_DOCUMENT] if self.document is not None else [])):
            self._fail(file, why)

    def _lacks(self, file: str) -> bool:
        """Whether a file is to be written, whatever is in it."""
        return file in self._failures or file in self._owed

    async def keep_applied(self, applied: Applied) -> bool:
        """Have the applied contract on disk, synced. False when it could not be written."""
        durable = _timeless(applied)
        if durable == self._applied and not self._lacks(_APPLIED):
            return True

        def kept() -> None:
            self._applied = durable
            self._owed.discard(_APPLIED)

        return await self._write(_Write(_APPLIED, lambda: self._store.save_applied(applied), kept))

    async def keep_holds(self, holds: Holds) -> None:
        """Have what is known of who holds what on disk."""
        durable = _durable(holds)

        def kept() -> None:
            self._holds = durable
            self._owed.discard(_HOLDS)

        # What failed is written though it is moot by now: only a write shows that the disk can be written.
        if durable != self._holds or self._lacks(_HOLDS):
            await self._write(_Write(_HOLDS, lambda: self._store.save_holds(holds), kept))

    async def keep_document(self, document: Document) -> None:
        """Have the last known good document on disk."""

        def kept() -> None:
            self.document = document

        if document != self.document or _DOCUMENT in self._failures:
            await self._write(_Write(_DOCUMENT, lambda: self._store.save_last_known_good(document), kept))

    async def _write(self, write: _Write) -> bool:
        """Whether it is on disk. A caller that is cancelled is held until the write has returned."""
        try:
            if not self._errand.busy:
                self._newest, write.before = write, self._losses
            await self._errand.run(write.perform, self._deadline)
        except Hangs:
            hanging = self._newest.file if self._newest is not None else write.file
            self._fail(write.file, f"no answer from the disk: {hanging} is being written for over {self._deadline:g} s")
            return False
        except asyncio.CancelledError:
            await self._errand.idle()
            raise
        return self._settle(write)

    def _take_late(self) -> None:
        if self._newest is not None:
            self._settle(self._newest)
        self._wake()

    def _settle(self, write: _Write) -> bool:
        """Take note of how a write that has returned went. Raises what is a fault of ours and not the disk's."""
        if write.error is not None:
            self._fail(write.file, str(write.error))
            if not isinstance(write.error, OSError):
                raise write.error
            return False
        if write.before != self._losses:
            return False
        write.kept()
        if self._failures.pop(write.file, None) is not None and not self._failures:
            logger.info("the state directory can be written again")
        return True

    def _fail(self, file: str, message: str) -> None:
        if not self._failures:
            logger.error("%s; nothing new is advertised until it can be written", message)
        self._failures[file] = message


class Gate:
    """The way to a state directory, to be shut when the agent ends: `release` gives the directory up once no write is
    under way, so that none lands on what the next agent has written. A write that hangs keeps it until the process
    ends. For several threads at once.
    """

    def __init__(self, store: Store, release: Callable[[], None]) -> None:
        self._store = store
        self._release = release
        self._lock = threading.Lock()
        self._inside = 0
        self._is_shut = False

    def save_applied(self, applied: Applied) -> None:
        self.during(lambda: self._store.save_applied(applied))

    def save_holds(self, holds: Holds) -> None:
        self.during(lambda: self._store.save_holds(holds))

    def save_last_known_good(self, document: Document) -> None:
        self.during(lambda: self._store.save_last_known_good(document))

    def during(self, call: Callable[[], T]) -> T:
        """Make a call that needs the directory until it returns. Raises OSError when the gate is shut."""
        with self._lock:
            if self._is_shut:
                raise OSError(errno.ECANCELED, "cannot use the state directory: the agent ends")
            self._inside += 1
        try:
            return call()
        finally:
            with self._lock:
                self._inside -= 1
                self._leave()

    def shut(self) -> bool:
        """Let nobody in any more. Whether the directory has been given up; else whoever is inside does it."""
        with self._lock:
            self._is_shut = True
            return self._leave()

    def _leave(self) -> bool:
        """With the lock: give the directory up, if the gate is shut and nobody is behind it any more."""
        if not self._is_shut or self._inside:
            return False
        self._release()
        return True


def _durable(holds: Holds) -> Holds:
    """Grants are not worth a write: an agent that restarts takes all shares for granted for a while. Nor is what the
    checkpoint and the cgroups of pods say: that is looked at again.
    """
    return replace(holds, granted={}, unnamed={}, cgroups={})


def _timeless(applied: Applied) -> Applied:
    """The times of fences are not on disk: for an agent that restarts they begin anew. Nor is what the driver calls a
    GPU now.
    """
    return Applied({uuid: _without_moment(entry) for uuid, entry in applied.gpus.items()})


def _without_moment(entry: AppliedGpu) -> AppliedGpu:
    gpu = entry.gpu
    if gpu.driver_index is not None or gpu.minor is not None:
        entry = replace(entry, gpu=replace(gpu, driver_index=None, minor=None))
    return replace(entry, fences=dict.fromkeys(entry.fences, 0.0)) if entry.fences else entry
