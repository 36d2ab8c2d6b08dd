"""One thread at a time for calls that may block for ever: into a driver, a disk or a mount.

A call that sits in the kernel cannot be interrupted. It gets a daemon thread of its own and a deadline: whoever waits
goes on after it, the end of the process does not wait for the thread, and until the call has returned no second one is
made, so that what hangs costs one thread and not one per attempt. (`asyncio.to_thread` will not do: its threads are
joined at the end, and its callers go on when they are cancelled though the call does.)
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


class Hangs(Exception):
    """A call did not return within its deadline, or an earlier one still has not."""


class Errand:
    """Makes calls in daemon threads, one at a time. Belongs to one event loop.

    `on_late` is called on the loop when a call returns after its caller has gone; its result is dropped.
    """

    def __init__(self, name: str, *, on_late: Callable[[], None]) -> None:
        self._name = name
        self._on_late = on_late
        self._free = asyncio.Event()
        self._free.set()

    @property
    def busy(self) -> bool:
        """Whether a call has not returned yet."""
        return not self._free.is_set()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        await self._free.wait()

    async def run(self, call: Callable[[], T], deadline: float | None) -> T:
        """What `call` returns or raises. Raises Hangs after `deadline` seconds (None: never), at once while busy."""
        if self.busy:
            raise Hangs
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()

        def settle(give: Callable[[], None]) -> None:
            self._free.set()
            if answer.done():
                self._on_late()
            else:
                give()

        def work() -> None:
            try:
                value = call()
            except BaseException as caught:  # noqa: BLE001 - raised again where it is waited for
                error = caught
                tell(lambda: answer.set_exception(error))
            else:
                tell(lambda: answer.set_result(value))

        def tell(give: Callable[[], None]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, give)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        self._free.clear()
        try:
            done, _ = await asyncio.wait((answer,), timeout=deadline)
            if not done:
                raise Hangs
            return answer.result()
        finally:
            answer.cancel()  # nobody waits for it any more; nothing if it is there
