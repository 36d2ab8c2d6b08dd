"""Fewer shares than pods hold: who stays, who leaves, and when."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from nodeagent.sim.pods import AdmissionError
from tests.agent.documents import SHARED, shares, sharing, time_sliced, withheld
from tests.agent.harness import Node, gpu_of
from tests.waiting import eventually

GONE_WITHIN = 2.0
"""Seconds from the end of the last surplus pod to the list that Git wants: a promise of the product."""


async def test_held_shares_stay_and_nothing_new_lands() -> None:
    """Six of ten shares of a GPU are held when four are wanted: the six stay Healthy, no pod lands on that GPU, and
    2 s after the last of the surplus has ended the list has exactly four, the held ones among them.
    """
    async with Node(gpus=2) as node:
        node.commit(sharing(time_sliced(10, at=[0]), withheld()))
        agent = await node.agent()
        await node.advertises({SHARED: 10})
        pods = await node.hold(6)
        node.commit(sharing(time_sliced(10)))
        await node.advertises({SHARED: 20})

        node.commit(sharing(time_sliced(4)))
        await node.advertises({SHARED: 10})
        held = frozenset[str]().union(*(pod.ids() for pod in pods))
        assert node.of_gpu(0) == dict.fromkeys(sorted(held), True)
        assert agent.says("Draining").message == "2 held shares drain on GPU 0"
        assert await agent.metric("shares", resource=SHARED, state="draining") == 2

        late = [await node.kubelet.admit(f"late-{number}", containers={"main": {SHARED: 1}}) for number in range(4)]
        assert [gpu_of(pod) for pod in late] == [1, 1, 1, 1]
        with pytest.raises(AdmissionError, match="requested number of devices unavailable"):
            await node.hold(1)

        for pod in pods[:2]:
            await node.kubelet.end(pod)
        await node.advertises({SHARED: 8}, within=GONE_WITHIN)
        left = frozenset[str]().union(*(pod.ids() for pod in pods[2:]))
        assert node.of_gpu(0) == dict.fromkeys(sorted(left), True)
        await eventually(lambda: agent.snapshot.in_sync)
        await eventually(lambda: not agent.says("Draining").status)


async def test_a_drain_that_is_no_longer_wanted(node: Node) -> None:
    """Going back before the pods have left takes the fences off, and nothing has happened to anybody."""
    node.commit(shares(10))
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    await node.hold(48)
    before = node.kubelet.devices(SHARED)

    node.commit(shares(4))
    await node.allocatable(48)
    node.commit(shares(10))
    await node.advertises({SHARED: 80})

    assert node.kubelet.devices(SHARED) == before
    await eventually(lambda: not agent.says("Draining").status)


async def test_a_drain_that_lasts_too_long_is_stalled() -> None:
    """A drain beyond `transition.timeout` sets Stalled, which strict readiness minds, and kills nobody."""
    async with Node(gpus=1) as node:
        node.commit(shares(2))
        agent = await node.agent(strict_readiness=True)
        await node.advertises({SHARED: 2})
        pods = await node.hold(2)

        node.commit(sharing(time_sliced(1), transition={"timeout": "1500ms"}))
        await eventually(lambda: agent.says("Draining").status)
        await eventually(lambda: agent.says("Stalled").status)
        assert not await agent.ready()
        assert node.kubelet.devices(SHARED) == dict.fromkeys(node.kubelet.held(SHARED), True)

        await node.kubelet.end(pods[0])
        await eventually(agent.ready)
        assert not agent.says("Stalled").status


async def test_init_containers_count() -> None:
    """A share that only an init container has is held, though PodResources does not list it."""
    async with Node(gpus=1) as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 10})
        pods = [
            await node.kubelet.admit(f"init-{number}", init_containers={"fetch": {SHARED: 1}}) for number in range(3)
        ]
        held = frozenset[str]().union(*(pod.ids() for pod in pods))

        node.commit(shares(2))
        await node.advertises({SHARED: 3})
        assert node.kubelet.devices(SHARED).keys() == held
        assert agent.says("Draining").message == "1 held share drains on GPU 0"


@pytest.mark.parametrize("way", ["finished, not deleted", "an init container", "after a kubelet restart"])
async def test_a_drain_ends_with_the_cgroups_of_its_pods(way: str) -> None:
    """A pod whose cgroup has gone has ended, and what it had goes: though the kubelet goes on showing one that is not
    deleted, and does not show init containers. No `List` is needed.
    """
    async with Node(gpus=1) as node:
        cgroups = node.directory / "cgroups" / "kubepods"
        (cgroups / "burstable" / "podanother").mkdir(parents=True)
        node.commit(shares(3))
        agent = await node.agent()
        await node.advertises({SHARED: 3})
        share: dict[str, Mapping[str, int]] = {"c": {SHARED: 1}}
        containers, initials = ({}, share) if way == "an init container" else (share, {})
        pods = [
            await node.kubelet.admit(f"pod-{number}", containers=containers, init_containers=initials)
            for number in range(3)
        ]
        for pod in pods:
            (cgroups / f"pod{pod.uid}").mkdir()
        node.commit(shares(1))
        await eventually(lambda: agent.says("Draining").message == "2 held shares drain on GPU 0")
        if way == "after a kubelet restart":
            await node.kubelet.restart()
            await node.advertises({SHARED: 3})
        looks = node.kubelet.allocatable_calls
        await eventually(lambda: node.kubelet.allocatable_calls > looks + 2)
        lists = node.kubelet.lists
        for pod in pods:
            await node.kubelet.end(pod, stays=True)
            (cgroups / f"pod{pod.uid}").rmdir()
        await node.advertises({SHARED: 1})
        assert node.kubelet.lists == lists or way == "after a kubelet restart"
