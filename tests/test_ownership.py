"""Whose the state directory is, on real directories: what has gone from its path, who may take it, and when to end."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.durable.lock import FileLock
from nodeagent.model.node import Selection
from nodeagent.ownership import ANEW, OWNER_FIRST, REMOUNT_AFTER, Claim, Ending, Ownership
from nodeagent.store.state_dir import MountGone, Standing, StateDir


def state_dir(path: Path) -> StateDir:
    """A store that is not the owner yet."""
    return StateDir(path / "state", identity="/sharing.yaml", boot_id="boot")


@pytest.fixture
def store(tmp_path: Path) -> StateDir:
    """The owner, with a file."""
    store = state_dir(tmp_path)
    assert store.acquire()
    store.save_selection(Selection("a", "b"), ("a",))
    assert store.keep() is Standing.OURS
    return store


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class TestStateDir:
    """What an owner finds."""

    def test_a_write_needs_the_lock_at_its_path(self, store: StateDir, tmp_path: Path) -> None:
        """Nothing is written to what may be another's by now, and that is an error of the disk like any other."""
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        with pytest.raises(OSError, match="was removed or replaced"):
            store.save_selection(Selection(), ("a",))
        (tmp_path / "state").mkdir()
        with pytest.raises(OSError, match="was removed or replaced"):
            store.save_selection(Selection(), ("a",))
        assert list((tmp_path / "state").iterdir()) == []
        assert store.keep() is Standing.ANEW
        store.save_selection(Selection(), ("a",))
        assert store.keep() is Standing.OURS

    def test_a_slow_write_does_not_land_in_what_is_anothers_by_now(
        self, store: StateDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lock is looked at last, after all that may take long."""
        other = state_dir(tmp_path)

        def slow(_descriptor: int) -> None:
            monkeypatch.undo()
            (tmp_path / "state" / "lock").unlink()
            assert other.acquire()
            other.save_selection(Selection("the", "other"), ("a",))

        monkeypatch.setattr("os.fsync", slow)
        with pytest.raises(OSError, match="was removed or replaced"):
            store.save_selection(Selection("too", "late"), ("a",))
        found = other.load_selection()
        assert found is not None
        assert found.selection == Selection("the", "other")

    def test_what_comes_back_is_ours(self, store: StateDir, tmp_path: Path) -> None:
        """A directory that was away for a moment is the one that it was."""
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        (tmp_path / "elsewhere").rename(tmp_path / "state")
        assert store.keep() is Standing.OURS
        store.save_selection(Selection(), ("a",))

    def test_another_has_it(self, store: StateDir, tmp_path: Path) -> None:
        """The lock that is there now decides, and what was held is held until it is given up."""
        (tmp_path / "state" / "lock").unlink()
        other = state_dir(tmp_path)
        assert other.acquire()
        assert store.keep() is Standing.TAKEN
        with pytest.raises(OSError, match="was removed or replaced"):
            store.save_selection(Selection(), ("a",))
        assert other.keep() is Standing.OURS
        other.release()
        assert store.keep() is Standing.ANEW

    def test_the_reason_is_told_by_who_writes(self, store: StateDir, tmp_path: Path) -> None:
        """Why the directory cannot be made is what a write says, until it can."""
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        (tmp_path / "state").write_text("")
        for call in (store.keep, lambda: store.save_selection(Selection(), ("a",))):
            with pytest.raises(OSError, match="cannot use state directory: File exists"):
                call()
        (tmp_path / "state").unlink()
        assert store.keep() is Standing.ANEW
        store.save_selection(Selection(), ("a",))

    def test_a_file_that_was_never_there_is_not_missed(self, store: StateDir, tmp_path: Path) -> None:
        """Only what was written or read counts, and each loss once."""
        (tmp_path / "state" / "config-selection").unlink()
        assert store.keep() is Standing.ANEW
        assert store.keep() is Standing.OURS


class TestClaim:
    """Who waits."""

    def test_the_owner_comes_first(self, store: StateDir, tmp_path: Path) -> None:
        """A lock whose file has only gone from its path is left to its owner, who makes it anew if he lives."""
        clock, other = Clock(), state_dir(tmp_path)
        claim = Claim(other, clock=clock)
        assert not claim.take()
        for _ in range(2):
            (tmp_path / "state" / "lock").unlink()
            assert not claim.take()
            clock.now += OWNER_FIRST - 0.1
            assert not claim.take()
            assert not (tmp_path / "state" / "lock").exists()
            assert store.keep() is Standing.ANEW
            clock.now += OWNER_FIRST
            assert not claim.take()

    def test_an_owner_that_does_not_come_back(self, store: StateDir, tmp_path: Path) -> None:
        """After that time it is anybody's, and the owner that was only slow finds it taken."""
        clock, other = Clock(), state_dir(tmp_path)
        claim = Claim(other, clock=clock)
        assert not claim.take()
        (tmp_path / "state").rename(tmp_path / "elsewhere")
        assert not claim.take()
        clock.now += OWNER_FIRST
        assert claim.take()
        assert store.keep() is Standing.TAKEN

    def test_who_has_not_seen_an_owner_waits_for_none(self, tmp_path: Path) -> None:
        """The first agent of a node begins at once."""
        assert Claim(state_dir(tmp_path), clock=Clock()).take()

    def test_an_owner_that_ends(self, store: StateDir, tmp_path: Path) -> None:
        """A lock that is free is taken at once."""
        other = state_dir(tmp_path)
        claim = Claim(other, clock=Clock())
        assert not claim.take()
        store.release()
        assert claim.take()


@dataclass
class World:
    """An ownership over what is found next, and what came of it."""

    found: Standing | OSError = Standing.OURS
    clock: Clock = field(default_factory=Clock)
    rewritten: list[str] = field(default_factory=list)
    endings: list[Ending] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ownership = Ownership(
            Path("/state"),
            keep=self._keep,
            rewrite=self.rewritten.append,
            end=self.endings.append,
            subscribe=lambda _directory, _wake: None,
            clock=self.clock,
        )

    async def finds(self, found: Standing | OSError, *, after: float = 0.0) -> None:
        """One look that finds this."""
        self.clock.now += after
        self.found = found
        await self.ownership.look()

    def _keep(self) -> Standing:
        if isinstance(self.found, OSError):
            raise self.found
        return self.found


GONE = MountGone(errno.ENOENT, "cannot use state directory: it was deleted", "/state")
FULL = OSError(errno.EROFS, "cannot use state directory: Read-only file system", "/state")


class TestOwnership:
    """What an owner does about it."""

    async def test_everything_is_written_again_once(self) -> None:
        """For each loss, and each reason why nothing can be written."""
        world = World()
        for found in (Standing.OURS, Standing.ANEW, Standing.OURS, FULL, FULL, GONE, FULL, Standing.ANEW):
            await world.finds(found)
        assert world.rewritten == [ANEW, str(FULL), str(GONE), str(FULL), ANEW]
        assert world.endings == []

    async def test_another_owner_ends_us(self) -> None:
        """At the first look that finds one."""
        world = World()
        await world.finds(Standing.TAKEN)
        assert (world.endings, world.rewritten) == ([Ending.TAKEN], [])

    async def test_only_a_deleted_mount_ends_us(self) -> None:
        """And only when it was nothing else for as long: whatever may come back is waited for."""
        world = World()
        await world.finds(FULL)
        await world.finds(FULL, after=REMOUNT_AFTER)
        await world.finds(GONE)
        await world.finds(GONE, after=REMOUNT_AFTER - 1)
        await world.finds(Standing.ANEW)
        await world.finds(GONE, after=1)
        await world.finds(GONE, after=REMOUNT_AFTER - 1)
        assert world.endings == []
        await world.finds(GONE, after=1)
        assert world.endings == [Ending.MOUNT_GONE]


def test_a_lock_that_cannot_be_looked_at(tmp_path: Path) -> None:
    """Nothing is concluded from a path that does not say what is there."""
    (tmp_path / "d").mkdir()
    lock = FileLock(tmp_path / "d" / "lock")
    assert lock.acquire()
    (tmp_path / "d").rename(tmp_path / "e")
    assert not lock.is_at_path
    (tmp_path / "d").symlink_to(tmp_path / "d")
    with pytest.raises(OSError, match="cannot look at lock file"):
        assert lock.is_at_path
    assert lock.held
    lock.release()
