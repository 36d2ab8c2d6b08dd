"""Several callers at one thing that may hang."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial

import pytest

from nodeagent.devices.turns import Turns
from nodeagent.errand import Hangs
from tests.waiting import eventually, longer

LONG = longer(10.0)


async def test_one_after_the_other() -> None:
    """Calls that are made at once are all answered, and never two of them are under way."""
    turns = Turns("test", LONG, on_late=pytest.fail)
    under_way: list[int] = []
    most = 0

    def call(number: int) -> int:
        nonlocal most
        under_way.append(number)
        most = max(most, len(under_way))
        under_way.remove(number)
        return number

    answers = await asyncio.gather(*(turns.run(partial(call, number)) for number in range(20)))
    assert (sorted(answers), most, turns.busy) == (list(range(20)), 1, False)


async def test_nobody_waits_behind_a_hang() -> None:
    """Who waits for a call is turned away when that one has outlived its deadline, and who comes later is at once."""
    release, calls = threading.Event(), []

    def call() -> None:
        calls.append(1)
        release.wait()

    late: list[bool] = []
    turns = Turns("test", 0.05, on_late=lambda: late.append(turns.busy))
    outcomes = await asyncio.gather(*(turns.run(call) for _ in range(3)), return_exceptions=True)
    assert [type(one) for one in outcomes] == [Hangs] * 3
    with pytest.raises(Hangs):
        await turns.run(call)
    assert (len(calls), turns.busy) == (1, True)
    release.set()
    await eventually(lambda: late == [False])
    await turns.run(call)


async def test_error() -> None:
    """An error of a call is that of its caller alone."""
    turns = Turns("test", LONG, on_late=pytest.fail)

    def bad() -> None:
        raise ValueError("no")

    first, second = await asyncio.gather(turns.run(bad), turns.run(lambda: 7), return_exceptions=True)
    assert isinstance(first, ValueError)
    assert second == 7


async def test_busy_between_two_calls() -> None:
    """While somebody waits for a turn it is not free, not even between two calls."""
    release, begun = threading.Event(), threading.Event()
    turns = Turns("test", LONG, on_late=pytest.fail)
    first = asyncio.create_task(turns.run(release.wait))
    second = asyncio.create_task(turns.run(begun.set))
    await eventually(lambda: turns.busy)
    release.set()
    async with asyncio.timeout(LONG):
        while not begun.is_set():
            assert turns.busy
            await asyncio.sleep(0)
    await asyncio.gather(first, second)
    assert not turns.busy


async def test_cancelled() -> None:
    """Who stops waiting leaves nothing behind; a call whose caller has gone is waited for all the same."""
    release = threading.Event()
    late: list[int] = []
    turns = Turns("test", LONG, on_late=lambda: late.append(1))
    callers = [asyncio.create_task(turns.run(release.wait)) for _ in range(2)]
    await eventually(lambda: turns.busy)
    last = asyncio.create_task(turns.run(lambda: 7))
    for caller in callers:
        caller.cancel()
        with suppress(asyncio.CancelledError):
            await caller
    assert turns.busy
    release.set()
    assert await last == 7
    assert (late, turns.busy) == ([1], False)
