"""Judging documents under a bound: none holds up the next one, however long it takes.

A document is judged in a thread of its own. The bound is on what that thread has computed, not on the time that has
passed: a busy machine is no fault of the document. Who goes on without a verdict, because there is a newer document or
this one takes too long, has the thread end: Python raises an exception in it, which every reader that computes meets at
its next step. So what is left behind costs nothing more. (A process could be killed, but it would cost each reload the
start of an interpreter, and the node its memory.)

A thread that sits in the system, on a disk that hangs say, cannot be ended so. As long as `MOST_LEFT` of them are about
no other is begun.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.config.load import load
from nodeagent.model.config import Document, Loaded, Stage, Unreadable, Violation, Where

_log = logging.getLogger(__name__)

BOUND: Final = 5.0
"""Seconds of computing. The largest documents that anybody needs take a tenth of it."""

MOST_LEFT: Final = 4

_LOOK_EVERY: Final = 0.1
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class Judge:
    """Judges documents. Belongs to one event loop.

    `load` says what a document means; `computed` for how many seconds a thread has computed so far.
    """

    def __init__(
        self,
        load: Callable[[Document], Loaded] = load,
        *,
        bound: float = BOUND,
        computed: Callable[[threading.Thread], float] | None = None,
    ) -> None:
        self._load = load
        self._bound = bound
        self._computed = computed if computed is not None else seconds_of
        self._left: list[_Reading] = []

    async def judge(self, document: Document) -> Loaded | Unreadable:
        """What a document means: one that takes too long is rejected. A caller that is cancelled has it ended."""
        self._left = [reading for reading in self._left if reading.thread.is_alive()]
        if len(self._left) >= MOST_LEFT:
            message = f"cannot read config: the readers of {MOST_LEFT} earlier documents hang"
            return Unreadable(document.path, missing=False, message=message)
        reading = _Reading(document, self._load)
        reading.thread.start()
        try:
            while not await reading.done_within(_LOOK_EVERY):
                if self._computed(reading.thread) >= self._bound:
                    return _too_long(document, self._bound)
            return reading.verdict
        finally:
            if reading.end():
                self._left.append(reading)


class _Reading:
    """One document and the thread that reads it."""

    def __init__(self, document: Document, load: Callable[[Document], Loaded]) -> None:
        self.thread = threading.Thread(target=self._work, name="judge", daemon=True)
        self.verdict: Loaded | Unreadable = Unreadable(document.path, missing=False, message="not judged yet")
        self._document = document
        self._load = load
        self._loop = asyncio.get_running_loop()
        self._done = asyncio.Event()
        self._lock = threading.Lock()
        self._finished = False

    async def done_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done.wait()
        return self._done.is_set()

    def end(self) -> bool:
        """Have the thread end. Whether there was a need to."""
        with self._lock:
            if self._finished:
                return False
            _raise_in(self.thread, _Ended)
            return True

    def _work(self) -> None:
        with suppress(_Ended):
            self.verdict = self._judged()
            with self._lock:
                self._finished = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._done.set)

    def _judged(self) -> Loaded | Unreadable:
        try:
            return self._load(self._document)
        except Exception:  # noqa: BLE001 - see below
            # Whatever a document does to the reader, the node keeps its config and the next document is read.
            path = self._document.path
            _log.exception("cannot read config: the reader failed on %s", path)
            return Unreadable(path, missing=False, message="cannot read config: the reader failed, see the log")


class _Ended(BaseException):
    """Raised in a thread whose verdict nobody wants any more. No reader may take it for a fault of its own."""


def seconds_of(thread: threading.Thread) -> float:
    """For how many seconds a thread has computed; 0 when it has ended."""
    try:
        told = Path(f"/proc/self/task/{thread.native_id}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    user, system = told.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / _TICKS


def _too_long(document: Document, bound: float) -> Loaded:
    message = f"cannot be judged within {bound:g} s of computing; shorten it, its longest lists first"
    return Loaded(document, None, (Violation(document.path, Where(), message, Stage.PARSE),))


def _raise_in(thread: threading.Thread, error: type[BaseException]) -> None:
    """Have a thread raise this at its next step. Nothing when it has ended."""
    import ctypes

    if thread.ident is not None:
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(error))
