"""The agent dies in the middle of what it does, and the kubelet restarts, again and again."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import pytest

from tests.agent.harness import Node, Process
from tests.conftest import Soak
from tests.soak.failing_disk import FailingDisk
from tests.soak.layouts import Layout, arbitrary, settled
from tests.soak.tenants import Tenants
from tests.waiting import eventually, together

NODES = 10
"""So many nodes live through it side by side: most of the time goes by in waiting."""

CAUTION = 10.0
"""For so many seconds after its start an agent takes nothing away, so not every agent is killed before that."""

AT_FIRST = 5
"""So many pods have come before the first kill."""

BETWEEN = 5
"""So many kills lie between two moments in which a node must have become what Git says."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fails", [False, True], ids=["disk works", "disk fails"])
async def test_killed_and_cut_off_at_random_moments_of_a_reload(
    soak: Soak, rng: random.Random, tell: Callable[[str], None], fails: bool
) -> None:
    """An agent that is killed at any moment of a reload, and started again, and whose kubelet restarts at any other,
    while pods come and go, makes the node what the mounted config says; no held share is ever withdrawn, and no id
    dropped that was not fenced. So it is where its state directory fails at random.
    """
    times = soak.times(300)
    lives = [_Life(random.Random(rng.random()), fails=fails) for _ in range(min(NODES, times))]
    await together(life.live(len(range(number, times, NODES))) for number, life in enumerate(lives))
    failures = f", and the disk failed {sum(life.failures for life in lives)} times" if fails else ""
    pods = sum(life.pods for life in lives)
    tell(f"{times} kills and {times} restarts of the kubelet while {pods} pods came{failures}")


class _Life:
    """One node's. `pods` and `failures` are what it went through."""

    def __init__(self, rng: random.Random, *, fails: bool) -> None:
        self._rng = rng
        self._fails = fails
        self.pods = 0
        self.failures = 0

    async def live(self, times: int) -> None:
        """So many kills, and as many restarts of the kubelet."""
        # Closing the node demands that no promise was broken, by the kubelet's own record.
        async with Node(history_limit=100) as node:
            layout = self._commit(node)
            agent = await node.process()
            await eventually(partial(settled, node.kubelet, layout), within=60.0)
            disk = FailingDisk(node.state_dir, self._rng)
            async with Tenants(node.kubelet, self._rng) as tenants, disk if self._fails else nullcontext():
                await eventually(lambda: tenants.admitted >= AT_FIRST, within=60.0)
                for number in range(1, times + 1):
                    agent = await self._once(node, agent, cautious=bool(number % 4))
                    if number % BETWEEN == 0:
                        await tenants.rest()
                        await self._settles(node, disk)
                        tenants.go_on()
                await disk.works()
                await tenants.leave()
                await self._settles(node, disk)
            await agent.stop()
            self.pods, self.failures = tenants.admitted, disk.failures

    async def _once(self, node: Node, agent: Process, *, cautious: bool) -> Process:
        """The agent is killed, and the kubelet restarts, after an edit each and in any order."""
        if not cautious:
            await asyncio.sleep(CAUTION + self._rng.random())
        steps = ["kill", "restart"]
        self._rng.shuffle(steps)
        for step in steps:
            self._commit(node)
            # Most of what happens in the two seconds of a reload happens in the first tenth.
            await asyncio.sleep(self._rng.choice((0.15, 0.15, 2.0)) * self._rng.random())
            if step == "restart":
                await node.kubelet.restart(down_for=self._rng.choice((0.0, self._rng.uniform(0.0, 0.5))))
            else:
                await agent.kill()
                agent = await node.process()
        return agent

    async def _settles(self, node: Node, disk: FailingDisk) -> None:
        """With a disk that works and nobody who comes or goes the node becomes what Git says last."""
        await disk.works()
        layout = self._commit(node)
        await eventually(partial(settled, node.kubelet, layout), within=90.0)
        if self._fails:
            disk.fails()

    def _commit(self, node: Node) -> Layout:
        layout = arbitrary(self._rng)
        node.commit(layout.document())
        return layout
