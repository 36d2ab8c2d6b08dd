"""Several who ask one thing that may hang, one after the other.

An `Errand` turns away whoever comes while a call is under way, as one that is still under way at the next look hangs.
But looks are not all that is asked: somebody may want a GPU's compute mode in the middle of one. So whoever comes waits
for the call before, though never behind one that has outlived its deadline: that one hangs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from nodeagent.errand import Errand, Hangs

T = TypeVar("T")


class Turns:
    """Makes calls in daemon threads, one at a time, each with `deadline` seconds. Belongs to one event loop.

    `on_late` is called on the loop when a call returns after its caller has gone; its result is dropped.
    """

    def __init__(self, name: str, deadline: float, *, on_late: Callable[[], None]) -> None:
        self._errand = Errand(name, on_late=on_late)
        self._deadline = deadline
        self._began = 0.0
        self._waiting = 0

    @property
    def busy(self) -> bool:
        """Whether a call has not returned yet, or will be made as soon as another one has."""
        return self._errand.busy or self._waiting > 0

    async def run(self, call: Callable[[], T]) -> T:
        """What `call` returns or raises. Raises Hangs when it does not return in time, or the one before it does not.

        While nothing is under way the call is made at once, before anything else can happen on the loop.
        """
        clock = asyncio.get_running_loop().time
        self._waiting += 1
        try:
            while self._errand.busy:
                left = self._began + self._deadline - clock()
                if left <= 0:
                    raise Hangs
                with suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self._errand.idle()
        finally:
            self._waiting -= 1
        self._began = clock()
        return await self._errand.run(call, self._deadline)
