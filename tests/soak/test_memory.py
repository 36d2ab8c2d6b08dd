"""The agent reloads again and again."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.agent.documents import SHARED, shares
from tests.agent.harness import GPUS, Node, Process
from tests.conftest import Soak

WARM_UP = 100
"""Reloads until everything has been imported, every buffer has its size, and the allocator its arenas."""

BOUND = 2.0
"""MiB that memory may differ by after that, however many reloads follow: one arena of the allocator, and then some."""


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_memory_does_not_grow(soak: Soak, tell: Callable[[str], None]) -> None:
    """After a thousand reloads, scraped and looked at all along, the agent takes no more memory than after the first
    hundred, but for `BOUND`.
    """
    async with Node(history_limit=100) as node:
        node.commit(shares(10))
        agent = await node.process()
        await node.advertises({SHARED: 10 * GPUS}, within=30.0)
        await _reload(node, agent, WARM_UP)
        before = _own(agent)
        await _reload(node, agent, soak.times(1000))
        after = _own(agent)
    tell(f"{before:.1f} MiB, {soak.times(1000)} reloads later {after:.1f} MiB")
    assert after - before <= BOUND


async def _reload(node: Node, agent: Process, times: int) -> None:
    for number in range(times):
        replicas = 10 if number % 2 else 4
        node.commit(shares(replicas, comment=str(number)))
        await node.allocatable(replicas * GPUS, within=30.0)
        if number % 20 == 0:
            # Until the fenced shares have left the list; else they are restored.
            await node.advertises({SHARED: replicas * GPUS}, within=30.0)
            await agent.status()
            await agent.get("/metrics")


def _own(agent: Process) -> float:
    """MiB that are the process' own: pages of libraries count differently with every other process that maps them."""
    text = Path(f"/proc/{agent.process.pid}/smaps_rollup").read_text(encoding="ascii")
    found = re.search(r"^Anonymous: +(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024
