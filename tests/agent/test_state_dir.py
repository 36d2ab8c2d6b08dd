"""The state directory hangs, or holds what cannot be read: the agent loses no more than it must, says so, and ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from nodeagent.durable.lock import FileLock
from nodeagent.model.plan import WaitReason
from nodeagent.stopping import STOP_SECONDS
from tests.agent.documents import SHARED, shares
from tests.agent.harness import Node, Process
from tests.waiting import eventually, longer

BAD = b"kind: [\n"


class Hanging:
    """A pipe in the place of a temporary file: who opens it to write waits until somebody reads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        os.mkfifo(path)

    def end(self) -> None:
        """Let whoever waits go on, into an error; nothing when it has ended. A pipe cannot be synced."""
        with suppress(FileNotFoundError):
            os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK))
            self._path.unlink(missing_ok=True)


@contextmanager
def hanging(node: Node, name: str = ".applied.json.tmp") -> Iterator[Hanging]:
    """The next write of a file of the state directory hangs."""
    disk = Hanging(node.state_dir / name)
    try:
        yield disk
    finally:
        disk.end()


async def test_a_disk_that_hangs(node: Node) -> None:
    """A write that does not return is told, and the loop goes on without it: nothing new is advertised, a lost GPU is
    Unhealthy, pods are admitted; when it returns what Git asked for is done.
    """
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.snapshot.in_sync)

    with hanging(node):
        node.commit(shares(6))
        await eventually(lambda: not agent.says("StateDirWritable").status)
        assert "no answer from the disk: applied.json" in agent.says("StateDirWritable").message
        assert node.kubelet.allocatable(SHARED) == 32
        node.simulate(health={7: "lost"})
        await node.allocatable(28)
        await node.hold(2)
        assert await agent.live()
        assert [thread.daemon for thread in threading.enumerate() if thread.name == "state-dir"] == [True]
    node.simulate()
    await node.advertises({SHARED: 48})
    await eventually(lambda: agent.says("StateDirWritable").status)
    assert node.kubelet.streams_ended == []


@pytest.mark.parametrize("told", [False, True], ids=["at once", "after it was told"])
async def test_a_process_whose_disk_hangs_ends(node: Node, told: bool) -> None:
    """SIGTERM ends an agent in time while its write hangs, and the next agent takes over."""
    node.commit(shares(4))
    first = await node.process()
    await node.advertises({SHARED: 32})
    with hanging(node):
        node.commit(shares(6))
        await (eventually(lambda: "no answer from the disk" in first.log) if told else _writes(first))
        begun = time.monotonic()
        first.signal(signal.SIGTERM)
        assert await first.ended() == 0
        assert time.monotonic() - begun < longer(STOP_SECONDS)
    await node.agent()
    await node.advertises({SHARED: 48})


async def _writes(agent: Process) -> None:
    """Wait until a thread of the process waits for the other end of a pipe."""
    threads = Path(f"/proc/{agent.process.pid}/task")

    def where() -> set[str]:
        found = set()
        for thread in threads.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found.add((thread / "wchan").read_text())
        return found

    if where() == {"0"}:
        pytest.skip("the kernel does not tell what a thread waits for")
    await eventually(lambda: "wait_for_partner" in where())


async def test_the_lock_outlives_a_write(node: Node) -> None:
    """While a write is under way no other agent takes over, though the one that made it has ended: the write could land
    on what the other has written.
    """
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    lock = FileLock(node.state_dir / "lock")
    with hanging(node):
        node.commit(shares(6))
        await eventually(lambda: any(thread.name == "state-dir" for thread in threading.enumerate()))
        await first.stop()
        assert not lock.acquire()
        assert node.log.having("is still being used: its lock is kept")
    await eventually(lock.acquire)
    lock.release()


def unreadable(path: Path) -> None:
    """A file that is there and cannot be read."""
    path.unlink()
    path.symlink_to(path)


@pytest.mark.parametrize("name", ["holds.json", "last-known-good"])
async def test_what_can_be_read_is_used(node: Node, name: str) -> None:
    """A file that cannot be read takes no other with it: what was advertised is still known."""
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    pods = await node.hold(3)
    await first.stop()

    unreadable(node.state_dir / name)
    node.commit(BAD)
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "ParseError")
    assert agent.says("ServingLastKnownGood").status is (name != "last-known-good")
    assert node.log.having("cannot read file", name, "starting without it")
    assert frozenset[str]().union(*(pod.ids() for pod in pods)) == node.kubelet.held(SHARED)


async def test_the_config_is_used_without_the_applied_state(node: Node) -> None:
    """Without what was applied the last known good config is in force all the same."""
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    await first.stop()

    unreadable(node.state_dir / "applied.json")
    node.commit(BAD)
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.says("ServingLastKnownGood").status)


@pytest.mark.parametrize("damaged", [False, True], ids=["unreadable", "damaged"])
async def test_who_cannot_remember_is_careful(node: Node, damaged: bool) -> None:
    """An agent that could not read what the one before it left takes nothing away before the last grants of that one
    must have been listed.
    """
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    await first.stop()

    applied = node.state_dir / "applied.json"
    if damaged:
        applied.write_bytes(b"\0")
    else:
        unreadable(applied)
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    node.commit(shares(2))
    await eventually(lambda: agent.snapshot.config.generation == 2)
    assert {wait.reason for wait in agent.snapshot.plan.waits} == {WaitReason.RESTART}
    assert node.kubelet.allocatable(SHARED) == 32
