"""Everything at once, in any order: what a year brings to a node, in minutes."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import pytest

from nodeagent.sim.history import ListMessage
from nodeagent.sim.pod_resources import Fault
from tests.agent.harness import GPUS, Node, Process
from tests.config import malformed
from tests.conftest import Soak
from tests.soak.layouts import Layout, arbitrary, gpu_index, settled, uniform
from tests.soak.tenants import Tenants
from tests.waiting import eventually

LAST = 6


@pytest.mark.soak
@pytest.mark.timeout(7200)
async def test_a_random_story(soak: Soak, rng: random.Random, tell: Callable[[str], None]) -> None:
    """Whatever documents come, good and bad, while pods come and go, GPUs fail and vanish, and agent and kubelet are
    killed and restarted: no message to the kubelet breaks a promise or offers a GPU under two names, and when calm
    returns the node is what the last document says.
    """
    # Closing the node demands that the kubelet neither crashed nor saw a promise broken.
    async with Node(history_limit=100) as node:
        story = Story(node, rng)
        node.kubelet.record.on_message = story.judge
        await story.begin()
        async with Tenants(node.kubelet, rng) as tenants:
            for _ in range(soak.times(600)):
                await story.step()
            await story.calm()
            await tenants.leave()
        layout = uniform(LAST)
        node.commit(layout.document())
        await eventually(lambda: settled(node.kubelet, layout), within=120.0)
        assert not story.broken, "\n".join(story.broken)
        await eventually(story.in_sync, within=30.0)
        tell(f"{story.told()}, {tenants.admitted} pods")


class Story:
    """What happens on one node, step by step; `broken` is what was wrong with a message to the kubelet."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self.broken: list[str] = []
        self._node = node
        self._rng = rng
        self._malformed = list(malformed.documents().values())
        self._agent: Process | None = None
        self._messages = 0
        self._counts: dict[str, int] = {}
        self._newest: dict[str, Mapping[str, bool]] = {}
        self._steps: Mapping[Callable[[], Awaitable[None]], int] = {
            self._good: 30,
            self._bad: 8,
            self._gpus_fail: 8,
            self._gpus_recover: 6,
            self._agent_is_killed: 6,
            self._agent_stops: 3,
            self._kubelet_restarts: 5,
            self._pod_resources_fail: 4,
            self._pod_resources_recover: 4,
            self._time_passes: 10,
        }

    async def begin(self) -> None:
        """From nothing to a node that serves."""
        await self._good()
        self._agent = await self._node.process()

    async def step(self) -> None:
        """One event, and a little time, mostly less than it takes to deal with it."""
        (event,) = self._rng.choices(list(self._steps), list(self._steps.values()))
        name = event.__name__.removeprefix("_")
        self._counts[name] = self._counts.get(name, 0) + 1
        await event()
        await asyncio.sleep(self._rng.expovariate(1 / 0.3))
        assert not self.broken, "\n".join(self.broken)
        assert not self._node.kubelet.violations, self._node.kubelet.violations
        assert not self._node.kubelet.crashes, self._node.kubelet.crashes

    async def calm(self) -> None:
        """Everything is well again."""
        await self._gpus_recover()
        await self._pod_resources_recover()

    async def in_sync(self) -> bool:
        """Whether the agent says so too."""
        assert self._agent is not None
        return bool((await self._agent.status())["inSync"])

    def judge(self, message: ListMessage) -> None:
        """A GPU is on offer under one name at a time."""
        self._messages += 1
        self._newest[message.resource] = message.devices
        mine = {gpu_index(id_) for id_ in message.healthy}
        for resource, devices in self._newest.items():
            held = self._node.kubelet.held(resource)
            theirs = {gpu_index(id_) for id_, healthy in devices.items() if healthy and id_ not in held}
            if resource != message.resource and mine & theirs:
                self.broken.append(f"GPUs {sorted(mine & theirs)} are offered as {resource} and {message.resource}")

    def told(self) -> str:
        """What it was made of."""
        events = ", ".join(f"{count} x {name}" for name, count in sorted(self._counts.items()))
        return f"{events}; {self._messages} messages"

    async def _good(self) -> None:
        layout: Layout = arbitrary(self._rng)
        self._node.commit(layout.document())

    async def _bad(self) -> None:
        self._node.commit(self._rng.choice(self._malformed))

    async def _gpus_fail(self) -> None:
        indices = self._rng.sample(range(GPUS), self._rng.randint(1, 3))
        if self._rng.random() < 0.3:
            self._node.simulate(without=indices)
        else:
            self._node.simulate(health={index: self._rng.choice(("lost", "hang")) for index in indices})

    async def _gpus_recover(self) -> None:
        self._node.simulate()

    async def _agent_is_killed(self) -> None:
        assert self._agent is not None
        await self._agent.kill()
        await self._start_again()

    async def _agent_stops(self) -> None:
        assert self._agent is not None
        self._agent.signal(signal.SIGTERM)
        assert await self._agent.ended() == 0
        await self._start_again()

    async def _start_again(self) -> None:
        if self._rng.random() < 0.3:
            await self._good()
        await asyncio.sleep(self._rng.choice((0.0, self._rng.uniform(0.0, 2.0))))
        self._agent = await self._node.process()

    async def _kubelet_restarts(self) -> None:
        self._node.kubelet.pods_after = self._rng.choice((0.0, 1.0))
        await self._node.kubelet.restart(down_for=self._rng.choice((0.0, self._rng.uniform(0.0, 1.0))))

    async def _pod_resources_fail(self) -> None:
        self._node.kubelet.pod_resources_fault = self._rng.choice(list(Fault))

    async def _pod_resources_recover(self) -> None:
        self._node.kubelet.pod_resources_fault = None

    async def _time_passes(self) -> None:
        with suppress(AssertionError):
            await eventually(lambda: bool(self.broken), within=self._rng.choice((1.0, 3.0, 12.0)))
