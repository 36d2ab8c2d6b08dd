"""Following the mounted config on real files: every way in which it can change, and what it looks like meanwhile."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.config.judging import MOST_LEFT, Judge
from nodeagent.config.load import load
from nodeagent.config.reading import read_document
from nodeagent.config.source import REREAD, ConfigSource, Reading
from nodeagent.model.config import Document, Loaded, Stage, Unreadable
from nodeagent.model.node import Selection
from nodeagent.watcher import DirectoryWatch
from tests.config.support import TIME_SLICED
from tests.waiting import eventually


def text(replicas: int) -> str:
    """A config with this many replicas."""
    return TIME_SLICED.replace("replicas: 10", f"replicas: {replicas}")


class Mount:
    """A directory that changes as the kubelet changes a ConfigMap mount: by swapping `..data`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._swaps = 0

    def swap(self, **files: str) -> None:
        """Put these files (`sharing` is `sharing.yaml`) in place of those that were there."""
        self.directory.mkdir(exist_ok=True)
        self._swaps += 1
        version = f"..{self._swaps}"
        (self.directory / version).mkdir()
        for name, content in files.items():
            file = "sharing.yaml" if name == "sharing" else name
            (self.directory / version / file).write_text(content)
            if not (self.directory / file).is_symlink():
                (self.directory / file).symlink_to(f"..data/{file}")
        (self.directory / "..data_tmp").symlink_to(version)
        old = self.directory / "..data"
        previous = old.readlink() if old.is_symlink() else None
        (self.directory / "..data_tmp").rename(old)
        for link in self.directory.iterdir():  # as the kubelet does: links to keys that are gone go
            if link.is_symlink() and not link.exists():
                link.unlink()
        if previous is not None:
            shutil.rmtree(self.directory / previous)


@dataclass
class Follower:
    """A source at work, and every reading that it woke anybody for."""

    source: ConfigSource
    readings: list[Reading] = field(default_factory=list)

    @property
    def newest(self) -> Reading:
        """The newest reading, which is there."""
        assert self.source.newest is not None
        return self.source.newest

    async def until(self, check: Callable[[Reading], bool]) -> Reading:
        """Wait for a reading."""
        found: list[Reading] = []

        def come() -> bool:
            found[:] = [self.newest]
            return check(self.newest)

        await eventually(come)
        return found[0]


def says(replicas: int) -> Callable[[Reading], bool]:
    """Whether a reading is of an accepted config with this many replicas."""

    def check(reading: Reading) -> bool:
        loaded = reading.loaded
        return isinstance(loaded, Loaded) and loaded.config is not None and loaded.config.rules[0].replicas == replicas

    return check


def missing(reading: Reading) -> bool:
    """Whether a reading is of a missing file."""
    return isinstance(reading.loaded, Unreadable) and reading.loaded.missing


@asynccontextmanager
async def following(
    path: Path,
    *,
    reread: float = 60.0,
    missing_grace: float = 1.0,
    deadline: float = 5.0,
    judge: Judge | None = None,
    judged_within: float = 60.0,
) -> AsyncIterator[Follower]:
    """A source over a real watch, both stopped at the end."""
    watch = DirectoryWatch(recheck=0.2)
    follower: Follower

    def wake() -> None:
        follower.readings.append(follower.newest)

    follower = Follower(
        ConfigSource(
            path,
            subscribe=watch.subscribe,
            wake=wake,
            reread=reread,
            missing_grace=missing_grace,
            deadline=deadline,
            judge=judge,
            judged_within=judged_within,
        )
    )
    tasks = [asyncio.create_task(watch.run()), asyncio.create_task(follower.source.run())]
    try:
        await eventually(lambda: follower.source.newest)
        yield follower
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
def mount(tmp_path: Path) -> Mount:
    """A mounted ConfigMap with ten replicas."""
    found = Mount(tmp_path / "mount")
    found.swap(sharing=text(10))
    return found


@pytest.mark.parametrize("path", ["", "sharing.yaml"])
async def test_swaps(mount: Mount, path: str) -> None:
    """A file in a ConfigMap mount, named by itself or by its directory, is followed through every swap."""
    async with following(mount.directory / path) as follower:
        for replicas in (4, 10, 7):
            mount.swap(sharing=text(replicas))
            await follower.until(says(replicas))

    assert len(follower.readings) == 4


