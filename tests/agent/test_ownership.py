"""The state directory is taken from under an agent: it makes it anew and nobody notices, or it does without, or it
gives way to the agent that has the directory by now; there are never two for longer than a look takes.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from nodeagent.admin import SOCKET, ask
from nodeagent.ownership import ANEW
from tests.agent.documents import SHARED, shares
from tests.agent.harness import InProcess, Node, Process, arguments, free_port
from tests.waiting import eventually

WRITTEN = {"applied.json", "holds.json", "last-known-good", "lock", SOCKET}

BAD = b"kind: [\n"


def there(directory: Path) -> set[str]:
    """The names in a directory; none where there is no directory."""
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def deleted(node: Node) -> None:
    """`rm -rf` of the directory, whatever is made in it meanwhile."""
    shutil.rmtree(node.state_dir, ignore_errors=True)


def emptied(node: Node) -> None:
    """`rm` of all that is in it."""
    for path in node.state_dir.iterdir():
        path.unlink()


def lock_deleted(node: Node) -> None:
    """`rm` of the lock's file alone."""
    (node.state_dir / "lock").unlink()


def file_deleted(node: Node) -> None:
    """`rm` of what is remembered alone."""
    (node.state_dir / "applied.json").unlink()


def socket_deleted(node: Node) -> None:
    """`rm` of the admin socket alone."""
    (node.state_dir / SOCKET).unlink()


def renamed(node: Node) -> None:
    """`mv` of the directory."""
    node.state_dir.rename(node.directory / "elsewhere")


def replaced(node: Node) -> None:
    """Another directory in its place, as after a restore."""
    renamed(node)
    node.state_dir.mkdir()


def copied(node: Node) -> None:
    """A copy in its place, with a lock's file of its own."""
    renamed(node)
    shutil.copytree(node.directory / "elsewhere", node.state_dir, ignore=shutil.ignore_patterns(SOCKET))


def moved_to_link(node: Node) -> None:
    """A link in its place."""
    renamed(node)
    (node.directory / "other").mkdir()
    node.state_dir.symlink_to(node.directory / "other")


LOSSES = [
    deleted, emptied, lock_deleted, file_deleted, socket_deleted, renamed, replaced, copied, moved_to_link
]  # fmt: skip


async def serving(node: Node) -> InProcess:
    """An agent with 32 shares, of which three are held."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await node.hold(3)
    await eventually(lambda: agent.snapshot.in_sync)
    await eventually(lambda: there(node.state_dir) >= WRITTEN)
    return agent


async def owns(node: Node, agent: Process | InProcess) -> None:
    """Wait until everything is in the directory, and the lock is the agent's."""
    pid = agent.process.pid if isinstance(agent, Process) else os.getpid()

    async def complete() -> bool:
        assert there(node.state_dir) >= WRITTEN
        assert (node.state_dir / "lock").read_text() == f"{pid}\n"
        return (await agent.condition("StateDirWritable"))[0]

    await eventually(complete)


@pytest.mark.parametrize("lost", LOSSES, ids=lambda lost: lost.__name__)
async def test_what_has_gone_is_made_anew(node: Node, lost: Callable[[Node], None]) -> None:
    """Directory, lock, everything that was written and the admin socket are there again though no write was due; no
    stream ends, configs are followed as before, and the next agent knows what this one has done.
    """
    agent = await serving(node)
    lost(node)
    await eventually(lambda: node.log.having(ANEW))
    await owns(node, agent)
    answer = await asyncio.to_thread(ask, node.state_dir, "clear-health", "GPU-nobody")
    assert "GPU-nobody" in answer.message
    node.commit(shares(6))
    await node.advertises({SHARED: 48})
    assert node.kubelet.streams_ended == []
    assert len(node.log.having("the state directory can be written again")) == 1

    await agent.stop()
    assert not (node.state_dir / SOCKET).exists()
    node.commit(BAD)
    again = await node.agent()
    await node.advertises({SHARED: 48})
    await eventually(lambda: again.says("ServingLastKnownGood").status)


async def test_a_loss_while_configs_come(node: Node) -> None:
    """A config that changes while the directory goes is applied all the same, and written to where it is then."""
    agent = await serving(node)
    for number in range(6):
        deleted(node)
        node.commit(shares(5 + number))
        await node.advertises({SHARED: 8 * (5 + number)})
        await owns(node, agent)
    assert node.kubelet.streams_ended == []


def a_file(node: Node) -> None:
    """A file where the directory was."""
    renamed(node)
    node.state_dir.write_text("")


