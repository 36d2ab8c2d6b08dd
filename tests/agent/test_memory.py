"""What the agent before has left is odd in one place: that place is lost, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nodeagent.durable.envelope import seal, unseal
from nodeagent.durable.formats import FORMATS
from tests.agent.documents import SHARED, shares, sharing, time_sliced
from tests.agent.harness import Node, uuid
from tests.waiting import eventually


def rewrite(file: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what stands in the applied contract, as one who can seal it."""
    header, body = unseal(FORMATS.applied, file.read_bytes())
    value = json.loads(body)
    change({entry["uuid"]: entry for entry in value["gpus"]})
    file.write_bytes(seal(FORMATS.applied, {"bootId": header["bootId"]}, json.dumps(value).encode()))


@pytest.mark.parametrize(
    "change",
    [{"health": "odd"}, {"numbers": "0-9999999"}, {"contract": {"mode": "quantum", "resource": "x"}}, {"index": None}],
    ids=["health", "numbers", "contract", "index"],
)
async def test_one_gpus_entry_cannot_be_read(change: dict[str, object]) -> None:
    """The shares of the others, and their verdicts, are as they were in every list; what pods have of that GPU is on
    each list too, from the first one on, and in the end it offers what Git wants.
    """
    async with Node(gpus=4) as node:
        node.commit(shares(4))
        first = await node.agent()
        await node.advertises({SHARED: 16})
        pods = await node.fill(1, 2)
        node.simulate(4, xids={2: [79]})
        await node.allocatable(12)
        before = node.kubelet.devices(SHARED)
        await first.stop()
        rewrite(node.state_dir / "applied.json", lambda gpus: gpus[uuid(1)].update(change))
        begun = node.kubelet.record.message_count

        agent = await node.agent()
        await eventually(lambda: node.kubelet.record.message_count > begun)
        await eventually(lambda: node.kubelet.devices(SHARED) == before)
        held = frozenset[str]().union(*(pod.ids() for pod in pods))
        others = {share: healthy for share, healthy in before.items() if not share.startswith(uuid(1))}
        for message in list(node.kubelet.record.messages)[begun - node.kubelet.record.message_count :]:
            assert others.items() <= message.devices.items()
            assert held <= message.healthy
        assert node.log.having("applied.json is not used as a whole: GPU ", uuid(1), "copied aside")
        assert (node.state_dir / "applied.json.corrupt-1").exists()
        assert agent.snapshot.applied.gpus[uuid(2)].xids

        await agent.stop()
        await node.agent()
        await node.allocatable(12)
        assert len(list(node.state_dir.glob("*.corrupt-*"))) == 1


@pytest.mark.parametrize("odd", ["2000000", "9999999999", "9" * 20, "007", "٣"])
async def test_an_id_that_is_no_share_of_ours(odd: str) -> None:
    """A pod has an id of a GPU of ours that no list of ours can have: the agent serves, keeps what it knows in files
    that the next one reads, and shows that one's list unchanged.
    """
    async with Node(gpus=2) as node:
        theirs = await node.foreign(SHARED)
        await theirs.register()
        strange = f"{uuid(0)}::{odd}"
        await theirs.send([strange])
        await node.allocatable(1)
        pod = await node.kubelet.admit("strange", containers={"main": {SHARED: 1}})
        assert pod.ids() == {strange}
        await theirs.send([], node.kubelet.devices(SHARED))
        await theirs.stop()

        node.commit(sharing(time_sliced(3)))
        agent = await node.agent()
        await node.advertises({SHARED: 6})
        await node.hold(2)
        await eventually(lambda: agent.snapshot.in_sync)
        await agent.stop()
        second = await node.agent()
        await node.advertises({SHARED: 6})
        await eventually(lambda: second.snapshot.in_sync)
        assert not list(node.state_dir.glob("*.corrupt-*"))
        assert not node.log.having("is not used")
        # The kubelet's auditor holds us to every id, as if the strange one had been ours to offer.
        assert all(strange in str(broken) for broken in node.kubelet.violations)
        node.kubelet.record.violations.clear()
