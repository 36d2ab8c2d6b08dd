"""What the keeper says is on disk is on disk, whatever the disk does: it fills up, hangs, or answers late."""

from __future__ import annotations

import asyncio
import errno
import logging
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.durable.lock import FileLock
from nodeagent.keeper import Gate, Keeper
from nodeagent.model.config import Contract, Document, Mode
from nodeagent.model.holds import Holds
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import Applied, AppliedGpu
from tests.waiting import eventually

RESOURCE = "nvidia.com/gpu.shared"
GOOD, BETTER = Document("sharing.yaml", b"good"), Document("sharing.yaml", b"better")
NOBODY, SOMEBODY = Holds(), Holds(listed=frozenset({(RESOURCE, "GPU-0::0")}))
SHORT = 0.05


def applied(shares: int, *, fences: dict[int, float] | None = None) -> Applied:
    """One GPU with so many shares."""
    contract = Contract(RESOURCE, Mode.TIME_SLICED)
    return Applied({"GPU-0": AppliedGpu(Gpu("GPU-0", 0, "m", 1), contract, frozenset(range(shares)), fences or {})})


@dataclass
class Disk:
    """A disk that can be full, and can hang: a write then ends, well or not, when `go` says so."""

    full: bool = False
    hangs: bool = False
    go: threading.Event = field(default_factory=threading.Event)
    files: dict[str, object] = field(default_factory=dict)
    begun: int = 0
    under_way: int = 0
    most: int = 0

    def save_applied(self, applied: Applied) -> None:
        self._save("applied.json", applied)

    def save_holds(self, holds: Holds) -> None:
        self._save("holds.json", holds)

    def save_last_known_good(self, document: Document) -> None:
        self._save("last-known-good", document)

    def _save(self, name: str, value: object) -> None:
        self.begun += 1
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            if self.hangs:
                self.go.wait()
            if self.full:
                raise OSError(errno.ENOSPC, "cannot write file: No space left on device", name)
            self.files[name] = value
        finally:
            self.under_way -= 1


@dataclass
class World:
    """A keeper on a disk. `woken` counts how often it told that a late write has returned."""

    disk: Disk = field(default_factory=Disk)
    woken: int = 0

    def __post_init__(self) -> None:
        self.keeper = Keeper(
            self.disk, applied=applied(1), holds=NOBODY, document=GOOD, wake=self._wake, deadline=SHORT
        )

    def _wake(self) -> None:
        self.woken += 1

    async def returned(self) -> None:
        """Let the write that hangs end, and wait until the keeper has heard of it."""
        before = self.woken
        self.disk.go.set()
        await eventually(lambda: self.woken > before)
        self.disk.hangs = False
        self.disk.go.clear()


@pytest.fixture
async def world() -> AsyncIterator[World]:
    """A keeper with one share, nobody who holds it and a good document on disk."""
    world = World()
    yield world
    world.disk.go.set()


async def test_what_is_on_disk_is_not_written_again(world: World) -> None:
    """Nothing is written that is on disk already; grants and the ages of fences never are."""
    assert await world.keeper.keep_applied(applied(1))
    await world.keeper.keep_holds(Holds(granted={(RESOURCE, "GPU-0::0"): 1.0}))
    await world.keeper.keep_document(GOOD)
    assert world.disk.begun == 0
    assert await world.keeper.keep_applied(applied(2, fences={1: 10.0}))
    assert await world.keeper.keep_applied(applied(2, fences={1: 20.0}))
    assert world.disk.begun == 1


