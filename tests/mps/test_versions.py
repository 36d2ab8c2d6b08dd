"""A host and an agent of which one knows other versions of their files: the real host, the agent's real view of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodeagent.durable.envelope import version_of
from nodeagent.model.mps import DaemonState
from tests.mps.hosting import UUID, Node, contract
from tests.mps.test_view import BOTH, SECOND, Agent, running
from tests.waiting import eventually

ONE = {UUID: contract()}


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[Node]:
    """Four GPUs, and no host yet."""
    async with Node(mps_control) as node:
        yield node


async def test_a_host_that_does_not_read_what_it_finds(node: Node) -> None:
    """It says so, with both versions and what it does read, and gets that from an agent that can write it; a host of
    before gets its own, and keeps the daemon.
    """
    newer = await node.host(formats=SECOND)
    node.want(ONE)
    await eventually(lambda: "its version is 1, this agent reads 2" in node.observed().problem)
    assert node.observed().reads == (2,)
    assert node.observed().daemons == {}

    async with running(Agent(node.layout.root, program=node.program, formats=BOTH)) as agent:
        agent.view.want(ONE)
        await eventually(lambda: agent.state(UUID) is DaemonState.READY)
        assert version_of(node.layout.desired.read_bytes()) == 2
        assert node.observed().problem == ""
        before = node.running()
        await newer.stop()

        await node.host()
        await eventually(lambda: version_of(node.layout.desired.read_bytes()) == 1)
        assert await node.ready(ONE) == before
        await eventually(lambda: agent.state(UUID) is DaemonState.READY)
