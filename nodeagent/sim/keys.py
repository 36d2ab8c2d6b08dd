"""A key of the terminal, waited for: whoever plays the story for others goes on when they have read."""

from __future__ import annotations

import asyncio
import os
import termios
import tty
from contextlib import suppress
from typing import TextIO

from nodeagent.errors import CannotStart


class Keys:
    """The keyboard behind `stream`. Raises CannotStart where that is no terminal, or closed: nobody could ever press a
    key.
    """

    def __init__(self, stream: TextIO | None) -> None:
        if stream is None or not stream.isatty():
            raise CannotStart("cannot wait for a key between the steps: standard input is not a terminal")
        self._terminal = stream.fileno()

    async def pressed(self) -> None:
        """Wait for the next key; what was typed before counts for nothing. Ctrl-C is what it always is. Raises
        CancelledError when the terminal has been closed.
        """
        before = termios.tcgetattr(self._terminal)
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        tty.setcbreak(self._terminal)  # which also forgets what was typed before
        loop.add_reader(self._terminal, ready.set)
        try:
            await ready.wait()
            if not _read(self._terminal):
                raise asyncio.CancelledError
        finally:
            loop.remove_reader(self._terminal)
            with suppress(termios.error):  # it has been closed
                termios.tcsetattr(self._terminal, termios.TCSADRAIN, before)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 64)  # a key may be several bytes
    except OSError:
        return b""
