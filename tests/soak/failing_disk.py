"""A state directory that takes no files, from time to time, each of them by itself."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from pathlib import Path
from typing import Self

FILES = ("applied.json", "holds.json", "last-known-good")

_WELL, _ILL = 0.7, 1.0
"""Seconds for which files can be written, and cannot, on average."""


class FailingDisk:
    """Within `async with` files of this directory cannot be written at random moments: where the agent makes the new
    one there is a directory, which stops root as well. What is there stays readable.
    """

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self._in_the_way = [directory / f".{name}.tmp" for name in FILES]
        self._rng = rng
        self._life: asyncio.Task[None] | None = None
        self.failures = 0

    async def __aenter__(self) -> Self:
        self.fails()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.works()

    def fails(self) -> None:
        """It begins to fail now and then."""
        if self._life is None:
            self._life = asyncio.create_task(self._live())

    async def works(self) -> None:
        """Everything can be written until it fails again."""
        life, self._life = self._life, None
        if life is not None:
            life.cancel()
            with suppress(asyncio.CancelledError):
                await life
        self._clear()

    async def _live(self) -> None:
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / _WELL))
            for path in self._rng.sample(self._in_the_way, self._rng.randint(1, len(self._in_the_way))):
                # It may be there: the agent is just writing, or has not made its directory yet.
                with suppress(OSError):
                    path.mkdir()
                    self.failures += 1
            await asyncio.sleep(self._rng.expovariate(1 / _ILL))
            self._clear()

    def _clear(self) -> None:
        for path in self._in_the_way:
            with suppress(OSError):
                path.rmdir()
