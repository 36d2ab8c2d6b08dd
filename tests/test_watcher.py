"""The watch over directories: what wakes its subscribers, and what it survives. Real files, the real library."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nodeagent.watcher import DirectoryWatch
from tests.waiting import eventually


class Subscriber:
    """Counts its wakes."""

    def __init__(self) -> None:
        self.wakes = 0

    def __call__(self) -> None:
        self.wakes += 1

    async def woken_by(self, act: object) -> None:
        """Do something, again and again, until it has woken this subscriber."""
        assert callable(act)
        before = self.wakes
        act()
        await eventually(lambda: self.wakes > before)


@asynccontextmanager
async def running(watch: DirectoryWatch) -> AsyncIterator[asyncio.Task[None]]:
    """The watch at work, stopped at the end."""
    task = asyncio.create_task(watch.run())
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def settled(*subscribers: Subscriber) -> None:
    """Wait until the wakes that belong to the beginning of a watch are over: a whole recheck without any."""
    loop = asyncio.get_running_loop()
    last, since = [one.wakes for one in subscribers], loop.time()

    def quiet() -> bool:
        nonlocal last, since
        now = [one.wakes for one in subscribers]
        if now != last:
            last, since = now, loop.time()
        return loop.time() - since > 0.25

    await eventually(quiet)


@pytest.fixture
def watch() -> DirectoryWatch:
    """A watch that looks at its directories ten times a second."""
    return DirectoryWatch(recheck=0.1)


async def test_every_kind_of_change(watch: DirectoryWatch, tmp_path: Path) -> None:
    """Making, writing, renaming, linking and removing files wakes the subscriber of their directory."""
    subscriber = Subscriber()
    watch.subscribe(tmp_path, subscriber)
    async with running(watch):
        await settled(subscriber)
        file = tmp_path / "a"
        await subscriber.woken_by(file.touch)
        await settled(subscriber)
        await subscriber.woken_by(lambda: file.write_text("x"))
        await settled(subscriber)
        await subscriber.woken_by(lambda: file.rename(tmp_path / "b"))
        await settled(subscriber)
        await subscriber.woken_by(lambda: (tmp_path / "link").symlink_to("b"))
        await settled(subscriber)
        await subscriber.woken_by((tmp_path / "b").unlink)


async def test_only_its_directory(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A subscriber is not woken by other directories, nor by what happens deeper down, nor by reading."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    (mine / "deep").mkdir(parents=True)
    (mine / "file").write_text("x")
    other.mkdir()
    subscriber, witness = Subscriber(), Subscriber()
    watch.subscribe(mine, subscriber)
    watch.subscribe(other, witness)
    async with running(watch):
        await settled(subscriber, witness)
        before = subscriber.wakes
        (mine / "deep" / "file").touch()
        assert (mine / "file").read_text() == "x"
        await witness.woken_by((other / "file").touch)
        await settled(witness)

        assert subscriber.wakes == before


async def test_two_subscribers(watch: DirectoryWatch, tmp_path: Path) -> None:
    """Several subscribers of one directory are all woken."""
    first, second = Subscriber(), Subscriber()
    watch.subscribe(tmp_path, first)
    watch.subscribe(tmp_path, second)
    async with running(watch):
        await settled(first, second)
        before = second.wakes
        await first.woken_by((tmp_path / "a").touch)

        assert second.wakes > before


async def test_wakes_come_on_the_loop(watch: DirectoryWatch, tmp_path: Path) -> None:
    """Subscribers are called by the loop, never by the thread that watches."""
    threads: set[int] = set()
    watch.subscribe(tmp_path, lambda: threads.add(threading.get_ident()))
    async with running(watch):
        await eventually(lambda: threads)

    assert threads == {threading.get_ident()}


async def test_a_directory_that_comes_later(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A directory that does not exist is noticed when it appears, and followed from then on."""
    directory, subscriber = tmp_path / "a" / "b", Subscriber()
    watch.subscribe(directory, subscriber)
    async with running(watch):
        await settled(subscriber)
        await subscriber.woken_by(lambda: directory.mkdir(parents=True))
        await settled(subscriber)
        await subscriber.woken_by((directory / "file").touch)


async def test_a_directory_deleted_and_made_again(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A directory that is deleted and made again at once, with the same inode maybe, is followed anew; repeatedly."""
    directory, subscriber = tmp_path / "a", Subscriber()
    directory.mkdir()
    watch.subscribe(directory, subscriber)

    def replace() -> None:
        shutil.rmtree(directory)
        directory.mkdir()

    async with running(watch):
        for _ in range(3):
            await settled(subscriber)
            await subscriber.woken_by(replace)
            await settled(subscriber)
            await subscriber.woken_by((directory / "file").touch)


async def test_a_directory_moved_away(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A directory that another one takes the place of is let go, and the other one followed."""
    directory, other, subscriber = tmp_path / "a", tmp_path / "b", Subscriber()
    directory.mkdir()
    other.mkdir()
    watch.subscribe(directory, subscriber)

    def swap() -> None:
        directory.rename(tmp_path / "c")
        other.rename(directory)

    async with running(watch):
        await settled(subscriber)
        await subscriber.woken_by(swap)
        await settled(subscriber)
        await subscriber.woken_by((directory / "file").touch)


async def test_a_file_counts_as_absent(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A path that is a file is not watched, until there is a directory."""
    path, subscriber = tmp_path / "a", Subscriber()
    path.touch()
    watch.subscribe(path, subscriber)

    def replace() -> None:
        path.unlink()
        path.mkdir()

    async with running(watch):
        await settled(subscriber)
        await subscriber.woken_by(replace)


async def test_subscribing_while_it_runs(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A directory may be added while the watch runs; those that were there stay watched."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    first, second = Subscriber(), Subscriber()
    watch.subscribe(old, first)
    async with running(watch):
        await settled(first)
        watch.subscribe(new, second)
        await eventually(lambda: second.wakes)
        await settled(first, second)
        await second.woken_by((new / "file").touch)
        await first.woken_by((old / "file").touch)


async def test_stopping(watch: DirectoryWatch, tmp_path: Path) -> None:
    """A watch that is cancelled leaves no thread behind, whatever it was doing."""
    watch.subscribe(tmp_path, lambda: None)
    watch.subscribe(tmp_path / "absent", lambda: None)
    for _ in range(3):
        async with running(watch):
            await eventually(lambda: any(thread.name == "directory-watch" for thread in threading.enumerate()))

        assert not any(thread.name == "directory-watch" for thread in threading.enumerate())


async def test_a_watch_that_cannot_begin(
    watch: DirectoryWatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where no watch can be had, directories are looked at regularly, which is said once; then it is watched again."""
    subscriber = Subscriber()
    watch.subscribe(tmp_path, subscriber)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptor = os.dup(0)
    os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor, hard))
    try:
        async with running(watch):
            await eventually(lambda: subscriber.wakes >= 5)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await settled(subscriber)
            await subscriber.woken_by((tmp_path / "file").touch)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert [record.levelname for record in caplog.records if record.name == "nodeagent.watcher"] == ["WARNING"]
    assert "cannot watch directories" in caplog.text
