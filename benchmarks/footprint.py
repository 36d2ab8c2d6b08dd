"""What the agent costs a node that it does nothing for: processor time when idle, memory, and the time to be there."""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.node import GPUS, RESOURCE, AgentProcess, Node, node, serving
from benchmarks.table import Row, percentile
from nodeagent.sim.history import ListMessage

REPLICAS = 10
_SETTLE = 5.0
"""Seconds after the last event until the agent counts as idle: comparisons with the kubelet's view are over then."""


async def measure(*, quick: bool) -> list[Row]:
    """Rows for start, memory and idle CPU, at 80 shares."""
    starts = await _starts(3 if quick else 15)
    window = 10.0 if quick else 30.0
    async with serving(REPLICAS) as (used, agent):
        await _use(used, reloads=10, allocates=1000)
        memory = agent.memory()
        share = await idle(agent, window)
    return [
        Row("start to first list, p50", percentile(starts, 50) * 1000, "ms", 600, f"{len(starts)} starts"),
        Row("start to first list, longest", max(starts) * 1000, "ms"),
        Row("PSS", memory.pss, "MiB", 50, "after 10 reloads, 1,000 Allocates"),
        Row("RSS", memory.rss, "MiB", None, "shared pages counted whole"),
        Row("idle CPU", statistics.median(share), "%", 0.4, f"median of {len(share)} x {window:g} s, 80 shares"),
    ]


async def _starts(times: int) -> list[float]:
    """Seconds from making the process to the first list with all shares at the kubelet, on a node that is new to it."""
    found = [await start() for _ in range(times + 1)]
    return found[1:]  # the first one made the bytecode


async def start(*options: str) -> float:
    """Seconds from making one process to that list, with further options."""
    async with node() as fresh:
        fresh.commit(REPLICAS)
        first = asyncio.get_running_loop().create_future()

        def arrived(message: ListMessage) -> None:
            if len(message.healthy) == REPLICAS * GPUS and not first.done():
                first.set_result(message.at)

        fresh.kubelet.record.on_message = arrived
        agent = await fresh.start_agent(*options)
        try:
            at: float = await asyncio.wait_for(first, 30.0)
        finally:
            await agent.end()
        return at - agent.started_at


async def _use(used: Node, *, reloads: int, allocates: int) -> None:
    for number in range(reloads):
        await used.reload(REPLICAS if number % 2 else REPLICAS // 2)
    for number in range(allocates):
        pod = await used.kubelet.admit(f"pod-{number}", containers={"main": {RESOURCE: 1}})
        await used.kubelet.end(pod)


async def idle(agent: AgentProcess, window: float) -> list[float]:
    """Percent of one core in three windows."""
    await asyncio.sleep(_SETTLE)
    found = []
    for _ in range(3):
        begun, before = time.monotonic(), agent.cpu_seconds()
        await asyncio.sleep(window)
        found.append((agent.cpu_seconds() - before) / (time.monotonic() - begun) * 100)
    return found