def a_loop(node: Node) -> None:
    """A link to itself."""
    renamed(node)
    node.state_dir.symlink_to(node.state_dir)


def a_lock_that_is_none(node: Node) -> None:
    """A directory where the lock's file was."""
    (node.state_dir / "lock").unlink()
    (node.state_dir / "lock").mkdir()


def healed(node: Node) -> None:
    """What is in the way goes."""
    lock = node.state_dir / "lock"
    if node.state_dir.is_dir():
        lock.rmdir()
    else:
        node.state_dir.unlink()


@pytest.mark.parametrize("lost", [a_file, a_loop, a_lock_that_is_none], ids=lambda lost: lost.__name__)
async def test_what_cannot_be_made(node: Node, lost: Callable[[Node], None]) -> None:
    """It is told, once, as a disk that cannot be written: what is advertised stays and pods are admitted, nothing new
    is begun; when what is in the way has gone, all that was asked for is done.
    """
    agent = await serving(node)
    node.log.records.clear()
    lost(node)
    await eventually(lambda: not agent.says("StateDirWritable").status)
    node.commit(shares(6))
    await eventually(lambda: agent.snapshot.config.generation == 2)
    await node.hold(2, prefix="late")
    assert node.kubelet.allocatable(SHARED) == 32
    said = agent.says("StateDirWritable")
    assert said.reason == "WriteFailed"
    assert str(node.state_dir) in said.message
    assert len(node.log.having("nothing new is advertised until it can be written")) == 1

    healed(node)
    await node.advertises({SHARED: 48})
    await owns(node, agent)
    assert node.kubelet.streams_ended == []


async def test_two_owners(node: Node) -> None:
    """Where another agent has the lock by then the first one ends its streams and waits, with nothing served; when the
    other has ended it goes on as an agent that has just started.
    """
    node.commit(shares(4))
    first = await node.process()
    await node.advertises({SHARED: 32})
    pods = await node.hold(3)
    # As a second agent that starts in the same moment would: nobody can be quicker than that.
    path, theirs = node.state_dir / "lock", node.state_dir / "theirs"
    with theirs.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        theirs.replace(path)
        await eventually(lambda: "another process has the lock" in first.log)
        await eventually(lambda: len(node.kubelet.streams_ended) == 1)
        await eventually(lambda: "waiting until it is gone" in first.log)
        assert not node.kubelet.streams_ended[0].by_kubelet
        assert await first.live()
        assert not await first.ready()
        assert {path.name for path in node.kubelet.device_plugins.iterdir()} == {
            "kubelet.sock",
            "kubelet_internal_checkpoint",
        }
        second = await node.process(state_dir=node.directory / "theirs")
        await node.advertises({SHARED: 32})
        assert (await first.get("/status")).code != 200
        await second.stop()
    await node.advertises({SHARED: 32})
    assert first.log.count("nodeagent 0.1.0 on") + first.log.count(" on node-a, config") >= 2
    await owns(node, first)
    assert await first.ready()
    assert frozenset[str]().union(*(pod.ids() for pod in pods)) <= node.kubelet.held(SHARED)
    await first.stop()


@pytest.mark.parametrize("lost", [deleted, lock_deleted], ids=lambda lost: lost.__name__)
async def test_the_owner_comes_first(node: Node, lost: Callable[[Node], None]) -> None:
    """One that waits takes no lock whose file has only gone from its path: its owner lives, makes it anew and goes on;
    when the owner has ended, the other one follows.
    """
    node.commit(shares(4))
    first = await node.process()
    await node.advertises({SHARED: 32})
    await eventually(lambda: there(node.state_dir) >= WRITTEN)
    second = await node.process()
    await eventually(lambda: "waiting until it is gone" in second.log)
    for _ in range(3):
        lost(node)
        await owns(node, first)
    assert node.kubelet.streams_ended == []
    assert not await second.ready()
    await first.stop()
    await node.advertises({SHARED: 32})
    await owns(node, second)


async def test_one_that_starts_after_a_loss(node: Node) -> None:
    """A second agent that is started when the lock has been deleted waits, or the first one gives way to it: one of
    them is the owner, and the kubelet has what that one advertises.
    """
    node.commit(shares(4))
    first = await node.process()
    await node.advertises({SHARED: 32})
    await eventually(lambda: there(node.state_dir) >= WRITTEN)
    (node.state_dir / "lock").unlink()
    second = await node.process()
    await eventually(lambda: ("waiting until it is gone" in first.log) != ("waiting until it is gone" in second.log))
    node.commit(shares(6))
    await node.advertises({SHARED: 48})
    assert [await first.ready(), await second.ready()].count(True) == 1


