"""The agent dies in the middle of what it does, again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

import pytest

from tests.agent.harness import Node
from tests.conftest import Soak
from tests.soak.layouts import Layout, arbitrary, settled
from tests.soak.tenants import Tenants
from tests.waiting import eventually, together

NODES = 5
"""So many nodes live through it side by side: most of the time goes by in waiting."""

CAUTION = 10.0
"""For so many seconds after its start an agent takes nothing away, so not every agent is killed before that."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_killed_at_random_moments_of_a_reload(
    soak: Soak, rng: random.Random, tell: Callable[[str], None]
) -> None:
    """An agent that is killed at any moment of a reload, while pods come and go, and started again, makes the node what
    the mounted config says; no held share is ever withdrawn, and no id dropped that was not fenced.
    """
    kills = soak.times(50)
    lives = [random.Random(rng.random()) for _ in range(min(NODES, kills))]
    pods = await together(_live(life, len(range(number, kills, NODES))) for number, life in enumerate(lives))
    tell(f"{kills} kills while {sum(pods)} pods came")


async def _live(rng: random.Random, kills: int) -> int:
    # Closing the node demands that no promise was broken, by the kubelet's own record.
    async with Node(history_limit=100) as node:
        layout = _commit(node, rng)
        agent = await node.process()
        await eventually(partial(settled, node.kubelet, layout), within=60.0)
        async with Tenants(node.kubelet, rng) as tenants:
            for number in range(kills):
                if number % 2:
                    await asyncio.sleep(CAUTION + rng.random())
                layout = _commit(node, rng)
                # Most of what happens in the two seconds of a reload happens in the first tenth.
                await asyncio.sleep(rng.choice((0.15, 0.15, 2.0)) * rng.random())
                await agent.kill()
                agent = await node.process()
                if rng.random() < 0.5:
                    await tenants.rest()
                    await eventually(partial(settled, node.kubelet, layout), within=90.0)
                    tenants.go_on()
            await tenants.leave()
            await eventually(partial(settled, node.kubelet, layout), within=90.0)
        await agent.stop()
        return tenants.admitted


def _commit(node: Node, rng: random.Random) -> Layout:
    layout = arbitrary(rng)
    node.commit(layout.document())
    return layout
