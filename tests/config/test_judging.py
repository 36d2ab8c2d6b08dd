"""Judging under a bound: what takes too long is rejected, and what nobody waits for ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from nodeagent.config.judging import MOST_LEFT, Judge, seconds_of
from nodeagent.config.load import load
from nodeagent.model.config import Document, Loaded, Stage, Unreadable
from tests.config.support import SLOW, TIME_SLICED, reads_slowly
from tests.waiting import eventually

GOOD = Document("sharing.yaml", TIME_SLICED.encode())


class Reader:
    """Reads a document for as long as the test likes, and has computed for as long as the test says."""

    def __init__(self) -> None:
        self.computed = 0.0
        self.asked = 0
        self.threads: list[threading.Thread] = []
        self._finish = False

    def seconds(self, thread: threading.Thread) -> float:
        """The clock of the judge."""
        assert thread.name == "judge"
        self.asked += 1
        return self.computed

    def compute(self, document: Document) -> Loaded:
        """Compute, and take every fault for one of the document."""
        self.threads.append(threading.current_thread())
        while not self._finish:
            with suppress(Exception):
                sum(range(100))
        return load(document)

    def finish(self) -> None:
        """Come to a verdict."""
        self._finish = True

    @property
    def alive(self) -> int:
        """How many threads read."""
        return sum(thread.is_alive() for thread in self.threads)


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A reader that leaves nothing behind."""
    found = Reader()
    yield found
    found.finish()


@pytest.fixture
async def judging(reader: Reader) -> asyncio.Task[Loaded | Unreadable]:
    """A document that is being judged."""
    task = asyncio.create_task(Judge(reader.compute, bound=5.0, computed=reader.seconds).judge(GOOD))
    await eventually(lambda: reader.asked)
    return task


async def test_a_verdict() -> None:
    """A document that takes no time means what it means."""
    assert await Judge().judge(GOOD) == load(GOOD)


async def test_too_long(reader: Reader, judging: asyncio.Task[Loaded | Unreadable]) -> None:
    """A document that is computed on for longer than the bound is rejected, and its thread ends."""
    reader.computed = 5.0
    found = await judging
    assert isinstance(found, Loaded)
    (violation,) = found.violations
    assert (found.document, found.config, violation.stage) == (GOOD, None, Stage.PARSE)
    assert str(violation) == (
        "sharing.yaml:1:1: cannot be judged within 5 s of computing; shorten it, its longest lists first"
    )
    await eventually(lambda: not reader.alive)


async def test_a_busy_machine(reader: Reader, judging: asyncio.Task[Loaded | Unreadable]) -> None:
    """Time that passes without computing is no fault of the document."""
    reader.computed = 4.9
    await eventually(lambda: reader.asked >= 4)
    assert not judging.done()
    reader.finish()
    assert await judging == load(GOOD)


async def test_nobody_waits(reader: Reader, judging: asyncio.Task[Loaded | Unreadable]) -> None:
    """The thread of a caller that has gone ends, though its reader takes every fault for one of the document."""
    judging.cancel()
    await eventually(lambda: not reader.alive)


async def test_what_cannot_be_ended() -> None:
    """A few threads that sit in the system may be left behind; beyond that nothing is judged until they return."""
    go = threading.Event()

    def hang(document: Document) -> Loaded:
        go.wait()
        return load(document)

    judge = Judge(hang, bound=5.0, computed=lambda _: 5.0)
    for _ in range(MOST_LEFT):
        assert isinstance(await judge.judge(GOOD), Loaded)
    assert await judge.judge(GOOD) == Unreadable(
        "sharing.yaml", missing=False, message="cannot read config: the readers of 4 earlier documents hang"
    )
    go.set()

    async def judged() -> bool:
        return await judge.judge(GOOD) == load(GOOD)

    await eventually(judged)


async def test_a_reader_that_fails(caplog: pytest.LogCaptureFixture) -> None:
    """Is a fault of ours, which is logged; the document is none that can be read."""

    def fail(_document: Document) -> Loaded:
        raise ValueError("a fault of ours")

    found = await Judge(fail).judge(GOOD)
    assert isinstance(found, Unreadable)
    assert found.message == "cannot read config: the reader failed, see the log"
    assert "a fault of ours" in caplog.text


async def test_a_document_that_is_slow() -> None:
    """What it computes is measured."""
    found = await Judge(reads_slowly, bound=0.2).judge(Document("sharing.yaml", SLOW))
    assert isinstance(found, Loaded)
    assert "cannot be judged within 0.2 s" in str(found.violations)
    await eventually(lambda: not any(thread.name == "judge" for thread in threading.enumerate()))


async def test_seconds_of_a_thread() -> None:
    """A thread that waits does not compute, and one that has ended has not."""
    go, wait = threading.Event(), threading.Event()

    def compute() -> None:
        while not go.is_set():
            sum(range(100))

    threads = [threading.Thread(target=target, daemon=True) for target in (compute, wait.wait)]
    for thread in threads:
        thread.start()
    await eventually(lambda: seconds_of(threads[0]) >= 0.1)
    assert seconds_of(threads[1]) < 0.1
    go.set()
    wait.set()
    await eventually(lambda: [seconds_of(thread) for thread in threads] == [0.0, 0.0])
