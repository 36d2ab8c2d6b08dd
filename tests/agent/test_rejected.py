"""Documents that are not accepted: nothing happens to the node, and everybody is told why."""

from __future__ import annotations

from itertools import islice

from tests.agent.documents import SHARED, shares, sharing, time_sliced
from tests.agent.harness import Node
from tests.agent.stories import reject_each
from tests.config.malformed import documents
from tests.waiting import eventually, together

NODES = 4


async def test_malformed_documents_change_nothing() -> None:
    """Every malformed document leaves the list and the stream as they were, fails the reload metric, and stands in the
    status with file, line, column and mend; the next good document is applied.
    """
    corpus = documents()
    assert len(corpus) >= 40

    async def part(first: int) -> None:
        async with Node() as node:
            await reject_each(node, dict(islice(corpus.items(), first, None, NODES)), within=10.0)

    await together(part(first) for first in range(NODES))


async def test_going_back_clears_the_error(node: Node) -> None:
    """Going back from a bad document to the one in force clears the error, and sends nothing."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    sent = node.kubelet.record.message_count

    node.commit(b"spec: [")
    await eventually(lambda: agent.says("ConfigAccepted").reason == "ParseError")
    assert await agent.metric("config_reload_failures_total", stage="parse") == 1
    assert await agent.metric("drift", kind="config") == 1
    assert await agent.ready()

    node.commit(shares(4))
    await eventually(lambda: agent.says("ConfigAccepted").status)
    assert await agent.metric("config_last_reload_successful") == 1
    assert agent.snapshot.in_sync
    assert node.kubelet.record.message_count == sent


async def test_a_config_that_this_node_cannot_have(node: Node) -> None:
    """A document whose list would exceed what the kubelet takes is rejected, with the numbers, on the node that has so
    many GPUs.
    """
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})

    node.commit(sharing(time_sliced(10_000)))
    await eventually(lambda: agent.says("ConfigAccepted").reason == "SemanticError")

    assert "4194304 bytes" in agent.says("ConfigAccepted").message
    assert node.kubelet.allocatable(SHARED) == 32


async def test_strict_readiness(node: Node) -> None:
    """With --strict-readiness an agent whose newest document is not accepted is not ready."""
    node.commit(shares(4))
    agent = await node.agent(strict_readiness=True)
    await node.advertises({SHARED: 32})
    await eventually(agent.ready)

    node.commit(b"")
    await eventually(lambda: not agent.says("ConfigAccepted").status)
    assert not await agent.ready()

    node.commit(shares(4))
    await eventually(agent.ready)
