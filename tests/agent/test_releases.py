"""An upgrade and its rollback on a node: real agents of the release before this one and of this one, in turn.

Each finds what the other has left, and nobody notices: nothing is set aside, nothing is withdrawn, and what is
remembered (numbers, holds, drains, verdicts, the last known good config) is what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.agent.documents import GPU, MPS, SHARED, exclusive, mps, sharing, time_sliced
from tests.agent.harness import Node, Process, uuid
from tests.agent.mps_node import MpsNode
from tests.waiting import eventually

SPARE = "nvidia.com/gpu.spare"
BAD = b"kind: [\n"


def config(replicas: int, others: int = 10) -> bytes:
    """So many shares of GPU 0 and of GPU 1, GPU 2 as a whole, and a GPU for another name."""
    return sharing(
        time_sliced(replicas, at=[0], most=2),
        time_sliced(others, at=[1], most=2),
        exclusive(at=[2]),
        time_sliced(3, SPARE, at=[3]),
    )


async def memory(agent: Process) -> dict[str, Any]:
    """What an agent knows of each GPU, in the words that both releases have."""
    status = await agent.status()
    known = ("resource", "mode", "numbers", "fenced", "maxSharesPerContainer", "xids", "driverLoad")
    gpus = {
        gpu["uuid"]: {
            "index": gpu["index"],
            "applied": {key: gpu["applied"].get(key) for key in known},
            "held": sorted(share["id"] for share in gpu["shares"] if share["held"]),
        }
        for gpu in status["gpus"]
    }
    return {**gpus, "drains": {resource["resource"]: resource["drainingSince"] for resource in status["resources"]}}


async def takes_over(node: Node, old: Process, new: Path | None, *, kill: bool) -> Process:
    """End an agent, start the next one, and demand that nothing has changed: for the kubelet nor for itself."""
    before = await eventually(lambda: settled(node, old))
    seen = {resource: node.kubelet.devices(resource) for resource in node.kubelet.resources()}
    await (old.kill() if kill else old.stop())
    begun = node.kubelet.record.message_count
    agent = await node.process(release=new)
    await node_is(node, agent, before, seen)
    for message in list(node.kubelet.record.messages)[begun - node.kubelet.record.message_count :]:
        assert message.devices == seen[message.resource], f"what was shown of {message.resource} changed"
    assert not list(node.state_dir.glob("*.corrupt-*"))
    assert "is not used" not in agent.log
    return agent


async def settled(node: Node, agent: Process) -> dict[str, Any]:
    """What an agent knows, once it knows who has what, and only pods are waited for."""
    found = await memory(agent)
    assert not (await agent.status())["plan"]["actions"], "what the kubelet shall see is still on its way"
    gpus = [known for name, known in found.items() if name != "drains"]
    assert not any(known["applied"]["fenced"] for known in gpus)
    held = [node.kubelet.held(resource) for resource in node.kubelet.resources()]
    assert {share for known in gpus for share in known["held"]} == frozenset[str]().union(*held)
    return found


async def node_is(node: Node, agent: Process, before: dict[str, Any], seen: dict[str, Mapping[str, bool]]) -> None:
    """Wait until an agent knows and shows this."""

    async def so() -> bool:
        assert {resource: node.kubelet.devices(resource) for resource in node.kubelet.resources()} == seen
        assert await memory(agent) == before
        return (await agent.condition("PodResourcesReady"))[0]

    await eventually(so)


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
async def test_an_upgrade_and_its_rollback(release_before: Path, kill: bool) -> None:
    """A drain under way, a whole GPU that a pod has, a GPU with an XID, and a config that is only remembered."""
    async with Node(gpus=4) as node:
        node.commit(config(10))
        old = await node.process(release=release_before)
        await node.advertises({SHARED: 20, GPU: 1, SPARE: 3})
        pods = await node.fill(0, 6)
        await node.hold(1, GPU, prefix="whole")
        node.simulate(4, xids={3: [79]})
        await node.allocatable(0, SPARE)
        node.commit(config(4))
        await node.allocatable(16)
        node.commit(BAD)
        await eventually(lambda: rejected(old))

        new = await takes_over(node, old, None, kill=kill)
        assert (await new.condition("ServingLastKnownGood"))[0]
        await eventually(lambda: drains(new, "2 held shares drain on GPU 0"))
        assert (await memory(new))[uuid(3)]["applied"]["xids"][0]["xid"] == 79

        node.commit(config(5, others=12))
        await node.kubelet.end(pods[0])
        await node.allocatable(17, within=45.0)
        await eventually(lambda: nothing_drains(new))
        node.commit(config(3, others=12))
        await eventually(lambda: drains(new, "2 held shares drain on GPU 0"))
        node.commit(BAD)
        await eventually(lambda: rejected(new))

        back = await takes_over(node, new, release_before, kill=kill)
        assert (await back.condition("ServingLastKnownGood"))[0]
        await eventually(lambda: drains(back, "2 held shares drain on GPU 0"))

        node.commit(config(5, others=9))
        await node.allocatable(14, within=45.0)


async def drains(agent: Process, what: str) -> bool:
    """Whether an agent says so."""
    message = (await agent.condition("Draining"))[2]
    assert message == what
    return True


async def nothing_drains(agent: Process) -> bool:
    """Whether an agent says that no pod has what is no longer wanted."""
    return not (await agent.condition("Draining"))[0]


async def rejected(agent: Process) -> bool:
    """Whether the newest document is none."""
    return not (await agent.condition("ConfigAccepted"))[0]


HOSTS = {"old host": (True, False), "new host": (False, True)}


@pytest.mark.parametrize(("old_host", "old_agent"), HOSTS.values(), ids=HOSTS)
async def test_agent_and_host_of_different_releases(
    mps_control: Path, release_before: Path, old_host: bool, old_agent: bool
) -> None:
    """An agent and an MPS host of which one is a release older: daemons start, are verified, and leave, and an agent of
    the other release takes over without a word.
    """
    host, agent = (release_before if old else None for old in (old_host, old_agent))
    async with MpsNode(mps_control, gpus=3) as node:
        node.commit(sharing(mps(4, "9Gi", 25, at=[0]), time_sliced(2)))
        await node.host(release=host)
        first = await node.process(release=agent)
        await node.advertises({MPS: 4, SHARED: 4})
        (pod,) = await node.hold(1, MPS)
        before = await node.runs(0)
        assert await node.has(0, 9 * 1024, 25)

        second = await takes_over(node, first, None if old_agent else release_before, kill=True)
        node.commit(sharing(mps(4, "9Gi", 25, at=[0, 1]), time_sliced(2)))
        await node.advertises({MPS: 8, SHARED: 2}, within=45.0)
        both = await node.runs(0, 1)
        assert both[0] == before[0]

        await takes_over(node, second, agent, kill=False)
        node.commit(sharing(mps(4, "9Gi", 25, at=[0]), time_sliced(2)))
        await node.advertises({MPS: 4, SHARED: 4}, within=45.0)
        assert await node.runs(0) == before
        assert pod.active
        assert node.compute_modes()[0] == "exclusive-process"


@pytest.mark.parametrize("back", [False, True], ids=["upgrade", "rollback"])
async def test_a_host_of_another_release_takes_over(mps_control: Path, release_before: Path, back: bool) -> None:
    """A daemon outlives the change of its host in either direction, with its process and its limits; its pods' shares
    are never Unhealthy for the agent, which goes on.
    """
    first, second = (None, release_before) if back else (release_before, None)
    async with MpsNode(mps_control, gpus=2) as node:
        node.commit(sharing(mps(4, "9Gi", 25, at=[0]), time_sliced(2)))
        host = await node.host(release=first)
        await node.process()
        await node.advertises({MPS: 4, SHARED: 2})
        await node.hold(1, MPS)
        before = await node.runs(0)
        begun = node.kubelet.record.message_count

        await host.stop()
        await node.host(release=second)
        await eventually(lambda: node.observed().host_pid not in {0, host.process.pid})
        node.commit(sharing(mps(4, "9Gi", 25, at=[0, 1])))
        await node.advertises({MPS: 8, SHARED: 0}, within=45.0)
        assert (await node.runs(0, 1))[0] == before[0]
        for message in list(node.kubelet.record.messages)[begun - node.kubelet.record.message_count :]:
            assert all(healthy for id_, healthy in message.devices.items() if id_.startswith(uuid(0)))
        assert not list(node.layout.root.glob("**/*.corrupt-*"))
