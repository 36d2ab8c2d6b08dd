"""The whole agent while the wall clock is set."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from nodeagent import clocks
from tests.agent.documents import GPU, exclusive, sharing, time_sliced
from tests.agent.harness import Node, uuid
from tests.waiting import WITHIN, eventually, longer

DAY = 86_400.0
HEALTH = {"recovery": {"after": "1h", "xids": [94]}}


@pytest.mark.parametrize("step", [DAY, -DAY], ids=["on", "back"])
async def test_a_step_of_the_wall_clock(node: Node, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Neither ends a drain's time nor heals a GPU, here and in the agent that follows; what is shown moves with it."""
    node.commit(sharing(exclusive(), health=HEALTH))
    agent = await node.agent()
    await node.advertises({GPU: 8})
    (pod,) = await node.hold(1, GPU)
    (held,) = pod.ids()
    index = next(number for number in range(8) if uuid(number) == held)
    ill = (index + 1) % 8
    node.simulate(xids={ill: [94]})
    await eventually(lambda: agent.snapshot.applied.gpus[uuid(ill)].xids)
    node.commit(sharing(time_sliced(2, at=[index]), exclusive(), health=HEALTH))
    await eventually(lambda: agent.says("Draining").status)

    real = time.time
    monkeypatch.setattr(clocks.HERE, "wall", lambda: real() + step)
    for restart in (False, True):
        if restart:
            await agent.stop()
            agent = await node.agent()
        node.commit(sharing(time_sliced(2, at=[index]), exclusive(), health=HEALTH, comment=str(restart)))
        await eventually(lambda: agent.snapshot.reloads)  # noqa: B023
        await eventually(lambda: agent.says("Draining").status)  # noqa: B023
        assert not agent.says("Stalled").status
        assert agent.snapshot.applied.gpus[uuid(ill)].xids
        status = await agent.status()
        since = next(one["drainingSince"] for one in status["resources"] if one["drainingSince"] is not None)
        for told in (status["startedAt"], status["observedAt"], status["reportedAt"], since):
            assert abs(datetime.fromisoformat(told).timestamp() - real() - step) < longer(4 * WITHIN)
        age = await agent.metric("draining_oldest_seconds", resource=GPU)
        assert age is not None
        assert 0.0 <= age < longer(4 * WITHIN)
