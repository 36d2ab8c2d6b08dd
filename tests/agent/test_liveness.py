"""The liveness probe: it fails when a restart would help, and never because of a config."""

from __future__ import annotations

import asyncio

import pytest

from tests.agent.documents import SHARED, shares
from tests.agent.harness import InProcess, Node
from tests.waiting import eventually


@pytest.fixture
async def agent(node: Node) -> InProcess:
    """An agent at rest."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.snapshot.in_sync)
    assert await agent.live()
    return agent


async def dead(agent: InProcess) -> bool:
    """Whether the liveness probe has failed."""
    return not await agent.live()


async def test_a_loop_that_has_ended(node: Node, agent: InProcess) -> None:
    """An agent whose loop is gone, whatever ended it, says so and is not alive."""
    (loop,) = (task for task in asyncio.all_tasks() if task.get_name() == "reconciler")
    loop.cancel()
    await eventually(lambda: dead(agent))
    assert node.log.having("the loop has ended")


async def test_turns_that_all_fail(node: Node, agent: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent whose turns fail is not ready and says so, but alive: it serves its lists, which a restart would take
    away. A turn that can be completed ends that.
    """

    def fail(*_arguments: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr("nodeagent.reconciler.summarize", fail)
    node.commit(shares(5))
    await eventually(lambda: node.log.having("cannot complete a turn"))
    await eventually(lambda: agent.says("Ready").reason == "Failing")
    assert "a fault of ours" in agent.says("Ready").message
    assert not agent.snapshot.settled
    assert not await agent.ready()
    assert await agent.live()
    assert node.kubelet.streams_ended == []

    monkeypatch.undo()
    await eventually(agent.ready)
    await eventually(lambda: agent.snapshot.in_sync)
    node.log.records.clear()
