"""A node that has everything to tell of in its metrics: GPUs of two modes, pods, a drain, refused requests, a document
that it rejects, and a GPU that has failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import pytest

from nodeagent.sim.pods import AdmissionError
from tests.agent.documents import MPS, SHARED, mps, sharing, time_sliced
from tests.agent.harness import InProcess, uuid
from tests.agent.mps_node import MpsNode
from tests.waiting import eventually

POOL = "a100-inference"
UNDER_MPS = 2
SICK = 6
"""The index of the GPU that fails."""

WITHIN = 60.0
"""Seconds. These tests are about what an agent says, and not about how soon: they may run on a machine that is busy."""


@asynccontextmanager
async def busy_agent(control: Path) -> AsyncIterator[tuple[MpsNode, InProcess]]:
    """An agent that is in sync, with a GPU under MPS and pods on shares of both modes. `control`: see `MpsNode`."""
    async with MpsNode(control) as node:
        node.commit(document(10), revision="r1")
        await node.host()
        agent = await node.agent(pool=POOL)
        await node.advertises({SHARED: 70, MPS: 4}, within=WITHIN)
        await node.hold(1, MPS, prefix="client")
        await node.fill(0, 4)
        await eventually(lambda: agent.snapshot.in_sync, WITHIN)
        yield node, agent


async def trouble(node: MpsNode, agent: InProcess) -> None:
    """Have a GPU fail, shares drain, a pod refused, and a document rejected."""
    node.simulate(xids={SICK: [79]})
    await eventually(lambda: agent.snapshot.applied.gpus[uuid(SICK)].xids, WITHIN)
    node.commit(document(2), revision="r2")
    await eventually(lambda: agent.says("Draining").status, WITHIN)
    with pytest.raises(AdmissionError, match="maxSharesPerContainer"):
        await node.kubelet.admit("greedy", containers={"main": {MPS: 2}})
    node.commit(b"spec: {rules: []}\n", revision="r3")
    await eventually(lambda: not agent.says("ConfigAccepted").status, WITHIN)


def document(replicas: int) -> bytes:
    """One GPU under MPS, the others time-sliced by so many."""
    return sharing(mps(4, "9Gi", 25, at=[UNDER_MPS]), time_sliced(replicas))


@cache
def pages(control: Path) -> tuple[str, str]:
    """What such an agent serves at /metrics, in sync and in trouble."""

    async def collect() -> tuple[str, str]:
        async with busy_agent(control) as (node, agent):
            before = (await agent.get("/metrics")).body.decode()
            await trouble(node, agent)
            return before, (await agent.get("/metrics")).body.decode()

    return asyncio.run(collect())
