"""What pods can write to is bounded, for each daemon by itself: real mounts, and NVIDIA's own daemons."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from nodeagent.durable import atomic
from nodeagent.model.mps import DaemonState
from nodeagent.mps import mounts, rooms
from nodeagent.mps.mounts import Mounted, mounted
from nodeagent.mps.rooms import Rooms
from tests.mps.hosting import OTHER, UUID, Node, contract, needs_mounts
from tests.mps.support import unmount_below
from tests.waiting import eventually

ONE = {UUID: contract()}
BOTH = {**ONE, OTHER: contract()}
SHM = 8 * 1024 * 1024

NOBODY = 65534

SEEN = """
import pathlib, subprocess, sys
from nodeagent.mps.rooms import Rooms
root = pathlib.Path(sys.argv[1])
subprocess.run(["mount", "--bind", root, root], check=True)
subprocess.run(["mount", "--make-shared", root], check=True)
look = "import pathlib, sys; sys.stdin.readline(); print(pathlib.Path(sys.argv[1]).is_mount())"
agent = subprocess.Popen(
    ["unshare", "--mount", "--propagation", sys.argv[2], sys.executable, "-c", look, root / "room"],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
)
while pathlib.Path(f"/proc/{agent.pid}/ns/mnt").samefile("/proc/self/ns/mnt"):
    pass
Rooms(bounded=True).prepare(root / "room", root / "room" / "pipe")
print(agent.communicate("\\n")[0], end="")
"""


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet, on a node where a host may mount."""
    needs_mounts()
    async with Node(mps_control) as node:
        yield node


