"""A change of mode with the whole agent, its real sockets and a stand-in kubelet: in waves, and never at zero."""

from __future__ import annotations

from tests.agent.documents import SHARED, exclusive, sharing, time_sliced
from tests.agent.harness import Node
from tests.waiting import eventually


async def test_no_list_is_ever_empty(node: Node) -> None:
    """Eight free GPUs change their mode under one name, there and back: each list has devices of six GPUs at least."""
    node.commit(sharing(time_sliced(10)))
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    begun = node.kubelet.record.message_count

    node.commit(sharing(exclusive(SHARED)))
    await eventually(lambda: agent.snapshot.plan.waves.waiting)
    assert (await agent.metric("transition_devices", state="waiting") or 0) > 0
    await node.advertises({SHARED: 8})
    await eventually(lambda: agent.snapshot.in_sync)
    assert await agent.metric("transition_devices", state="changed") == 8
    node.commit(sharing(time_sliced(10)))
    await node.advertises({SHARED: 80})

    messages = list(node.kubelet.record.messages)
    after = messages[begun - node.kubelet.record.message_count :]
    gpus = [len({share.partition("::")[0] for share in message.healthy}) for message in after]
    assert min(gpus) == 6


async def test_what_is_applied_says_so_when_the_last_wave_is_through(node: Node) -> None:
    """Until then the document is accepted, the status names those that wait, and `wait --applied` goes on waiting."""
    node.commit(sharing(time_sliced(2)))
    agent = await node.agent()
    await node.advertises({SHARED: 16})
    node.commit(sharing(exclusive(SHARED)))
    await eventually(lambda: agent.snapshot.plan.waves.waiting)
    status = await agent.status()
    assert status["observedGeneration"] < status["generation"]
    assert {wait["reason"] for wait in status["plan"]["waits"]} >= {"wave"}
    assert status["plan"]["waves"]["maxUnavailable"] == 2
    await eventually(lambda: agent.snapshot.in_sync)