# --- mounts, each in a mount namespace of its own --------------------------------------------------------------------


def mounts_can_be_made() -> bool:
    """Whether we may have a mount namespace of our own."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "-m", "true"], check=False).returncode == 0


needs_mounts = pytest.mark.skipif(not mounts_can_be_made(), reason="needs the right to mount")


class Mounted(Process):
    """An agent in a mount namespace of its own."""

    def inside(self, *command: str | Path) -> None:
        """Run a command in its namespace."""
        subprocess.run(["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--", *map(str, command)], check=True)


@asynccontextmanager
async def mounted(node: Node, prepare: str = "true") -> AsyncIterator[Mounted]:
    """It serves 32 shares, after this shell command in its namespace."""
    node.commit(shares(4))
    port = free_port()
    log = node.directory / "mounted.log"
    agent = [sys.executable, "-m", "nodeagent", "run", *arguments(node.settings(listen=f"127.0.0.1:{port}"))]
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            "unshare", "-m", "sh", "-c", f'{prepare} && exec "$@"', "sh", *agent, stdout=output, stderr=output
        )
    one = Mounted(process, port, log)
    try:
        await one.started()
        await node.advertises({SHARED: 32})
        yield one
    finally:
        if process.returncode is None:
            await one.stop()


@needs_mounts
async def test_a_mount_over_it(node: Node) -> None:
    """What is mounted over the directory is where it is from then on, and when that is unmounted the one below is."""
    async with mounted(node) as agent:
        agent.inside("mount", "-t", "tmpfs", "none", node.state_dir)
        inside = Path(f"/proc/{agent.process.pid}/root{node.state_dir}")
        await eventually(lambda: there(inside) >= WRITTEN)
        node.commit(shares(6))
        await node.advertises({SHARED: 48})
        assert "48" not in (node.state_dir / "applied.json").read_text()
        agent.inside("umount", "-l", node.state_dir)
        await eventually(lambda: agent.log.count(ANEW) == 2)
        await owns(node, agent)
        before, now = (
            json.loads((node.state_dir / name).read_text().splitlines()[1]) for name in ("applied.json",) * 2
        )
        assert before == now
        node.commit(shares(4))
        await node.advertises({SHARED: 32})
        assert node.kubelet.streams_ended == []


@needs_mounts
async def test_a_disk_that_turns_read_only(node: Node) -> None:
    """A directory that has gone and cannot be made on a read-only disk is done without, and made when it can be."""
    disk = node.directory / "disk"
    node.state_dir = disk / "state"
    async with mounted(node) as agent:
        agent.inside("mount", "-t", "tmpfs", "-o", "ro", "none", disk)
        await eventually(lambda: "nothing new is advertised until it can be written" in agent.log)

        async def told() -> bool:
            return "Read-only file system" in (await agent.condition("StateDirWritable"))[2]

        await eventually(told)
        await node.hold(2)
        agent.inside("mount", "-o", "remount,rw", disk)
        node.commit(shares(6))
        await node.advertises({SHARED: 48})
        assert node.kubelet.streams_ended == []


@needs_mounts
@pytest.mark.parametrize("below", ["", "/deeper"], ids=["the mount itself", "a directory in it"])
async def test_a_mount_that_was_deleted(node: Node, below: str) -> None:
    """What is mounted was deleted on the host, so that nothing can be made there ever again: the agent serves on for a
    while and says so; then it ends, in order, so that its container mounts anew.
    """
    host = node.directory / "host"
    host.mkdir()
    mount = node.directory / "mount"
    mount.mkdir()
    node.state_dir = Path(f"{mount}{below}")
    async with mounted(node, f"mount --bind {host} {mount}") as agent:
        await node.hold(2)
        shutil.rmtree(host)

        async def told() -> bool:
            status, reason, message = await agent.condition("StateDirWritable")
            return not status and reason == "WriteFailed" and "it was deleted" in message

        await eventually(told)
        node.commit(shares(6))
        await node.hold(2, prefix="late")
        assert node.kubelet.allocatable(SHARED) == 32
        assert await agent.ended(within=30.0) == 75
        assert "only another mount helps" in agent.log
        assert agent.log.endswith("stopped\n")
        assert [end.by_kubelet for end in node.kubelet.streams_ended] == [False]
