"""Blocking calls in threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress

import pytest

from nodeagent.errand import Errand, Hangs
from tests.waiting import eventually, longer

LONG = longer(10.0)


@pytest.mark.parametrize("deadline", [LONG, None], ids=["within a deadline", "without one"])
async def test_answer(deadline: float | None) -> None:
    """A call that returns in time is answered with what it returns, and the next one can be made."""
    errand = Errand("test", on_late=pytest.fail)
    for _ in range(2):
        assert await errand.run(lambda: 7, deadline) == 7
        assert not errand.busy


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own")])
async def test_error(error: Exception) -> None:
    """An error of the call is raised as it is; a timeout of its own is no hang."""

    def call() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        await Errand("test", on_late=pytest.fail).run(call, LONG)


async def test_hang() -> None:
    """A call is given up at its deadline, no other is made before it returns, and then the owner is told."""
    release, calls, late = threading.Event(), [], []

    def call() -> None:
        calls.append(threading.current_thread())
        release.wait()

    errand = Errand("test", on_late=lambda: late.append(errand.busy))
    for _ in range(3):
        with pytest.raises(Hangs):
            await errand.run(call, 0.01)
    assert (len(calls), late, errand.busy) == (1, [], True)
    assert calls[0].daemon
    release.set()
    await asyncio.wait_for(errand.idle(), LONG)
    await eventually(lambda: late == [False])
    await errand.run(call, LONG)
    assert (len(calls), len(late)) == (2, 1)


async def test_cancelled() -> None:
    """A caller that is cancelled goes at once; the call goes on, and its owner is told when it has returned."""
    release, late = threading.Event(), []

    def call() -> None:
        release.wait()
        raise ValueError("nobody is there to hear it")

    errand = Errand("test", on_late=lambda: late.append(1))
    caller = asyncio.create_task(errand.run(call, None))
    await eventually(lambda: errand.busy)
    caller.cancel()
    with suppress(asyncio.CancelledError):
        await caller
    assert errand.busy
    release.set()
    await eventually(lambda: late)
    assert not errand.busy
