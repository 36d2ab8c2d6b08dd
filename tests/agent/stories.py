"""What happens to a node in more than one test: the short form runs with every build, the full counts in the soak."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from typing import Any

from tests.agent.documents import SHARED, shares
from tests.agent.harness import GPUS, InProcess, Node
from tests.config.malformed import DIRECTORY
from tests.waiting import eventually

FEW, MANY = 4, 10


async def reload_back_and_forth(node: Node, times: int) -> None:
    """Reload between ten and four shares per GPU, and demand that the kubelet's connection and floor never suffer."""
    node.commit(shares(MANY))
    agent = await node.agent()
    await node.advertises({SHARED: MANY * GPUS})
    await node.hold(3)
    node.kubelet.reset_fewest(SHARED)

    for number in range(times):
        replicas = MANY if number % 2 else FEW
        node.commit(shares(replicas))
        await node.allocatable(replicas * GPUS)

    replicas = MANY if (times - 1) % 2 else FEW
    await node.advertises({SHARED: replicas * GPUS})
    await eventually(lambda: agent.snapshot.in_sync)
    assert node.kubelet.fewest(SHARED) == FEW * GPUS
    assert node.kubelet.streams_ended == []
    assert len(node.kubelet.registrations) == 1
    assert agent.snapshot.config.observed_generation == times + 1


async def reject_each(node: Node, documents: Mapping[str, bytes], *, within: float) -> float:
    """Commit each malformed document, and after each a good one that asks for something else; demand that the first
    changes nothing but what is told, within so many seconds, and that the second is applied.

    Returns the longest time that it took to tell, in seconds.
    """
    node.commit(shares(FEW))
    agent = await node.agent()
    await node.advertises({SHARED: FEW * GPUS})
    slowest = 0.0

    for number, (name, data) in enumerate(documents.items()):
        messages = node.kubelet.record.message_count
        before = node.kubelet.devices(SHARED)
        begun = time.monotonic()
        node.commit(data)
        await eventually(partial(_rejected, agent, data), within=within)
        assert await agent.metric("config_last_reload_successful") == 0, name
        slowest = max(slowest, time.monotonic() - begun)

        told = _told(await agent.status())
        expected = DIRECTORY / f"{name}.expected"
        assert told, name
        assert not expected.exists() or told == expected.read_text("utf-8").splitlines(), name
        assert node.kubelet.devices(SHARED) == before, name
        assert node.kubelet.record.message_count == messages, name

        good = FEW + 1 + number % 2
        node.commit(shares(good))
        await node.allocatable(good * GPUS)
        await eventually(lambda: agent.says("ConfigAccepted").status)
        assert await agent.metric("config_last_reload_successful") == 1, name

    assert node.kubelet.streams_ended == []
    assert len(node.kubelet.registrations) == 1
    return slowest


def _rejected(agent: InProcess, data: bytes) -> bool:
    newest = agent.snapshot.config.newest
    return newest is not None and newest.size == len(data) and bool(agent.snapshot.config.violations)


def _told(status: Any) -> list[str]:  # noqa: ANN401 - JSON
    """The violations in the status, as the files beside the documents have them."""
    told = []
    for violation in status["config"]["violations"]:
        assert violation["file"].endswith("sharing.yaml")
        path = f"{violation['path']}: " if violation["path"] else ""
        told.append(f"{violation['stage']} {violation['line']}:{violation['column']}: {path}{violation['message']}")
    return told