async def test_a_plain_rewrite(tmp_path: Path) -> None:
    """A file that is written in place is followed, and is never reported as empty."""
    file = tmp_path / "sharing.yaml"
    file.write_text(text(10))
    async with following(file) as follower:
        for replicas in (4, 10, 7):
            file.write_text(text(replicas))
            await follower.until(says(replicas))

    assert all(isinstance(one.loaded, Loaded) and one.loaded.config is not None for one in follower.readings)


async def test_an_editor(tmp_path: Path) -> None:
    """A file that an editor moves away and writes anew is followed, and is never reported as missing."""
    file = tmp_path / "sharing.yaml"
    file.write_text(text(10))
    async with following(file) as follower:
        file.rename(tmp_path / "sharing.yaml~")
        (tmp_path / ".sharing.yaml.swp").write_text(text(4))
        (tmp_path / ".sharing.yaml.swp").rename(file)
        await follower.until(says(4))

    assert not any(missing(one) for one in follower.readings)


async def test_a_directory_made_again(mount: Mount) -> None:
    """A mount that is deleted and made again is followed within two seconds."""
    async with following(mount.directory) as follower:
        for replicas in (4, 10):
            shutil.rmtree(mount.directory)
            mount.swap(sharing=text(replicas))
            await follower.until(says(replicas))
        mount.swap(sharing=text(7))
        await follower.until(says(7))


async def test_a_missing_file(mount: Mount) -> None:
    """A file that stays away is reported after its grace; when it comes back with the same bytes, it is read again."""
    async with following(mount.directory, missing_grace=0.3) as follower:
        (mount.directory / "sharing.yaml").unlink()
        reading = await follower.until(missing)
        assert time.monotonic() - reading.event_at >= 0.3
        assert isinstance(reading.loaded, Unreadable)
        assert reading.loaded.message == "cannot read config: there is no such file"
        (mount.directory / "sharing.yaml").symlink_to("..data/sharing.yaml")
        await follower.until(says(10))

    assert len(follower.readings) == 3


@pytest.mark.parametrize("path", ["mount", "mount/sharing.yaml"])
async def test_missing_at_the_start(tmp_path: Path, path: str) -> None:
    """A file that is not there at the start is reported at once, and read when it appears."""
    async with following(tmp_path / path, missing_grace=60.0) as follower:
        assert missing(follower.newest)
        Mount(tmp_path / "mount").swap(sharing=text(4))
        await follower.until(says(4))


async def test_an_empty_file(tmp_path: Path) -> None:
    """A file that stays empty is an error like any other, told in less than half a second."""
    file = tmp_path / "sharing.yaml"
    file.write_text(text(10))
    async with following(file) as follower:
        file.write_text("")
        reading = await follower.until(lambda one: isinstance(one.loaded, Loaded) and one.loaded.config is None)

    assert isinstance(reading.loaded, Loaded)
    assert reading.loaded.violations[0].stage is Stage.PARSE


async def test_bursts(mount: Mount) -> None:
    """Thirty changes 20 ms apart end on the last one."""
    async with following(mount.directory) as follower:
        for replicas in range(30, 0, -1):
            mount.swap(sharing=text(replicas))
            await asyncio.sleep(0.02)
        await follower.until(says(1))

    assert len(follower.readings) <= 31


async def test_identical_rewrites(mount: Mount) -> None:
    """The same bytes again, in whatever way, wake nobody and leave the reading as it is."""
    async with following(mount.directory) as follower:
        before = follower.newest
        for _ in range(3):
            mount.swap(sharing=text(10))
        follower.source.look_again()
        mount.swap(sharing=text(4))
        await follower.until(says(4))

    assert follower.readings[0] is before
    assert len(follower.readings) == 2


async def test_a_bad_document_and_back(mount: Mount) -> None:
    """A bad document is told with its violations; the good bytes again clear it."""
    async with following(mount.directory) as follower:
        mount.swap(sharing=text(0))
        reading = await follower.until(lambda one: isinstance(one.loaded, Loaded) and one.loaded.config is None)
        assert isinstance(reading.loaded, Loaded)
        assert "sharing.yaml:5:80" in str(reading.loaded.violations[0])
        mount.swap(sharing=text(10))
        await follower.until(says(10))


