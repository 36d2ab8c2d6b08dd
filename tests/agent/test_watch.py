"""Every way in which the mounted document changes, as the node sees it."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from pathlib import Path

import pytest

from nodeagent.sim.git_mount import MountedConfigMap
from tests.agent.documents import SHARED, shares
from tests.agent.harness import GPUS, InProcess, Node
from tests.waiting import eventually

FOLLOWED_WITHIN = 2.0
"""Seconds from a directory made again to the list of what is in it: a promise of the product."""


@pytest.fixture
def plain(node: Node) -> Path:
    """A directory with a plain `sharing.yaml`, as on a host without a ConfigMap."""
    directory = node.directory / "plain"
    directory.mkdir()
    (directory / "sharing.yaml").write_bytes(shares(4))
    return directory


async def started(node: Node, config: Path) -> InProcess:
    """An agent that follows `config` and has applied four shares per GPU."""
    agent = await node.agent(config=config)
    await node.advertises({SHARED: 4 * GPUS})
    await eventually(lambda: agent.snapshot.in_sync)
    return agent


@pytest.mark.parametrize("named", ["directory", "file"])
async def test_every_kind_of_change_is_followed(node: Node, plain: Path, named: str) -> None:
    """A plain rewrite, an editor's rename and a file that is away for a moment are followed, whether the file or its
    directory was named; none of it is told as a missing file.
    """
    file = plain / "sharing.yaml"
    agent = await started(node, plain if named == "directory" else file)

    file.write_bytes(shares(5))
    await node.allocatable(5 * GPUS)
    node.write(file, shares(6))
    await node.allocatable(6 * GPUS)
    file.rename(plain / "sharing.yaml~")
    file.write_bytes(shares(7))
    await node.allocatable(7 * GPUS)

    await eventually(lambda: agent.snapshot.config.generation == 4)
    assert {reload.result.value for reload in agent.snapshot.reloads} == {"accepted"}


async def test_an_identical_rewrite_sends_nothing(node: Node, plain: Path) -> None:
    """Rewriting the same bytes, in place or by a rename, sends nothing and is not even a reload."""
    file = plain / "sharing.yaml"
    agent = await started(node, plain)
    sent = node.kubelet.record.message_count

    file.write_bytes(shares(4))
    node.write(file, shares(4))
    # What follows is seen after what came before it.
    file.write_bytes(shares(5))
    await node.allocatable(5 * GPUS)

    await eventually(lambda: len(agent.snapshot.reloads) == 2)
    assert node.kubelet.record.message_count == sent + 1


async def test_a_burst_ends_on_the_last_change(node: Node) -> None:
    """Thirty changes, 20 ms apart, end on the last one, whatever was skipped between."""
    node.commit(shares(4))
    agent = await started(node, node.mount.directory)
    sent = node.kubelet.record.message_count

    for number in range(30):
        node.commit(shares(5 + number % 7, comment=str(number)))
        await asyncio.sleep(0.02)
    last = 5 + 29 % 7
    await node.advertises({SHARED: last * GPUS})

    await eventually(lambda: agent.snapshot.in_sync)
    assert agent.snapshot.config.newest is not None
    assert agent.snapshot.config.newest.size == len(shares(last, comment="29"))
    assert node.kubelet.record.message_count - sent <= 60
    assert node.kubelet.streams_ended == []


async def test_a_directory_made_again_is_followed(node: Node) -> None:
    """A directory that is deleted and made again is followed within two seconds, and again after that; while it is
    away, what is applied stays.
    """
    node.commit(shares(4))
    agent = await started(node, node.mount.directory)

    for replicas in (5, 6):
        shutil.rmtree(node.mount.directory)
        await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")
        assert node.kubelet.allocatable(SHARED) == (replicas - 1) * GPUS
        MountedConfigMap(node.mount.directory).write({"sharing.yaml": shares(replicas)})
        await node.allocatable(replicas * GPUS, within=FOLLOWED_WITHIN)
        await eventually(lambda: agent.says("ConfigAccepted").status)
    node.commit(shares(7))
    await node.allocatable(7 * GPUS)


async def test_a_missing_file_keeps_what_is_applied(node: Node) -> None:
    """A document that is gone is said to be missing and fails the reload metric; what is applied stays, the node stays
    ready, and the same document coming back is the end of it.
    """
    node.commit(shares(4))
    agent = await started(node, node.mount.directory)
    sent = node.kubelet.record.message_count

    node.mount.write({"revision": b"a1b2c3"})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")
    assert "there is no such file" in agent.says("ConfigAccepted").message
    assert await agent.metric("config_last_reload_successful") == 0
    assert await agent.metric("config_reload_failures_total", stage="read") == 1
    assert await agent.metric("drift", kind="config") == 1
    assert not agent.snapshot.in_sync
    assert await agent.ready()

    node.commit(shares(4))
    await eventually(lambda: agent.snapshot.in_sync)
    assert await agent.metric("config_last_reload_successful") == 1
    assert node.kubelet.record.message_count == sent


async def test_an_unreadable_config(node: Node, plain: Path) -> None:
    """Something that cannot be read as a file is said to be unreadable; what is applied stays until it can be read."""
    file = plain / "sharing.yaml"
    agent = await started(node, plain)

    file.unlink()
    file.symlink_to(file)
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Unreadable")
    assert await agent.metric("config_last_reload_successful") == 0
    assert await agent.metric("condition", type="ConfigAccepted", reason="Unreadable") == 0
    assert node.kubelet.allocatable(SHARED) == 4 * GPUS
    assert await agent.ready()

    file.unlink()
    file.mkdir()
    await eventually(lambda: "it is a directory" in agent.says("ConfigAccepted").message)
    file.rmdir()
    file.write_bytes(shares(5))
    await node.allocatable(5 * GPUS)
    await eventually(lambda: agent.says("ConfigAccepted").status)
    assert await agent.metric("config_last_reload_successful") == 1


async def test_a_config_that_cannot_change(node: Node) -> None:
    """A key that is mounted by `subPath` is applied like any other; that it will never change is a condition, from the
    first turn on, and a line of the log. It makes no node unready.
    """
    node.commit(shares(4))
    config = node.directory / "sharing.yaml"
    config.touch()
    source = (node.mount.directory / "sharing.yaml").resolve()
    if subprocess.run(["mount", "--bind", source, config], capture_output=True, check=False).returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        agent = await started(node, config)
        told = agent.says("ConfigFollowed")
        assert (told.status, told.reason) == (False, "SubPath")
        assert told.message.startswith(f"{config}: it is mounted by subPath")
        assert await agent.ready()
        assert len(agent.log.having("mounted by subPath")) == 1
        await agent.stop()
    finally:
        subprocess.run(["umount", "-l", config], check=False)
