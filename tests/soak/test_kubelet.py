"""The kubelet restarts again and again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from tests.agent.documents import GPU, SHARED, exclusive, sharing, time_sliced
from tests.agent.harness import Node
from tests.conftest import Soak

COUNTS = {SHARED: 60, GPU: 2}
WITHIN = 1.0


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_restarted_again_and_again(soak: Soak, rng: random.Random, tell: Callable[[str], None]) -> None:
    """After each restart of the kubelet every resource is registered again exactly once, within a second, and the lists
    are the same as before.
    """
    times = soak.times(50)
    longest = 0.0
    async with Node() as node:
        node.commit(sharing(exclusive(at=[0, 1]), time_sliced(10)))
        await node.process()
        await node.advertises(COUNTS, within=30.0)
        await node.hold(5)
        lists = {resource: node.kubelet.devices(resource) for resource in COUNTS}

        for _ in range(times):
            before = node.kubelet.record.registration_count
            await node.kubelet.restart(down_for=rng.choice((0.0, rng.uniform(0.0, 0.5))))
            begun = time.monotonic()
            await node.advertises(COUNTS)
            assert {resource: node.kubelet.devices(resource) for resource in COUNTS} == lists
            # Whoever registered twice would do so about now.
            await asyncio.sleep(rng.uniform(0.0, 1.5))
            records = node.kubelet.registrations[before:]
            assert Counter(record.resource for record in records) == dict.fromkeys(COUNTS, 1)
            assert not any(record.over_live_stream or record.error for record in records)
            longest = max(longest, *(record.at - begun for record in records))

    tell(f"{times} restarts: registered again within {longest:.3f} s")
    assert longest <= WITHIN
