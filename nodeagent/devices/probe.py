"""One thread at a time for calls that may block for ever.

A call into a wedged GPU driver sits in the kernel, where nothing can interrupt it. Such a call gets a daemon thread of
its own and a deadline: whoever waits goes on after it, the interpreter never waits for the thread, and until the call
has returned no second one is made, so that a hanging GPU costs one thread and not one per look.
(`asyncio.to_thread` will not do: its pool is joined at exit.)
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


class Hangs(Exception):
    """A call did not answer within its deadline, or an earlier one still has not."""


class Probe:
    """Makes calls in daemon threads, one at a time. Belongs to one event loop.

    `on_late` is called on the loop when a call that had been given up returns after all; its answer is dropped.
    """

    def __init__(self, name: str, *, on_late: Callable[[], None]) -> None:
        self._name = name
        self._on_late = on_late
        self._busy = False

    @property
    def busy(self) -> bool:
        """Whether a call has not returned yet."""
        return self._busy

    async def ask(self, call: Callable[[], _T], deadline: float) -> _T:
        """What `call` returns or raises. Raises Hangs after `deadline` seconds, at once while an earlier call hangs."""
        if self._busy:
            raise Hangs
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[_T] = loop.create_future()

        def settle(value: _T | None, error: BaseException | None) -> None:
            self._busy = False
            if answer.done():
                self._on_late()
            elif error is not None:
                answer.set_exception(error)
            else:
                answer.set_result(value)  # type: ignore[arg-type]  # without an error there is a value

        def work() -> None:
            value, error = None, None
            try:
                value = call()
            except BaseException as caught:  # noqa: BLE001  # raised again where the answer is awaited
                error = caught
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, value, error)

        threading.Thread(target=work, name=self._name, daemon=True).start()
        self._busy = True
        try:
            async with asyncio.timeout(deadline):
                return await answer
        except TimeoutError:
            if answer.done() and not answer.cancelled():
                raise  # it is the answer itself
            raise Hangs from None
