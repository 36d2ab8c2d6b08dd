"""Waiting for something to become true: a test polls a condition until a deadline and never sleeps for a fixed time.

A deadline here is generous: it bounds how long a broken program can stop the suite, and is no statement about speed. It
is given for a machine that has nothing else to do, and grows with the load: `eventually` sees to that itself, and every
other deadline of a test (a process, a connection, a call) goes through `longer`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import TypeVar, overload

T = TypeVar("T")

WITHIN = 30.0

MOST_LOAD = 30.0
"""Processes per CPU beyond which a deadline does not grow: then too somebody waits for the end of a broken program."""


class NotInTimeError(AssertionError):
    """The condition did not become true before its deadline; the message tells what it last gave."""


def longer(seconds: float) -> float:
    """A deadline as it is on this machine now: as many times longer as there are processes for each CPU."""
    return seconds * min(max(1.0, os.getloadavg()[0] / len(os.sched_getaffinity(0))), MOST_LOAD)


class Deadline:
    """Has passed after `within` seconds, or later if the machine is busy, or was while they passed."""

    def __init__(self, within: float) -> None:
        self._within = within
        self._begun = time.monotonic()
        self._allowed = longer(within)

    @property
    def passed(self) -> bool:
        """Whether it has passed. What the load is now counts as much as what it was at first."""
        spent = time.monotonic() - self._begun
        if spent >= self._allowed:
            self._allowed = max(self._allowed, longer(self._within))
        return spent >= self._allowed


@overload
async def eventually(check: Callable[[], Awaitable[T]], within: float = WITHIN, every: float = 0.01) -> T: ...
@overload
async def eventually(check: Callable[[], T], within: float = WITHIN, every: float = 0.01) -> T: ...
async def eventually(check: Callable[[], object], within: float = WITHIN, every: float = 0.01) -> object:
    """Call `check` every `every` seconds until it gives something true, and return that.

    `check` may be a plain or an async function. An `AssertionError` that it raises counts as "not yet".

    Raises:
        NotInTimeError: `within` seconds passed first, or more on a machine that is busy.

    """
    deadline = Deadline(within)
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
        if deadline.passed:
            raise _not_in_time(check, within, last)
        await asyncio.sleep(every)


async def together(parts: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """Run parts of a test beside each other, and give their results. When one fails the others end before this does:
    what still runs when its event loop closes can take the whole process with it.
    """
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(part) for part in parts]
    return [task.result() for task in tasks]


def eventually_sync(check: Callable[[], T], within: float = WITHIN, every: float = 0.01) -> T:
    """As `eventually`, for tests without an event loop."""
    deadline = Deadline(within)
    while True:
        last: object
        try:
            result = check()
            if result:
                return result
            last = result
        except AssertionError as error:
            last = error
        if deadline.passed:
            raise _not_in_time(check, within, last)
        time.sleep(every)


def _not_in_time(check: Callable[[], object], within: float, last: object) -> NotInTimeError:
    name = getattr(check, "__name__", repr(check))
    error = NotInTimeError(f"{name} was not true within {within:g} s; last: {last!r}")
    if isinstance(last, AssertionError):
        error.__cause__ = last
    return error
