"""What the agent depends on fails: each fault degrades what it touches, is told, and is over when it is over.

GPUs that fail are in `test_gpus`, a config that cannot be read in `test_watch`, a kubelet that is away in
`test_kubelet`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodeagent.sim.pod_resources import Fault
from tests.agent.documents import SHARED, shares
from tests.agent.harness import InProcess, Node
from tests.waiting import eventually, together


@pytest.fixture
def small_disk(node: Node) -> Iterator[Path]:
    """The state directory on a file system of its own, of 256 KiB."""
    node.state_dir.mkdir()
    mount("-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", node.state_dir)
    try:
        yield node.state_dir
    finally:
        subprocess.run(["umount", "-l", node.state_dir], check=True)


def mount(*arguments: str | Path) -> None:
    """Mount something, or skip the test: that takes a privilege."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass


async def cannot_write(node: Node, agent: InProcess) -> None:
    """While the disk refuses: nothing new is advertised, everything else goes on, and it is told."""
    node.commit(shares(6), revision="more")
    await eventually(lambda: agent.says("StateDirWritable").reason == "WriteFailed")
    assert "applied.json" in agent.says("StateDirWritable").message
    assert node.kubelet.allocatable(SHARED) == 32
    assert await agent.metric("config_last_reload_successful") == 0
    assert await agent.metric("config_reload_failures_total", stage="apply") == 1
    assert await agent.metric("drift", kind="shares") == 8
    assert not agent.snapshot.in_sync
    assert await agent.ready()
    await node.hold(2)
    node.simulate(health={7: "lost"})
    await node.allocatable(28)
    node.simulate()
    await node.allocatable(32)


async def can_write_again(node: Node, agent: InProcess) -> None:
    """Soon after the disk takes files again, what Git asked for is done."""
    await node.advertises({SHARED: 48})
    await eventually(lambda: agent.says("StateDirWritable").status)
    await eventually(lambda: agent.snapshot.in_sync)
    assert await agent.metric("config_last_reload_successful") == 1
    assert node.kubelet.streams_ended == []


async def test_a_full_disk(node: Node, small_disk: Path) -> None:
    """On a full disk nothing new is advertised, and nothing is lost; it is a condition, and over when there is room."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.snapshot.in_sync)

    filler = small_disk / "filler"
    fill(filler)
    await cannot_write(node, agent)
    filler.unlink()
    await can_write_again(node, agent)


async def test_a_disk_that_turns_read_only(node: Node) -> None:
    """A state directory that is read-only all of a sudden, as after an error of the disk, is the same."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.snapshot.in_sync)

    mount("--bind", node.state_dir, node.state_dir)
    try:
        mount("-o", "remount,bind,ro", node.state_dir)
        await cannot_write(node, agent)
    finally:
        subprocess.run(["umount", "-l", node.state_dir], check=True)
    await can_write_again(node, agent)


async def test_a_state_file_that_cannot_be_written(node: Node) -> None:
    """Whatever it is that keeps the applied state from being written has the same effect."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.snapshot.in_sync)

    in_the_way = node.state_dir / ".applied.json.tmp"
    in_the_way.mkdir()
    await cannot_write(node, agent)
    in_the_way.rmdir()
    await can_write_again(node, agent)


async def test_damaged_state_is_set_aside(node: Node) -> None:
    """An agent that finds damaged files sets them aside, says so, and takes what pods hold from the kubelet."""
    node.simulate(1)
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 4})
    pods = await node.hold(3)
    await first.stop()
    for name in ("applied.json", "holds.json", "last-known-good"):
        (node.state_dir / name).write_bytes(b"\0" * 100)

    agent = await node.agent()
    await node.advertises({SHARED: 4})
    assert node.log.having("applied.json is not used", "set aside")
    assert frozenset[str]().union(*(pod.ids() for pod in pods)) == node.kubelet.held(SHARED)
    await eventually(lambda: agent.snapshot.in_sync)


async def test_pod_resources_fail() -> None:
    """While PodResources hang or refuse, every share counts as held: nothing is taken away, more can be added, pods are
    admitted, and it is told; what waited is done when they answer.
    """
    await together(_pod_resources_fail(fault) for fault in Fault)


async def _pod_resources_fail(fault: Fault) -> None:
    async with Node() as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 80})
        (pod,) = await node.hold(1)

        node.kubelet.pod_resources_fault = fault
        node.commit(shares(4))
        await eventually(lambda: agent.snapshot.config.generation == 2 and not agent.says("PodResourcesReady").status)
        assert agent.says("PodResourcesReady").reason == ("Timeout" if fault is Fault.HANG else "Unavailable")
        assert node.kubelet.allocatable(SHARED) == 80
        assert not agent.snapshot.in_sync
        assert await agent.metric("condition", type="PodResourcesReady") == 0
        assert await agent.metric("drift", kind="shares") == 8
        assert await agent.ready()
        node.commit(shares(11))
        await node.allocatable(88)
        await node.hold(1)
        node.commit(shares(4))
        await eventually(lambda: agent.snapshot.config.generation == 4)
        assert node.kubelet.allocatable(SHARED) == 88

        node.kubelet.pod_resources_fault = None
        await node.advertises({SHARED: 32})
        await eventually(lambda: agent.says("PodResourcesReady").status)
        assert pod.ids() <= node.kubelet.devices(SHARED).keys()
        assert node.kubelet.streams_ended == []


async def test_an_agent_starts_while_pod_resources_hang(node: Node) -> None:
    """An agent that cannot learn who holds what goes on with what it had applied, and advertises what Git adds."""
    node.simulate(1)
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 4})
    await node.hold(3)
    await first.stop()

    node.kubelet.pod_resources_fault = Fault.HANG
    node.commit(shares(2))
    agent = await node.agent()
    await node.advertises({SHARED: 4})
    await eventually(lambda: agent.says("PodResourcesReady").reason == "Timeout")
    assert node.kubelet.allocatable(SHARED) == 4
    assert await agent.ready()
    node.kubelet.pod_resources_fault = None
    await eventually(lambda: agent.says("PodResourcesReady").status)
