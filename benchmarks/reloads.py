"""How long it takes from a swapped file to the new list at the kubelet, and how much of that is the agent's own.

A reload down begins with a look at who holds what, a reload up needs none, so both are measured in turn. The swap's
moment is random against the watcher's step. The agent's part is what it says itself of the reload: from the watcher's
wake-up to the list on the stream.
"""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.node import serving
from benchmarks.table import Row, percentile

_PHASE = 0.1
"""Seconds over which the moments of the swaps are spread: more than a step of the watcher."""


@dataclass(frozen=True, slots=True)
class Timed:
    """One reload, in seconds: from the swap to the list, and the agent's own part of it."""

    latency: float
    own: float


async def measure(*, quick: bool) -> list[Row]:
    """Rows for 80, 800 and 40,000 shares."""
    small = await _reloads(10, 4, times=16 if quick else 100)
    medium = await _reloads(100, 90, times=6 if quick else 30)
    large = await _reloads(5000, 4500, times=4 if quick else 10)
    latency = [timed.latency * 1000 for timed in small]
    return [
        Row("swap to list, 80 shares, p50", percentile(latency, 50), "ms", 100, f"{len(latency)} reloads 10 <-> 4"),
        Row("swap to list, 80 shares, p99", percentile(latency, 99), "ms", 250),
        _own(small, "80 shares"),
        _own(medium, "800 shares", promised=20),
        _own(large, "40,000 shares", promised=600),
    ]


def _own(reloads: Sequence[Timed], shares: str, promised: float | None = None) -> Row:
    values = [timed.own * 1000 for timed in reloads]
    fewer, more = statistics.median(values[0::2]), statistics.median(values[1::2])
    note = f"fewer {fewer:.0f}, more {more:.0f}, longest {max(values):.0f} ms"
    return Row(f"agent's part, {shares}, p50", statistics.median(values), "ms", promised, note)


async def _reloads(many: int, few: int, *, times: int) -> list[Timed]:
    found = []
    async with serving(many) as (node, agent):
        for number in range(times):
            replicas = many if number % 2 else few
            await asyncio.sleep(random.uniform(0, _PHASE))
            latency = await node.reload(replicas)
            found.append(Timed(latency, await agent.reload_seconds()))
    return found