async def test_the_revision(mount: Mount) -> None:
    """The revision beside the document comes with it; a change of only the revision is a new reading."""

    def of(reading: Reading) -> str | None:
        return reading.loaded.document.revision if isinstance(reading.loaded, Loaded) else None

    async with following(mount.directory) as follower:
        assert of(follower.newest) is None
        mount.swap(sharing=text(10), revision="main@sha1:5c1e\n\n")
        await follower.until(lambda one: of(one) == "main@sha1:5c1e")
        mount.swap(sharing=text(10), revision="main@sha1:77aa")
        reading = await follower.until(lambda one: of(one) == "main@sha1:77aa")

    assert says(10)(reading)


async def test_looking_anyway(mount: Mount, tmp_path: Path) -> None:
    """A change that no event tells of is found at the next regular look."""
    hidden = tmp_path / "elsewhere.yaml"
    hidden.write_text(text(10))
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "sharing.yaml"
    file.symlink_to(hidden)
    async with following(file, reread=0.2) as follower:
        hidden.write_text(text(4))
        await follower.until(says(4))


async def test_a_file_that_was_away_is_looked_at_once_more(tmp_path: Path) -> None:
    """It may be gone again before its directory is watched, so that no event tells of it."""
    hidden = tmp_path / "elsewhere.yaml"
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "sharing.yaml"
    file.symlink_to(hidden)
    async with following(file, missing_grace=0.1) as follower:
        await follower.until(missing)
        hidden.write_text(text(4))
        follower.source.look_again()
        await follower.until(says(4))
        hidden.unlink()
        await follower.until(missing)


async def test_looking_when_asked(tmp_path: Path) -> None:
    """`look_again` finds a change at once, and the reading says when it was asked."""
    hidden = tmp_path / "elsewhere.yaml"
    hidden.write_text(text(10))
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "sharing.yaml"
    file.symlink_to(hidden)
    replicas = itertools.count(11)
    async with following(file) as follower:

        async def when_asked() -> bool:
            number = next(replicas)
            hidden.write_text(text(number))
            before = time.monotonic()
            follower.source.look_again()
            after = time.monotonic()
            return before <= (await follower.until(says(number))).event_at <= after

        await eventually(when_asked)  # the watch itself has asked for a look when it began, which may still be due


def a_socket(path: Path) -> None:
    """Bound, and nobody listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        here = os.open(path.parent, os.O_PATH)
        bound.bind(f"/proc/self/fd/{here}/{path.name}")
        os.close(here)


def huge(path: Path) -> None:
    """A file that is larger than any config."""
    path.touch()
    os.truncate(path, 1 << 40)


Made = tuple[Callable[[Path], None], str]

KMSG: dict[str, Made] = {"a file that blocks": (lambda path: path.symlink_to("/proc/kmsg"), "without waiting")}
"""A regular file by its looks, which only root can open."""

ODD: dict[str, Made] = {
    "a directory": (Path.mkdir, "it is a directory, not a regular file"),
    "a pipe": (os.mkfifo, "it is a pipe, not a regular file"),
    "a socket": (a_socket, "it is a socket, not a regular file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a regular file"),
    "a huge file": (huge, "it has more than 16 MiB"),
    "a loop": (lambda path: path.symlink_to(path.name), "it is a loop of links"),
    "a loop of two": (lambda path: _links(path, "other", path.name), "it is a loop of links"),
    "a long name": (lambda path: path.symlink_to("x" * 300), "File name too long"),
    "a file below a file": (lambda path: path.symlink_to("/etc/hostname/x"), "Not a directory"),
    "a file that cannot be read": (lambda path: path.symlink_to("/proc/self/mem"), "Input/output error"),
    "no file": (lambda path: path.symlink_to("nowhere"), "there is no such file"),
    **(
        {"a file that blocks": (lambda path: path.symlink_to("/proc/kmsg"), "without waiting")}
        if os.geteuid() == 0
        else {}
    ),
}


def _links(path: Path, *names: str) -> None:
    for name in names:
        path.symlink_to(name)
        path = path.with_name(name)
        path.unlink(missing_ok=True)
    path.symlink_to(names[0])


PLACES: dict[str, tuple[str, str]] = {
    "a file": ("sharing.yaml", "sharing.yaml"),
    "a file of a directory": (".", "sharing.yaml"),
    "a ConfigMap": (".", "..data/sharing.yaml"),
}
"""What `--config` names, and where it is that something else comes to stand, in a mounted ConfigMap."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("what", ODD)
async def test_what_cannot_be_read(mount: Mount, what: str, place: str) -> None:
    """Whatever else stands in the place of the file is told at once, by what it is; a file is read again at once."""
    make, message = ODD[what]
    if what == "a directory" and place == "a file":
        message = "there is no such file"  # in it: a directory may hold the config as well
    config, odd = (mount.directory / name for name in PLACES[place])
    mount.swap(sharing=text(10))
    async with following(config) as follower:
        await follower.until(says(10))
        away = odd.with_name("away")
        odd.rename(away)
        make(odd)
        if place == "a ConfigMap":
            follower.source.look_again()  # the kubelet never changes a file in there, so nobody watches it
        reading = await follower.until(lambda one: isinstance(one.loaded, Unreadable) and message in one.loaded.message)
        assert isinstance(reading.loaded, Unreadable)
        assert reading.loaded.missing is (message == "there is no such file")
        if not odd.is_symlink() and odd.is_dir():
            odd.rmdir()
        away.replace(odd)
        follower.source.look_again()
        await follower.until(says(10))


