"""Changes of mode under one name, one after the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.agent.documents import SHARED, exclusive, sharing, time_sliced
from tests.agent.harness import Node
from tests.conftest import Soak
from tests.waiting import eventually


@pytest.mark.soak
@pytest.mark.timeout(1200)
async def test_the_name_never_has_no_device(soak: Soak, tell: Callable[[str], None]) -> None:
    """Twenty changes of eight free GPUs between sharing and whole ones: no list without devices of six GPUs."""
    times = soak.times(20)
    async with Node() as node:
        node.commit(sharing(time_sliced(10)))
        agent = await node.agent()
        await node.advertises({SHARED: 80})
        fewest = 8
        for number in range(times):
            before = node.kubelet.record.message_count
            node.commit(sharing(exclusive(SHARED) if number % 2 == 0 else time_sliced(10)))
            await node.advertises({SHARED: 8 if number % 2 == 0 else 80})
            await eventually(lambda: agent.snapshot.in_sync)
            messages = list(node.kubelet.record.messages)[before - node.kubelet.record.message_count :]
            gpus = (len({share.partition("::")[0] for share in message.healthy}) for message in messages)
            fewest = min(fewest, *gpus)
    tell(f"{times} changes: devices of {fewest} GPUs at least")
    assert fewest >= 6
