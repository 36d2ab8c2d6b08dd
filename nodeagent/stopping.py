"""The promise that a process ends in time, whatever hangs: it is kept by a thread, from the signal to the last moment.

The kernel's signal is a byte in a pipe, written before any Python runs. Who reads it waits for nothing else: not for
the loop, which may be in a turn that takes seconds, nor for a thread that hangs in a driver, nor for the interpreter,
which joins threads and takes apart all that it has before it ends.
"""

from __future__ import annotations

import asyncio
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import FrameType
from typing import Final

STOP_SECONDS: Final = 5.0
"""Within this time of SIGTERM the process is gone, whatever hangs."""

_SPARE: Final = 0.5
"""Of which so much is left to the kernel, which takes apart what a large process has."""

_STOPS: Final = (signal.SIGTERM, signal.SIGINT)
_HEARD: Final = (*_STOPS, signal.SIGHUP)
_END: Final = 0
"""In the pipe: no signal, but somebody in this process has begun to end it."""

Handler = Callable[[signal.Signals], None]


class Signals:
    """SIGTERM, SIGINT and SIGHUP of this process, from `listen` on.

    `within` seconds after SIGTERM or SIGINT the process is gone, with exit code 0.
    """

    def __init__(self, *, within: float = STOP_SECONDS) -> None:
        self._within = within
        self._lock = threading.Lock()
        self._waiting: list[signal.Signals] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        self._handlers: Mapping[signal.Signals, Handler] = {}
        self._code = 0
        self._deadline: float | None = None
        self._writing = -1

    def listen(self) -> None:
        """Begin to hear. To be called by the main thread, once."""
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for number in _HEARD:
            signal.signal(number, _nothing)
        threading.Thread(target=self._hear, args=(reading,), name="signals", daemon=True).start()

    def hand_to(self, loop: asyncio.AbstractEventLoop, handlers: Mapping[signal.Signals, Handler]) -> None:
        """Have these called on the loop from now on, and for what has come already. To be called on the loop."""
        self._handlers = handlers
        with self._lock:
            self._loop = loop
            waiting, self._waiting = self._waiting, []
        for number in waiting:
            loop.call_soon(self._handle, number)

    def _handle(self, number: signal.Signals) -> None:
        """On the loop: by whoever takes signals at this moment."""
        self._handlers[number](number)

    def begin_to_end(self, code: int) -> None:
        """From now on the time runs as after a signal, to an end with this exit code."""
        self._code = code
        self._begin()
        with suppress(BlockingIOError):  # full of signals, of which one does the same
            os.write(self._writing, bytes([_END]))

    def leave(self, code: int) -> int:
        """What the process is to end with. One that is ending already does so here: what is left of it is memory, which
        the kernel takes back at once.
        """
        if self._deadline is None:
            return code
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or never there
                stream.flush()
        os._exit(code)

    def _hear(self, reading: int) -> None:
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0.0:
                os._exit(self._code)
            if select.select([reading], [], [], left)[0]:
                for number in os.read(reading, 64):
                    self._take(number)

    def _take(self, number: int) -> None:
        if number in _STOPS:
            self._begin()
        if number not in _HEARD:
            return  # somebody else's signal, which has a handler of its own
        with self._lock:
            if self._loop is None:
                self._waiting.append(signal.Signals(number))
                return
        with suppress(RuntimeError):  # the loop is closed: whoever it was for has ended
            self._loop.call_soon_threadsafe(self._handle, signal.Signals(number))

    def _begin(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + self._within - _SPARE


def _nothing(number: int, frame: FrameType | None) -> None:
    """That the signal has come stands in the pipe."""