@pytest.mark.parametrize("what", ODD)
async def test_what_stands_in_the_place_of_the_whole_mount(mount: Mount, what: str) -> None:
    """Where the directory itself, or its `..data`, is something else, that is told, and left again."""
    make, _ = ODD[what]
    mount.swap(sharing=text(10))
    for place in (mount.directory, mount.directory / "..data"):
        async with following(mount.directory, missing_grace=0.1) as follower:
            await follower.until(says(10))
            away = place.with_name("away")
            place.rename(away)
            make(place)
            reading = await follower.until(lambda one: isinstance(one.loaded, Unreadable))
            assert isinstance(reading.loaded, Unreadable)
            assert reading.loaded.message.startswith("cannot read config: ")
            if not place.is_symlink() and place.is_dir():
                place.rmdir()
            else:
                place.unlink()
            away.rename(place)
            await follower.until(says(10))


@pytest.mark.parametrize("what", ODD)
async def test_what_a_label_selects_cannot_be_read(mount: Mount, what: str) -> None:
    """The file that a label selects is as good a place for anything."""
    make, message = ODD[what]
    mount.swap(**{"a.yaml": text(10)})
    watch = DirectoryWatch(recheck=0.2)
    source = ConfigSource(mount.directory, subscribe=watch.subscribe, wake=lambda: None, selects=True)
    source.select(Selection("label", "a"))
    tasks = [asyncio.create_task(watch.run()), asyncio.create_task(source.run())]
    await eventually(lambda: source.newest is not None and isinstance(source.newest.loaded, Loaded))
    (mount.directory / "a.yaml").rename(mount.directory / "away")
    make(mount.directory / "a.yaml")

    def told() -> bool:
        found = source.newest.loaded if source.newest is not None else None
        return isinstance(found, Unreadable) and (found.missing or message in found.message)

    await eventually(told)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_changes_without_an_event(tmp_path: Path) -> None:
    """Behind a link into a directory that nobody watches, a file is looked at every two seconds all the same."""
    assert REREAD <= 2.0
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    hidden = tmp_path / "there" / "config"
    hidden.write_text(text(10))
    (tmp_path / "here" / "sharing.yaml").symlink_to(hidden)
    async with following(tmp_path / "here", reread=REREAD) as follower:
        await follower.until(says(10))
        hidden.unlink()
        hidden.symlink_to(hidden)
        await follower.until(lambda one: isinstance(one.loaded, Unreadable) and "loop of links" in one.loaded.message)
        hidden.unlink()
        hidden.write_text(text(4))
        await follower.until(says(4))


