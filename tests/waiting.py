"""Waiting for something to become true: a test polls a condition until a deadline and never sleeps for a fixed time.

A deadline here is generous: it bounds how long a broken program can stop the suite, and is no statement about speed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, overload

T = TypeVar("T")

WITHIN = 30.0


class NotInTimeError(AssertionError):
    """The condition did not become true before its deadline; the message tells what it last gave."""


@overload
async def eventually(check: Callable[[], Awaitable[T]], within: float = WITHIN, every: float = 0.01) -> T: ...
@overload
async def eventually(check: Callable[[], T], within: float = WITHIN, every: float = 0.01) -> T: ...
async def eventually(check: Callable[[], object], within: float = WITHIN, every: float = 0.01) -> object:
    """Call `check` every `every` seconds until it gives something true, and return that.

    `check` may be a plain or an async function. An `AssertionError` that it raises counts as "not yet".

    Raises:
        NotInTimeError: `within` seconds passed first.

    """
    deadline = time.monotonic() + within
    while True:
        last: object
        try:
            last = check()
            if isinstance(last, Awaitable):
                last = await last
            if last:
                return last
        except AssertionError as error:
            last = error
        if time.monotonic() >= deadline:
            raise _not_in_time(check, within, last)
        await asyncio.sleep(every)


def eventually_sync(check: Callable[[], T], within: float = WITHIN, every: float = 0.01) -> T:
    """As `eventually`, for tests without an event loop."""
    deadline = time.monotonic() + within
    while True:
        last: object
        try:
            result = check()
            if result:
                return result
            last = result
        except AssertionError as error:
            last = error
        if time.monotonic() >= deadline:
            raise _not_in_time(check, within, last)
        time.sleep(every)


def _not_in_time(check: Callable[[], object], within: float, last: object) -> NotInTimeError:
    name = getattr(check, "__name__", repr(check))
    error = NotInTimeError(f"{name} was not true within {within:g} s; last: {last!r}")
    if isinstance(last, AssertionError):
        error.__cause__ = last
    return error
