"""The harness itself: what it starts works, and what it promises to demand it demands."""

from __future__ import annotations

import pytest

from tests.agent.documents import SHARED, shares
from tests.agent.harness import Node, gpu_of


async def test_an_agent_serves_what_was_committed(node: Node) -> None:
    """What is committed is what the kubelet has, and what status, metrics and probes tell."""
    node.commit(shares(4), revision="v1")
    agent = await node.agent()

    await node.advertises({SHARED: 32})

    pods = await node.fill(3, 2)
    assert [gpu_of(pod) for pod in pods] == [3, 3]
    assert agent.says("Ready").status
    assert await agent.ready()
    assert await agent.metric("kubelet_streams", resource=SHARED) == 1
    assert (await agent.status())["config"]["applied"]["revision"] == "v1"


async def test_a_broken_promise_fails_the_test() -> None:
    """A test whose kubelet saw a promise broken fails when its node is closed."""
    with pytest.raises(AssertionError, match="an id was dropped"):
        async with Node() as node:
            node.kubelet.record.broken(SHARED, "an id was dropped", ["GPU-0::1"])