async def test_a_mount_that_begins_to_hang(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """It makes no event, and is told within the time of a look and that of its answer."""
    go = threading.Event()
    really_open = os.open

    def hanging(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if Path(path).name == "sharing.yaml" and threading.current_thread().name == "config":
            go.wait()
        return really_open(path, flags, mode, dir_fd=dir_fd)

    mount.swap(sharing=text(2))
    async with following(mount.directory, reread=REREAD, deadline=0.1) as follower:
        await follower.until(says(2))
        monkeypatch.setattr(os, "open", hanging)
        await follower.until(lambda one: isinstance(one.loaded, Unreadable) and "no answer" in one.loaded.message)
        go.set()
        await follower.until(says(2))


async def test_a_mount_that_hangs(mount: Mount, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that does not answer is told, costs one thread however often something seems to change, ends with its
    watcher, and is read as soon as it answers.
    """
    go, waiting = threading.Event(), []
    really_open = os.open

    def hanging(path: str | Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if Path(path).name == "sharing.yaml" and threading.current_thread().name == "config":
            waiting.append(threading.current_thread())
            go.wait()
        return really_open(path, flags, mode, dir_fd=dir_fd)

    async with following(mount.directory, deadline=0.1) as follower:
        monkeypatch.setattr(os, "open", hanging)
        mount.swap(sharing=text(2))
        told = await follower.until(lambda one: isinstance(one.loaded, Unreadable))
        message = "cannot read config: no answer from the mount within 0.1 s"
        assert told.loaded == Unreadable(str(mount.directory), missing=False, message=message)
        for replicas in (3, 4):
            mount.swap(sharing=text(replicas))
            follower.source.look_again()
            await asyncio.sleep(0)
        assert [thread.daemon for thread in waiting] == [True]
        assert follower.newest is told
        go.set()
        await follower.until(says(4))

        go.clear()
        mount.swap(sharing=text(5))
        await eventually(lambda: any(thread.is_alive() for thread in waiting))
    go.set()


class Readers:
    """Reads like `load`, but a document with `# slow` in it computes until it is finished."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.threads: list[threading.Thread] = []
        self.computed = 0.0
        self.finish = False
        self.judge = Judge(self._load, bound=5.0, computed=lambda _: self.computed)

    def _load(self, document: Document) -> Loaded:
        self.begun.append(document.data)
        if b"# slow" in document.data:
            self.threads.append(threading.current_thread())
            while not self.finish:
                sum(range(100))
        return load(document)

    @property
    def alive(self) -> int:
        """How many slow documents are being read."""
        return sum(thread.is_alive() for thread in self.threads)


SLOW = "# slow\n" + text(5)


@pytest.fixture
def readers() -> Iterator[Readers]:
    """Readers that leave nothing behind."""
    found = Readers()
    yield found
    found.finish = True


class TestSlow:
    """A document that takes long to judge."""

    async def test_a_newer_one_does_not_wait(self, mount: Mount, readers: Readers) -> None:
        """A document that comes while others are being judged is judged at once; they are given up and never told."""
        async with following(mount.directory, judge=readers.judge) as follower:
            for number in range(3 * MOST_LEFT):
                mount.swap(sharing=SLOW + f"# {number}\n")
                await eventually(lambda: len(readers.threads) > number)  # noqa: B023 - waited for here
            mount.swap(sharing=text(4))
            await follower.until(says(4))
            await eventually(lambda: not readers.alive)
            readers.finish = True
            mount.swap(sharing=text(7))
            await follower.until(says(7))

        assert len(follower.readings) == 3

    async def test_what_is_computed_on_for_too_long_is_rejected(self, mount: Mount, readers: Readers) -> None:
        """And not judged again until its bytes change, however often it is looked at; another one ends that."""
        async with following(mount.directory, judge=readers.judge) as follower:
            mount.swap(sharing=SLOW)
            await eventually(lambda: readers.alive)
            readers.computed = 5.0
            reading = await follower.until(lambda one: isinstance(one.loaded, Loaded) and one.loaded.config is None)
            assert isinstance(reading.loaded, Loaded)
            assert "cannot be judged within 5 s" in str(reading.loaded.violations[0])
            for _ in range(3):
                follower.source.look_again()
                await asyncio.sleep(0)
            mount.swap(sharing=text(4))
            await follower.until(says(4))
            mount.swap(sharing=SLOW)
            await follower.until(lambda one: isinstance(one.loaded, Loaded) and one.loaded.config is None)

        assert readers.begun.count(SLOW.encode()) == 2

    async def test_no_verdict_is_told_and_waited_for(self, mount: Mount, readers: Readers) -> None:
        """Where a machine is busy it is told that there is no verdict yet; when there is one, and no newer document,
        it counts, and its reload has lasted since the change was noticed.
        """
        async with following(mount.directory, judge=readers.judge, judged_within=0.2) as follower:
            before = time.monotonic()
            mount.swap(sharing=SLOW)
            reading = await follower.until(lambda one: isinstance(one.loaded, Unreadable))
            noticed = time.monotonic()
            assert reading.loaded == Unreadable(
                str(mount.directory / "sharing.yaml"),
                missing=False,
                message="cannot read config: no verdict within 0.2 s; it is waited for",
            )
            assert readers.alive == 1
            readers.finish = True
            reading = await follower.until(says(5))
            assert before <= reading.event_at <= noticed

        assert readers.begun.count(SLOW.encode()) == 1

    async def test_a_document_that_never_rests(self, mount: Mount, readers: Readers) -> None:
        """One that is another whenever somebody looks, each too long to be judged before the next, is told as well."""
        mount.swap(sharing=text(4))
        async with following(mount.directory, judge=readers.judge, judged_within=0.5) as follower:
            await follower.until(says(4))
            numbers = itertools.count()

            def grows() -> bool:
                mount.swap(sharing=SLOW + f"# {next(numbers)}\n")
                return isinstance(follower.newest.loaded, Unreadable)

            await eventually(grows, every=0.1)
            assert "no verdict within 0.5 s" in str(follower.newest.loaded)
            mount.swap(sharing=text(7))
            await follower.until(says(7))

    async def test_a_document_that_goes_and_comes_back(self, mount: Mount, readers: Readers) -> None:
        """A file that is missing is told though its document is being judged; back, it has its verdict."""
        async with following(mount.directory, judge=readers.judge, missing_grace=0.1) as follower:
            mount.swap(sharing=SLOW)
            await eventually(lambda: readers.alive)
            (mount.directory / "sharing.yaml").unlink()
            await follower.until(missing)
            readers.finish = True
            (mount.directory / "sharing.yaml").symlink_to("..data/sharing.yaml")
            await follower.until(says(5))

    async def test_the_end(self, mount: Mount, readers: Readers) -> None:
        """Whoever ends does not leave a reader behind."""
        async with following(mount.directory, judge=readers.judge):
            mount.swap(sharing=SLOW)
            await eventually(lambda: readers.alive)
        await eventually(lambda: not readers.alive)


def test_nothing_is_touched_before_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mount that hangs does not keep the agent from serving its probes."""

    def touched(*_arguments: object, **_options: object) -> None:
        raise AssertionError("the file system was touched")

    monkeypatch.setattr(os, "stat", touched)
    monkeypatch.setattr(os, "open", touched)
    ConfigSource(tmp_path / "mount", subscribe=DirectoryWatch().subscribe, wake=lambda: None)


LABEL = "nodeagent.io/config"


@asynccontextmanager
async def selecting(
    path: Path, *, patience: float = 60.0, remembered: Selection | None = None
) -> AsyncIterator[Follower]:
    """A source that is told what to read."""
    watch = DirectoryWatch(recheck=0.2)
    follower: Follower

    def wake() -> None:
        follower.readings.append(follower.newest)

    source = ConfigSource(
        path,
        subscribe=watch.subscribe,
        wake=wake,
        missing_grace=0.2,
        selects=True,
        patience=patience,
        why_unknown=lambda: "connection refused",
    )
    source.recall(remembered)
    follower = Follower(source)
    tasks = [asyncio.create_task(watch.run()), asyncio.create_task(source.run())]
    try:
        yield follower
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def several(mount: Mount) -> Mount:
    """A mounted ConfigMap with three documents, of which `sharing.yaml` has ten replicas."""
    mount.swap(sharing=text(10), **{"a.yaml": text(3), "b.yaml": text(4)})
    return mount


class TestSelecting:
    """A directory with a document per label value."""

    async def test_the_selection_is_read(self, several: Mount) -> None:
        """Another selection is read at once, and so is a change of the file that is selected; others do not count."""
        async with selecting(several.directory) as follower:
            follower.source.select(Selection(LABEL, "a"))
            await eventually(lambda: follower.source.newest)
            assert says(3)(follower.newest)
            follower.source.select(Selection(LABEL, "b"))
            await follower.until(says(4))
            several.swap(sharing=text(11), **{"a.yaml": text(5), "b.yaml": text(6)})
            await follower.until(says(6))
            follower.source.select(Selection())
            await follower.until(says(11))

        assert [one.loaded.document.path for one in follower.readings if isinstance(one.loaded, Loaded)] == [
            str(several.directory / name) for name in ("a.yaml", "b.yaml", "b.yaml", "sharing.yaml")
        ]

    async def test_it_is_of_the_moment_in_which_the_label_was_seen(self, several: Mount) -> None:
        """The reading of another selection dates from when that was made."""
        replicas = itertools.cycle([(3, Selection(LABEL, "a")), (4, Selection(LABEL, "b"))])
        async with selecting(several.directory) as follower:
            follower.source.select(Selection())
            await eventually(lambda: follower.source.newest)

            async def when_selected() -> bool:
                number, selection = next(replicas)
                before = time.monotonic()
                follower.source.select(selection)
                after = time.monotonic()
                return before <= (await follower.until(says(number))).event_at <= after

            await eventually(when_selected)  # the watch itself has asked for a look when it began

    async def test_what_is_not_there_is_told_after_the_grace(self, several: Mount) -> None:
        """A selection without a file is missing, with the names of those that are there; a commit that brings the file
        ends that, and so does the way back.
        """
        async with selecting(several.directory) as follower:
            follower.source.select(Selection(LABEL, "a"))
            await eventually(lambda: follower.source.newest)
            follower.source.select(Selection(LABEL, "x"))
            reading = await follower.until(missing)
            assert time.monotonic() - reading.event_at >= 0.2
            assert reading.loaded == Unreadable(
                str(several.directory / "x.yaml"),
                missing=True,
                message="cannot read config: label nodeagent.io/config of the node is 'x', and there is no x.yaml; "
                "there are a.yaml, b.yaml, sharing.yaml",
            )
            follower.source.select(Selection(LABEL, "a"))
            await follower.until(says(3))
            follower.source.select(Selection(LABEL, "x"))
            await follower.until(missing)
            several.swap(**{"x.yaml": text(7)})
            await follower.until(says(7))

    async def test_a_selection_and_its_file_may_come_in_any_order(self, several: Mount) -> None:
        """A file that comes within the grace was never missing."""
        async with selecting(several.directory) as follower:
            follower.source.select(Selection())
            await eventually(lambda: follower.source.newest)
            follower.source.select(Selection(LABEL, "x"))
            several.swap(**{"x.yaml": text(7)})
            await follower.until(says(7))

        assert not any(missing(one) for one in follower.readings)

    @pytest.mark.parametrize("value", ["../mount/a", "..", ".a"])
    async def test_no_label_leads_out_of_the_directory(self, several: Mount, value: str) -> None:
        """What is not the name of a visible file is refused without being looked for."""
        (several.directory / ".a.yaml").write_text(text(3))
        async with selecting(several.directory) as follower:
            follower.source.select(Selection(LABEL, value))
            reading = await follower.until(missing)
        assert isinstance(reading.loaded, Unreadable)
        assert f"is {value!r}, which is not the name of a file; there are a.yaml, b.yaml" in reading.loaded.message

    async def test_the_start_waits_for_the_labels(self, several: Mount) -> None:
        """Nothing is read, nor told, before it is known what; what is remembered does not come first."""
        async with selecting(several.directory, remembered=Selection(LABEL, "b")) as follower:
            several.swap(sharing=text(11), **{"a.yaml": text(5), "b.yaml": text(6)})
            for _ in range(10):
                follower.source.look_again()
                await asyncio.sleep(0)
            assert follower.source.newest is None
            follower.source.select(Selection(LABEL, "a"))
            await eventually(lambda: follower.source.newest)
            assert says(5)(follower.newest)

        assert len(follower.readings) == 1

    async def test_what_is_remembered_serves_when_the_labels_do_not_come(self, several: Mount) -> None:
        """After its patience the start goes on as the agent before it, until the labels say otherwise."""
        async with selecting(several.directory, patience=0.1, remembered=Selection(LABEL, "b")) as follower:
            await eventually(lambda: follower.source.newest)
            assert says(4)(follower.newest)
            follower.source.select(Selection(LABEL, "a"))
            await follower.until(says(3))

        assert len(follower.readings) == 2

    async def test_with_nothing_remembered_it_is_said_what_is_not_known(self, several: Mount) -> None:
        """Without a word of the labels nothing is read, and the reason is told until there is one."""
        async with selecting(several.directory, patience=0.1) as follower:
            await eventually(lambda: follower.source.newest)
            assert follower.newest.loaded == Unreadable(
                str(several.directory),
                missing=False,
                message="cannot read config: the labels of the node are not known yet: connection refused",
            )
            follower.source.look_again()
            follower.source.select(Selection(LABEL, "a"))
            await follower.until(says(3))

        assert len(follower.readings) == 2

    async def test_a_file_needs_no_labels(self, several: Mount) -> None:
        """A path that is a file, or not there at all, is read and told at once, whatever is selected."""
        async with selecting(several.directory / "a.yaml") as follower:
            await eventually(lambda: follower.source.newest)
            assert says(3)(follower.newest)
        async with selecting(several.directory / "none.yaml") as follower:
            await eventually(lambda: follower.source.newest)
            assert missing(follower.newest)

    async def test_what_nvidias_config_manager_would_find(self, mount: Mount) -> None:
        """Keys without an ending are read by label, and for nodes without one that is called `default`, or is the only
        one; ours come before them.
        """
        mount.swap(**{"tesla-t4": text(2), "a100": text(3)})
        async with selecting(mount.directory) as follower:
            follower.source.select(Selection(LABEL, "tesla-t4"))
            await follower.until(says(2))
            follower.source.select(Selection())
            reading = await follower.until(missing)
            assert isinstance(reading.loaded, Unreadable)
            assert "there are a100, tesla-t4; --config-default says which" in reading.loaded.message
            mount.swap(**{"tesla-t4": text(2), "default": text(4)})
            await follower.until(says(4))
            mount.swap(**{"tesla-t4": text(2), "default": text(4), "default.yaml": text(5)})
            await follower.until(says(5))
            mount.swap(**{"sharing.yaml": text(6), "default.yaml": text(5)})
            await follower.until(says(6))
        mount.swap(**{"tesla-t4": text(2), "revision": "abc"})
        async with selecting(mount.directory) as follower:
            follower.source.select(Selection())
            await follower.until(says(2))
            assert follower.source.concerns(Document(str(mount.directory / "tesla-t4"), b""))
            assert not follower.source.concerns(Document(str(mount.directory / "a100"), b""))


@pytest.mark.parametrize(("default", "name"), [("t4", "t4"), ("t4", "t4.yaml"), ("t4.yaml", "t4.yaml")])
async def test_the_file_for_nodes_of_which_nothing_is_said(mount: Mount, default: str, name: str) -> None:
    """`--config-default` names it, with or without its ending; without labels too, and nothing else is read then."""
    mount.swap(**{name: text(2), "sharing.yaml": text(3), "default": text(4)})
    assert isinstance(found := read_document(mount.directory, default), Document)
    assert found.data == text(2).encode()
    mount.swap(**{"sharing.yaml": text(3)})
    gone = read_document(mount.directory, default)
    assert isinstance(gone, Unreadable)
    assert "no label of the node selects a config, and there is no t4.yaml; there" in gone.message


OTHERS = [
    ("sharing.yaml", "whole.yaml"),
    ("sharing.yaml", "sharing.yml"),
    ("sharing.yaml", "default.yaml"),
    ("default", "t4.yaml"),
    ("t4.yaml", "a100.yaml"),
]


@pytest.mark.parametrize(("before", "other"), OTHERS)
@pytest.mark.parametrize("again", [False, True], ids=["at once", "after a restart"])
async def test_a_file_that_is_gone_is_not_replaced_by_another(
    tmp_path: Path, before: str, other: str, again: bool
) -> None:
    """What nobody named is read where nothing was valid before. Afterwards the file that was is missing, since the
    other one may be meant for nodes with a label; `sharing.yaml` is meant for all.
    """
    (tmp_path / before).write_text(text(2))
    async with following(tmp_path, missing_grace=0.1) as follower:
        await follower.until(says(2))
        if not again:
            (tmp_path / before).rename(tmp_path / ".away")
            (tmp_path / other).write_text(text(3))
            await follower.until(missing)
            assert f"there is no {before} any more" in str(follower.newest.loaded)
            (tmp_path / "sharing.yaml").write_text(text(4))
            await follower.until(says(4))
    if again:
        (tmp_path / before).rename(tmp_path / other)
        watch = DirectoryWatch()
        source = ConfigSource(tmp_path, subscribe=watch.subscribe, wake=lambda: None, missing_grace=0.1)
        source.remember(str(tmp_path / before))
        task = asyncio.create_task(source.run())
        try:
            await eventually(lambda: source.newest is not None)
            found = source.newest
            assert found is not None
            assert missing(found)
            assert f"{other} is not read in its place" in str(found.loaded)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_file_that_was_never_valid_is_replaced_by_another(tmp_path: Path) -> None:
    """The only one there is, a wrong one, says nothing of what is meant."""
    (tmp_path / "t4.yml").write_text("kind: [")
    async with following(tmp_path, missing_grace=0.1) as follower:
        (tmp_path / "default.yaml").write_text(text(3))
        await follower.until(says(3))
