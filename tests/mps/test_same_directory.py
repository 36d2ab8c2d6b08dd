"""A container that runs keeps what it has mounted, and reaches whichever daemon its GPU has there: real mounts, and
NVIDIA's own daemons.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from nodeagent.durable import atomic
from nodeagent.mps import shm
from nodeagent.mps.control import Control
from nodeagent.mps.files import Record, encode_record
from nodeagent.mps.mounts import Mounted, mounted
from nodeagent.mps.process import Process
from tests.mps.hosting import IMPATIENT, UUID, Host, HostProcess, Node, contract, needs_mounts
from tests.mps.support import Daemons
from tests.waiting import eventually, eventually_sync, longer

ONE = {UUID: contract(9216, 25)}
CHANGED = {UUID: contract(4096, 50)}
MIB = 1024 * 1024
SIZES = pytest.mark.parametrize("size", [0, 8 * MIB], ids=["directories", "rooms"])
MADE = {"control", "control_lock", "control_privileged", "log"}

PEER = """
import socket, struct, sys
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
    daemon.connect(sys.argv[1] + "/control")
    print(struct.unpack("3i", daemon.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
"""

# A moment after the directory of a descriptor has been emptied there is something at the names that a daemon uses.
ATTACK = """
import contextlib, os, sys, time
names, there = ("control_lock", "log", "control", "control_privileged"), int(sys.argv[2])
print("begun", flush=True)
while True:
    if os.listdir(there):
        continue
    until = time.monotonic() + 0.002
    while time.monotonic() < until:
        pass
    for name in names:
        with contextlib.suppress(OSError):
            os.symlink(f"{sys.argv[1]}/{name}", name, dir_fd=there)
"""


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet, on a node where mounts can be made."""
    needs_mounts()
    async with Node(mps_control) as node:
        yield node


@dataclass(frozen=True)
class Container:
    """A container: mounts of its own, made of what is at the paths of the host at that time."""

    pid: int
    pipe: Path
    program: Path

    def run(self, *command: str, text: str = "") -> str:
        """What a process in it says."""
        done = subprocess.run(
            [
                "nsenter",
                "--target",
                str(self.pid),
                "--mount",
                "--",
                "env",
                f"CUDA_MPS_PIPE_DIRECTORY={self.pipe}",
                *command,
            ],
            input=text,
            capture_output=True,
            text=True,
            check=True,
            timeout=longer(10),
        )
        return done.stdout.strip()

    def peer(self) -> int:
        """Whom a new client in it talks to."""
        return int(self.run(sys.executable, "-c", PEER, str(self.pipe)))

    def threads(self) -> str:
        """What the daemon answers there."""
        return self.run(str(self.program), text="get_default_active_thread_percentage\n")

    def sees(self) -> set[str]:
        """What is in its pipe directory."""
        return set(self.run("ls", "-A", str(self.pipe)).split())

    def identity(self) -> list[str]:
        """Which directories it has for pipe and shared memory."""
        return self.run("stat", "--format=%d:%i", str(self.pipe), "/dev/shm").split()


def identity(*paths: Path) -> list[str]:
    """Which directories these are."""
    return [f"{found.st_dev}:{found.st_ino}" for found in (path.stat() for path in paths)]


def given(size: int) -> str:
    """A size as a flag has it."""
    return f"{size // MIB}Mi" if size else "0"


@contextmanager
def container(node: Node) -> Iterator[Container]:
    """One that is made now, and runs."""
    pipe = node.directory / "container"
    pipe.mkdir(exist_ok=True)
    memory = node.layout.shared_memory if node.layout.shared_memory.exists() else Path("/dev/shm")
    script = 'mount --bind "$1" "$2" && mount --bind "$3" /dev/shm && echo made && exec sleep 1000'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    with subprocess.Popen(
        [*command, str(node.layout.pipe(UUID)), str(pipe), str(memory)], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"made\n"
            yield Container(process.pid, pipe, node.program)
        finally:
            process.kill()


def kill_daemon(node: Node) -> None:
    """SIGKILL, and wait for its end."""
    daemon = node.running()[UUID]
    daemon.signal(signal.SIGKILL)
    eventually_sync(lambda: not daemon.alive())


async def next_daemon(node: Node, before: Process) -> Process:
    """Wait for the one that comes after another one."""
    await eventually(lambda: node.daemon().pid not in {None, before.pid})
    return (await node.ready(ONE))[UUID]


async def daemon_killed(node: Node, _host: Host | HostProcess, _size: int) -> None:
    """The daemon is killed under a host that runs."""
    kill_daemon(node)


async def daemon_stopped(node: Node, _host: Host | HostProcess, _size: int) -> None:
    """It hangs."""
    node.running()[UUID].signal(signal.SIGSTOP)


async def wanted_otherwise(node: Node, _host: Host | HostProcess, _size: int) -> None:
    """Another contract is asked for, in one step."""
    node.want(CHANGED)


async def host_restarted(node: Node, host: Host | HostProcess, size: int) -> None:
    """The host ends in order, then the daemon; a new host comes."""
    await host.stop()
    kill_daemon(node)
    await node.host(IMPATIENT, shm_size=size)


ENDS = [daemon_killed, daemon_stopped, wanted_otherwise, host_restarted]


@SIZES
@pytest.mark.parametrize("end", ENDS)
async def test_a_container_reaches_the_next_daemon(
    node: Node, end: Callable[[Node, Host | HostProcess, int], Awaitable[None]], size: int
) -> None:
    """However the daemon before ended, in the mounts that the container has had all the time."""
    node.want(ONE)
    host = await node.host(IMPATIENT, shm_size=size)
    before = await node.ready(ONE)
    with container(node) as made:
        has = made.identity()
        assert made.peer() == before[UUID].pid
        await end(node, host, size)
        wanted = CHANGED if end is wanted_otherwise else ONE
        await eventually(lambda: node.daemon().pid not in {None, before[UUID].pid})
        after = await node.ready(wanted)
        assert after != before
        assert made.peer() == after[UUID].pid
        assert made.threads() == ("50.0" if end is wanted_otherwise else "25.0")
        assert made.sees() == MADE
        memory = node.layout.shared_memory if size else Path("/dev/shm")
        assert made.identity() == has == identity(node.layout.pipe(UUID), memory)
    assert {path.name for path in node.layout.directory(UUID).iterdir()} == {"daemon.json", "log", "pipe"}


@SIZES
@pytest.mark.parametrize("dies", [True, False], ids=["with its daemon", "alone"])
async def test_a_container_outlives_a_host_that_is_killed(node: Node, size: int, dies: bool) -> None:
    """SIGKILL of the host: the next one keeps the directory, whether it finds the daemon or starts one."""
    node.want(ONE)
    host = await node.process(shm_size=given(size))
    before = await node.ready(ONE)
    descriptor = os.open(node.layout.pipe(UUID), os.O_RDONLY | os.O_DIRECTORY)
    try:
        await host.kill()
        if dies:
            kill_daemon(node)
        await node.process(shm_size=given(size))
        after = await node.ready(ONE)
        assert (after != before) is dies
        reached = Control(Path(f"/proc/{os.getpid()}/fd/{descriptor}"), program=str(node.program))
        assert reached.peer() == after[UUID].pid
        assert (await reached.limits()).fits(9216, 25)
    finally:
        os.close(descriptor)


async def test_the_end_of_the_hosts_container_is_survived(node: Node) -> None:
    """Its mounts were made in a mount namespace that ends, with all its processes; they have gone to the node by then,
    and the next host finds them there.
    """
    root = node.layout.root
    root.mkdir()
    subprocess.run(["mount", "--bind", root, root], check=True)
    try:
        subprocess.run(["mount", "--make-shared", root], check=True)
        apart = ("unshare", "--mount", "--propagation", "unchanged")
        node.want(ONE)
        host = await node.process(shm_size="8Mi", by=apart)
        before = await node.ready(ONE)
        with container(node) as made:
            has = made.identity()
            for number in range(2):
                await host.kill()
                kill_daemon(node)
                host = await node.process(shm_size="8Mi", by=apart)
                after = await node.ready(ONE)
                assert after != before
                assert made.peer() == after[UUID].pid, f"restart {number}"
                assert made.identity() == has
                before = after
        await host.stop()
    finally:
        subprocess.run(["umount", "--lazy", root], check=True)


@SIZES
async def test_a_start_that_was_cut_short_loses_no_directory(node: Node, size: int) -> None:
    """A host that is killed while a daemon starts: the program holds it up until then."""
    slow = node.directory / "bin" / "nvidia-cuda-mps-control"
    slow.parent.mkdir()
    slow.symlink_to(node.program)
    node.program, program = slow, node.program
    node.want(ONE)
    host = await node.process(shm_size=given(size))
    await node.ready(ONE)
    with container(node) as made:
        slow.unlink()
        runs = node.directory / "runs"
        lines = (
            "#!/bin/sh",
            f'[ "$1" = -d ] || exec {program} "$@"',
            f"{program} -d && echo $$ > {runs}.new && mv {runs}.new {runs} && exec sleep 1000",
        )
        slow.write_text("\n".join(lines))
        slow.chmod(0o755)
        kill_daemon(node)
        starting = int(await eventually(lambda: runs.exists() and runs.read_text()))
        begun = node.running()
        await host.kill()
        os.kill(starting, signal.SIGKILL)
        slow.unlink()
        slow.symlink_to(program)
        await node.process(shm_size=given(size))
        after = await node.ready(ONE)
        # One that goes on having the directory of its start in the place of that of its clients is no use to them.
        assert (after == begun) is (size == 0)
        assert made.peer() == after[UUID].pid
        assert made.identity()[:1] == identity(node.layout.pipe(UUID))


@SIZES
async def test_the_directory_of_the_first_version_is_kept(node: Node, size: int) -> None:
    """What version 0.1.0 has left, whose daemon has ended with its container: a directory in which there are dead
    sockets. It has no bound, and none comes to it while containers may have it; when MPS comes anew it is a room.
    """
    layout = node.layout
    layout.root.mkdir()
    if size:
        shm.mount(layout.shared_memory, size)
    Daemons(layout.root, node.program).start(UUID)
    record = Record(ONE[UUID], verified=True, restarts=2)
    atomic.write(layout.record(UUID), encode_record(record), sync=False)
    for left in ("pipe.new", "pipe.old"):
        (layout.directory(UUID) / left).mkdir()
    node.want(ONE)
    with container(node) as made:
        has = made.identity()
        kill_daemon(node)
        await node.host(IMPATIENT, shm_size=size)
        after = (await node.ready(ONE))[UUID]
        assert made.peer() == after.pid
        kill_daemon(node)
        following = await next_daemon(node, after)
        assert made.peer() == following.pid
        assert made.identity() == has
        assert node.daemon().restarts == 4
        assert mounted(layout.directory(UUID)) is None
    node.want({})
    await node.gone()
    node.want(ONE)
    await node.ready(ONE)
    assert mounted(layout.directory(UUID)) == (Mounted("tmpfs", ours=True) if size else None)


@SIZES
async def test_nothing_that_is_planted_during_a_start_is_followed(node: Node, size: int) -> None:
    """A container that puts links at the names that a daemon uses, as soon as its directory has been emptied for the
    next one, leads none of its files elsewhere and holds up nothing.
    """
    target = node.directory / "target"
    target.mkdir()
    (target / "file").write_text("precious")
    node.want(ONE)
    await node.host(IMPATIENT, shm_size=size)
    await node.ready(ONE)
    descriptor = os.open(node.layout.pipe(UUID), os.O_RDONLY | os.O_DIRECTORY)
    command = [sys.executable, "-c", ATTACK, str(target), str(descriptor)]
    with subprocess.Popen(command, pass_fds=[descriptor], stdout=subprocess.PIPE) as attack:
        try:
            assert attack.stdout is not None
            assert attack.stdout.readline()
            for _ in range(3):
                before = node.running()[UUID]
                kill_daemon(node)
                await next_daemon(node, before)
                assert {path.name for path in node.layout.pipe(UUID).iterdir()} == MADE
                assert not any(path.is_symlink() for path in node.layout.pipe(UUID).iterdir())
        finally:
            attack.kill()
    assert identity(Path(f"/proc/self/fd/{descriptor}")) == identity(node.layout.pipe(UUID))
    os.close(descriptor)
    assert {path.name: path.read_text() for path in target.iterdir()} == {"file": "precious"}