def fill(pipe: Path, *, user: int) -> int:
    """Write to NVIDIA's lock file until there is no room, as a pod of this user does; how large it has become."""
    done = subprocess.run(
        ["dd", "if=/dev/zero", "of=control_lock", "bs=1M", "count=1024", "oflag=append", "conv=notrunc"],
        cwd=pipe,
        user=user,
        group=user,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "No space left on device" in done.stderr, done.stderr
    return (pipe / "control_lock").stat().st_size


async def test_a_pod_that_is_not_roots_fills_nothing_but_its_own_room(node: Node) -> None:
    """NVIDIA's lock file in the pipe directory is open to all. Who fills it hurts neither host nor agent nor the daemon
    of another GPU; the daemon of its own goes on, too.
    """
    node.want(ONE)
    await node.host(shm_size=SHM)
    before = await node.ready(ONE)
    free = os.statvfs(node.layout.root).f_bavail
    assert fill(node.layout.pipe(UUID), user=NOBODY) <= rooms.SIZE
    assert os.statvfs(node.layout.root).f_bavail > free // 2
    node.want(BOTH)
    after = await node.ready(BOTH)
    assert after[UUID] == before[UUID]
    assert (await node.control(UUID).limits()).fits(9216, 25)


async def test_a_pod_that_is_roots_makes_so_many_files_and_no_more(node: Node) -> None:
    """Empty files take memory as well; when the daemon goes, what it had goes with it."""
    node.want(ONE)
    await node.host(shm_size=SHM)
    await node.ready(ONE)
    pipe = node.layout.pipe(UUID)
    with pytest.raises(OSError, match="No space left"):
        touch(pipe, 2 * rooms.FILES)
    node.want({})
    await node.gone()
    assert mounted(node.layout.directory(UUID)) is None
    assert not node.layout.record(UUID).exists()


async def test_a_room_whose_space_is_held_is_replaced(node: Node) -> None:
    """Whoever has filled the one before holds nobody up, though they have files in it open; mounts do not pile up."""
    node.want(ONE)
    await node.host(shm_size=SHM)
    (first,) = (await node.ready(ONE)).values()
    pipe = node.layout.pipe(UUID)
    with (pipe / "control_lock").open("ab") as held:
        fill(pipe, user=0)
        first.signal(signal.SIGKILL)
        await eventually(lambda: node.daemon().pid not in {None, first.pid})
        await node.ready(ONE)
        assert os.fstat(held.fileno()).st_dev != pipe.stat().st_dev
    assert mounts_at(node.layout.directory(UUID)) == 1


async def test_the_last_words_of_a_daemon_are_told(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Its log goes with its room, and it is started anew at once: what it said before it ended is told first."""
    caplog.set_level("INFO", "nodeagent.mps.logs")
    node.want(ONE)
    await node.host(shm_size=SHM)
    (first,) = (await node.ready(ONE)).values()
    with (node.layout.log(UUID) / "control.log").open("a", encoding="utf-8") as log:
        log.write("[2026-11-30 12:00:00.000 Control     1] these are its last words\n")
    first.signal(signal.SIGKILL)
    await eventually(lambda: node.daemon().pid not in {None, first.pid})
    await node.ready(ONE)
    assert "control 1: these are its last words" in caplog.text


async def test_a_host_that_takes_over_leaves_the_room_as_it_is(node: Node) -> None:
    """With what is in it: nothing is mounted over a daemon."""
    node.want(ONE)
    host = await node.host(shm_size=SHM)
    before = await node.ready(ONE)
    device = node.layout.directory(UUID).stat().st_dev
    await host.stop()
    await node.host(shm_size=SHM)
    assert await node.ready(ONE) == before
    assert node.layout.directory(UUID).stat().st_dev == device
    assert mounts_at(node.layout.directory(UUID)) == 1


async def test_a_daemon_without_a_room_keeps_its_directory_until_it_is_started_anew(node: Node) -> None:
    """One that a host without rooms has started: pods have its directory, which stays what it is. Started anew for
    another shared memory it gets a room, since containers that run cannot be its clients.
    """
    node.want(ONE)
    host = await node.host()
    (before,) = (await node.ready(ONE)).values()
    assert mounted(node.layout.directory(UUID)) is None
    await host.stop()
    node.simulate({UUID: [{"pid": 77, "name": "trainer", "mps": True}]})
    await node.host(shm_size=SHM)
    await node.told(DaemonState.OCCUPIED)
    assert before.alive()
    assert mounted(node.layout.directory(UUID)) is None
    node.simulate()
    await node.ready(ONE)
    assert mounted(node.layout.directory(UUID)) == Mounted("tmpfs", ours=True)


async def test_a_room_that_outlives_its_record_is_closed(node: Node) -> None:
    """A host was killed when the record had gone and the room had not, or the room had come and the record had not."""
    room = node.layout.directory(UUID)
    room.parent.mkdir(exist_ok=True)
    Rooms(bounded=True).prepare(room, room / "pipe")
    node.want({})
    await node.host(shm_size=SHM)
    await eventually(lambda: mounted(room) is None)
    await node.gone()


async def test_a_host_that_does_not_mount_closes_the_rooms_of_one_that_did(node: Node) -> None:
    """When their daemons go, or are started anew for another shared memory."""
    node.want(BOTH)
    host = await node.host(shm_size=SHM)
    before = await node.ready(BOTH)
    await host.stop()
    node.want(ONE)
    await node.host()
    await eventually(lambda: (now := node.running()).keys() == {UUID} and now[UUID] != before[UUID])
    await node.ready(ONE)
    assert mounted(node.layout.directory(UUID)) is None
    assert mounted(node.layout.directory(OTHER)) is None


async def test_what_somebody_else_has_mounted_there_is_not_covered(node: Node) -> None:
    """The GPU waits and says so; the others have their daemons."""
    node.layout.directory(UUID).mkdir(parents=True)
    subprocess.run(["mount", "--bind", "/proc", node.layout.directory(UUID)], check=True)
    node.want(BOTH)
    await node.host(shm_size=SHM)
    await node.told(DaemonState.FAILED, message="there is a mount of type proc")
    await node.told(DaemonState.READY, OTHER)


async def test_a_host_that_does_not_mount_says_so(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Daemons run all the same, in directories."""
    caplog.set_level("INFO", "nodeagent.mps.host")
    node.want(ONE)
    await node.host()
    await node.ready(ONE)
    assert mounted(node.layout.directory(UUID)) is None
    assert f"what pods can write to is in the file system of {node.layout.root}" in caplog.text


def made(room: Path) -> tuple[Path, tuple[int, int]]:
    """Have a room with a pipe directory in it; that, and which it is."""
    pipe = room / "pipe"
    Rooms(bounded=True).prepare(room, pipe)
    pipe.mkdir()
    return pipe, identity(pipe)


def identity(path: Path) -> tuple[int, int]:
    """Which file or directory this is."""
    found = path.lstat()
    return found.st_dev, found.st_ino


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """Where a room can be mounted; nothing is, afterwards."""
    needs_mounts()
    yield tmp_path / "room"
    unmount_below(tmp_path)


@pytest.mark.parametrize("bounded", [True, False])
def test_a_room_stays_with_the_directory_that_pods_have(room: Path, bounded: bool) -> None:
    """Emptied, and also for a host that makes none itself; another one comes where that is asked for."""
    pipe, before = made(room)
    (pipe / "left").write_bytes(bytes(rooms.SIZE // 2 + 1))
    Rooms(bounded=bounded).prepare(room, pipe)
    assert identity(pipe) == before
    assert list(pipe.iterdir()) == []
    Rooms(bounded=bounded).prepare(room, pipe, anew=True)
    assert not pipe.exists()
    assert (mounted(room) is not None) is bounded


@pytest.mark.parametrize("options", ["size=1M", "nr_inodes=20", "size=1G,nr_inodes=1000000", "exec,dev,suid", "ro"])
def test_a_room_that_somebody_has_changed_is_set_right(room: Path, options: str) -> None:
    """In place, so that pods keep what they have. One that nothing can be removed from is replaced."""
    pipe, before = made(room)
    subprocess.run(["mount", "-o", f"remount,{options}", room], check=True)
    Rooms(bounded=True).prepare(room, pipe)
    there = os.statvfs(room)
    flags = os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC
    found = there.f_blocks * there.f_frsize, there.f_files, there.f_flag & (flags | os.ST_RDONLY)
    assert found == (rooms.SIZE, rooms.FILES, flags)
    assert (pipe.exists() and identity(pipe) == before) is (options != "ro")


@pytest.mark.parametrize("left", ["space", "files", "mount", "file", "link", "nothing"])
def test_a_room_that_does_not_do_is_replaced(room: Path, left: str) -> None:
    """Its space is held by somebody, it cannot be emptied, or what should be the directory is none."""
    pipe, _ = made(room)
    (room / "of before").touch()
    held = []
    if left == "space":
        (pipe / "held").write_bytes(bytes(rooms.SIZE // 2 + 1))
        held = [(pipe / "held").open("rb")]
    elif left == "files":
        touch(pipe, rooms.FILES // 2 + 1)
        held = [path.open("rb") for path in pipe.iterdir()]
    elif left == "mount":
        (pipe / "below").mkdir()
        foreign = room.with_name("foreign")
        foreign.mkdir()
        (foreign / "file").touch()
        subprocess.run(["mount", "--bind", foreign, pipe / "below"], check=True)
        held = [(foreign / "file").open("rb")]
    else:
        pipe.rmdir()
    if left == "file":
        pipe.touch()
    elif left == "link":
        pipe.symlink_to("/")
    Rooms(bounded=True).prepare(room, pipe)
    assert list(room.iterdir()) == []
    assert mounts_at(room) == 1
    for file in held:
        assert os.fstat(file.fileno()).st_nlink == (1 if left == "mount" else 0)
        file.close()


def test_a_directory_that_pods_may_have_stays_without_a_bound(room: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One of a host that makes no rooms; that is said, once, and true until the next one is a room."""
    pipe = room / "pipe"
    pipe.mkdir(parents=True)
    (pipe / "left").touch()
    before = identity(pipe)
    made = Rooms(bounded=True)
    for _ in range(2):
        made.prepare(room, pipe)
        assert identity(pipe) == before
        assert list(pipe.iterdir()) == []
        assert not made.bounded
    assert caplog.text.count(f"{room} has no bound") == 1
    pipe.rmdir()
    made.end(room)
    made.prepare(room, pipe)
    assert made.bounded
    assert mounted(room) == Mounted("tmpfs", ours=True)


@pytest.mark.parametrize(("propagation", "seen"), [("slave", "True"), ("private", "False")])
def test_who_looked_at_the_root_before_sees_a_room_that_comes(tmp_path: Path, propagation: str, seen: str) -> None:
    """The agent's pod has the MPS root with `mountPropagation: HostToContainer`, which is that of a slave; without it
    an agent would look below the room.
    """
    needs_mounts()
    done = subprocess.run(
        ["unshare", "--mount", sys.executable, "-c", SEEN, tmp_path, propagation],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == seen


def test_without_a_bound_nothing_is_touched(tmp_path: Path) -> None:
    """Directories are made by whoever makes the pipe."""
    kept = tmp_path / "kept"
    atomic.write(kept, b"kept", sync=False)
    Rooms(bounded=False).prepare(tmp_path, tmp_path / "pipe")
    Rooms(bounded=False).end(tmp_path)
    assert kept.read_bytes() == b"kept"


def test_a_room_that_cannot_be_mounted_is_a_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As when the kernel allows no more mounts: the daemon is worth more than its bound, and that is said."""

    def refuse(path: Path, _options: str) -> None:
        raise OSError(errno.ENOSPC, "cannot mount a tmpfs: No space left on device", str(path))

    monkeypatch.setattr(mounts, "mount_tmpfs", refuse)
    made = Rooms(bounded=True)
    try:
        made.prepare(tmp_path / "room", tmp_path / "room" / "pipe")
        assert not made.bounded
        assert (tmp_path / "room").is_dir()
        assert "pods can fill the file system of the MPS root: cannot mount a tmpfs" in caplog.text
    finally:
        unmount_below(tmp_path)


def touch(directory: Path, count: int) -> None:
    """Make so many empty files."""
    for number in range(count):
        (directory / str(number)).touch()


def mounts_at(path: Path) -> int:
    """How many mounts lie on top of each other at a path."""
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    return sum(line.split(" ")[4] == str(path) for line in lines)
