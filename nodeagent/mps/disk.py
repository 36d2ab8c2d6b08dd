"""File work that may hang, kept off the loop: a disk that does not answer holds up one GPU, and nothing else."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from nodeagent import refusals
from nodeagent.errand import Errand, Hangs

T = TypeVar("T")

DEADLINE = 5.0
"""Seconds. Everything here is a few small files on what is a tmpfs on most nodes."""


class Disk:
    """Does pieces of file work in threads, one after the other. Belongs to one event loop.

    A piece whose caller has gone is done nevertheless, and the next one begins when it has ended.
    """

    def __init__(self, path: Path, *, name: str, deadline: float = DEADLINE) -> None:
        self._path = path
        self._deadline = deadline
        self._errand = Errand(name, on_late=lambda: None)
        self._turn = asyncio.Lock()

    async def do(self, work: Callable[[], T]) -> T:
        """What `work` returns or raises. Raises OSError when it, or the piece before it, does not end in time."""
        async with self._turn:
            try:
                async with asyncio.timeout(self._deadline):
                    await self._errand.idle()
                return await self._errand.run(work, self._deadline)
            except (Hangs, TimeoutError) as error:
                message = f"no answer from the disk within {self._deadline:g} s"
                raise OSError(errno.ETIMEDOUT, message, str(self._path)) from error


def reason(error: OSError) -> str:
    """An error in words that do not change: `cannot write file: No space left on device: /run/…`."""
    said = refusals.words(error)
    return f"{said}: {error.filename}" if error.filename else said