async def test_a_failure_ends_with_a_write(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that refuses is a problem, told once; it is over when what was owed is written."""
    caplog.set_level(logging.INFO)
    world.disk.full = True
    for _ in range(2):
        assert not await world.keeper.keep_applied(applied(2))
        assert "No space left on device: 'applied.json'" in str(world.keeper.problem)
    world.disk.full = False
    assert await world.keeper.keep_applied(applied(2))
    assert world.keeper.problem is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


async def test_a_failure_that_is_moot_ends_as_well(world: World) -> None:
    """What could not be written and need not be any more is no problem once the disk takes files again."""
    world.disk.full = True
    await world.keeper.keep_applied(applied(2))
    await world.keeper.keep_document(BETTER)
    await world.keeper.keep_holds(SOMEBODY)
    world.disk.full = False
    assert await world.keeper.keep_applied(applied(1))
    await world.keeper.keep_document(GOOD)
    await world.keeper.keep_holds(NOBODY)
    assert world.keeper.problem is None
    assert world.disk.files == {"applied.json": applied(1), "holds.json": NOBODY, "last-known-good": GOOD}


async def test_what_is_forgotten_is_written_again(world: World) -> None:
    """A directory that has gone took all that was written with it: it is a problem until everything is there again."""
    world.keeper.forget("it has gone")
    assert str(world.keeper.problem) == "it has gone"
    assert await world.keeper.keep_applied(applied(1))
    await world.keeper.keep_holds(NOBODY)
    assert str(world.keeper.problem) == "it has gone"
    await world.keeper.keep_document(GOOD)
    assert str(world.keeper.problem) == "None"
    assert world.disk.files == {"applied.json": applied(1), "holds.json": NOBODY, "last-known-good": GOOD}


async def test_a_write_from_before_the_loss_does_not_count(world: World) -> None:
    """What was under way when the directory went is owed again, however it ends."""
    world.disk.hangs = True
    assert not await world.keeper.keep_applied(applied(2))
    world.keeper.forget("it has gone")
    await world.returned()
    assert world.keeper.problem == "it has gone"
    world.disk.files.clear()
    assert await world.keeper.keep_applied(applied(2))
    assert world.disk.files == {"applied.json": applied(2)}


async def test_a_disk_that_hangs_is_a_failure(world: World) -> None:
    """A write without an end is given up at its deadline and named; until it returns nothing else is begun."""
    world.disk.hangs = True
    assert not await world.keeper.keep_applied(applied(2))
    assert "no answer from the disk: applied.json" in str(world.keeper.problem)
    assert not await world.keeper.keep_applied(applied(3))
    assert not await world.keeper.keep_applied(applied(1))
    await world.keeper.keep_holds(SOMEBODY)
    await world.keeper.keep_document(BETTER)
    assert (world.disk.begun, world.disk.files) == (1, {})

    await world.returned()
    assert await world.keeper.keep_applied(applied(3))
    await world.keeper.keep_holds(SOMEBODY)
    await world.keeper.keep_document(BETTER)
    assert world.keeper.problem is None
    assert world.disk.files == {"applied.json": applied(3), "holds.json": SOMEBODY, "last-known-good": BETTER}
    assert world.disk.most == 1


async def test_a_late_write_counts(world: World) -> None:
    """A write that ends well after its deadline is on disk: the failure is over, and nothing is written twice."""
    world.disk.hangs = True
    assert not await world.keeper.keep_applied(applied(2))
    await world.returned()
    assert world.keeper.problem is None
    assert await world.keeper.keep_applied(applied(2))
    assert world.disk.begun == 1
    assert await world.keeper.keep_applied(applied(1))
    assert world.disk.files["applied.json"] == applied(1)


async def test_a_late_failure_counts(world: World) -> None:
    """A write that fails after its deadline leaves its own reason, and even the old content is written again."""
    world.disk.hangs = world.disk.full = True
    assert not await world.keeper.keep_applied(applied(2))
    await world.returned()
    assert "No space left on device" in str(world.keeper.problem)
    world.disk.full = False
    assert await world.keeper.keep_applied(applied(1))
    assert (world.disk.files["applied.json"], world.keeper.problem) == (applied(1), None)


async def test_a_fault_of_ours_is_not_the_disk_s() -> None:
    """What a store raises besides OSError is raised, and what was to be written is still owed."""
    disk = Disk()
    disk.files = None  # type: ignore[assignment]
    keeper = Keeper(disk, applied=applied(1), holds=NOBODY, document=None)
    with pytest.raises(TypeError):
        await keeper.keep_applied(applied(2))
    disk.files = {}
    assert await keeper.keep_applied(applied(2))


async def test_a_caller_that_is_cancelled_waits_for_its_write() -> None:
    """A task that is cancelled in the middle of a write ends when the write has ended, and not before."""
    disk = Disk(hangs=True)
    keeper = Keeper(disk, applied=applied(1), holds=NOBODY, document=None)
    task = asyncio.create_task(keeper.keep_applied(applied(2)))
    await eventually(lambda: disk.under_way)
    task.cancel()
    done, _ = await asyncio.wait((task,), timeout=SHORT)
    assert not done
    disk.go.set()
    await eventually(task.done)
    assert task.cancelled()
    assert disk.files["applied.json"] == applied(2)


@pytest.fixture
def lock(tmp_path: Path) -> Iterator[FileLock]:
    """The lock of a state directory, taken."""
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire()
    yield lock
    lock.release()


def test_a_gate_that_is_shut(lock: FileLock) -> None:
    """With no write under way the directory is given up at once; no write passes a gate that is shut."""
    disk = Disk()
    gate = Gate(disk, lock.release)
    gate.save_applied(applied(1))
    gate.save_holds(NOBODY)
    gate.save_last_known_good(GOOD)
    assert (len(disk.files), lock.held) == (3, True)
    assert gate.shut()
    assert (lock.held, gate.shut()) == (False, True)
    with pytest.raises(OSError, match="the agent ends"):
        gate.save_applied(applied(2))
    assert disk.files["applied.json"] == applied(1)


@pytest.mark.parametrize("full", [False, True])
async def test_the_lock_outlives_a_write(lock: FileLock, full: bool) -> None:
    """While a write is under way the directory is not given up; it is when the write has ended, well or not."""
    disk = Disk(hangs=True, full=full)
    gate = Gate(disk, lock.release)
    keeper = Keeper(gate, applied=applied(1), holds=NOBODY, document=None, deadline=SHORT)
    assert not await keeper.keep_applied(applied(2))
    assert not gate.shut()
    assert lock.held
    disk.go.set()
    await eventually(lambda: not lock.held)
    assert disk.files == ({} if full else {"applied.json": applied(2)})


async def test_what_is_owed_is_written_once_though_it_is_the_same(world: World) -> None:
    """As times that the wall clock has made of what was on disk."""
    keeper = Keeper(world.disk, applied=applied(1), holds=NOBODY, document=GOOD, owed=True)
    for _ in range(2):
        assert await keeper.keep_applied(applied(1))
        await keeper.keep_holds(NOBODY)
    assert world.disk.files == {"applied.json": applied(1), "holds.json": NOBODY}
    assert world.disk.begun == 2
