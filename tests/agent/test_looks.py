"""How the agent looks at the kubelet: seldom by `List`, and no share is lost or late for that."""

from __future__ import annotations

import asyncio

import pytest

from nodeagent.kubelet import names
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pods import Pod
from nodeagent.state import looks
from nodeagent.state.schedule import LOOK_SELDOM
from tests.agent.documents import SHARED, shares
from tests.agent.harness import Node
from tests.sim.test_pod_resources import Client
from tests.waiting import eventually

GONE_WITHIN = 8.0
"""Seconds from the end of a pod to a list without its share, also on a busy machine."""


async def _ends(node: Node, pod: Pod, left: int) -> None:
    """A pod ends, and its share leaves the list in time."""
    await node.kubelet.end(pod)
    await node.advertises({SHARED: left}, within=GONE_WITHIN)


async def test_a_drain_costs_one_list(node: Node) -> None:
    """By it the pods are known: their ends, later or at once, are seen by `Get`."""
    node.simulate(1)
    node.commit(shares(6))
    agent = await node.agent()
    await node.advertises({SHARED: 6})
    pods = await node.hold(4)
    await eventually(lambda: all(share.holder for share in agent.snapshot.gpus[0].shares if share.held))
    before = node.kubelet.lists
    node.commit(shares(1))
    await node.advertises({SHARED: 4})
    for left, pod in ((3, pods[0]), (2, pods[3]), (1, pods[1])):
        await _ends(node, pod, left)
    await eventually(lambda: agent.snapshot.in_sync)
    assert node.kubelet.lists == before + 1
    assert await agent.metric("pod_resources_calls_total", call="list", result="ok") == node.kubelet.lists
    assert await agent.metric("pod_resources_lists_without_window_total") == 0


async def test_more_shares_cost_no_list(node: Node) -> None:
    """What takes nothing away asks for nobody."""
    node.commit(shares(2))
    await node.agent()
    await node.advertises({SHARED: 16})
    for count in (3, 4, 5):
        node.commit(shares(count))
        await node.advertises({SHARED: 8 * count})
    assert node.kubelet.lists == 1


async def test_a_pod_that_comes_while_its_gpu_drains_is_named_once(node: Node) -> None:
    """Then its end is seen as soon as that of all others."""
    node.simulate(1)
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 4})
    pods = await node.hold(3)
    node.commit(shares(2))
    await node.advertises({SHARED: 3})
    await node.kubelet.end(pods[0])
    (late,) = await node.hold(
        1, prefix="late"
    )  # before anybody has seen that this share is free: it is handed out again
    held = {pod.ids() for pod in (*pods[1:], late)}
    await eventually(lambda: any(one.holder and "late" in one.holder for one in agent.snapshot.gpus[0].shares))
    lists = node.kubelet.lists
    assert len(held) == 3
    await _ends(node, late, 2)
    assert node.kubelet.lists == lists


async def test_a_pod_that_ends_before_it_has_a_name_does_not_hold_up_a_drain(node: Node) -> None:
    """The checkpoint would keep it until the next admission, which may be tomorrow's."""
    node.simulate(1)
    node.commit(shares(4))
    await node.agent()
    await node.advertises({SHARED: 4})
    pods = await node.hold(4)
    node.commit(shares(2))
    await eventually(lambda: node.kubelet.lists >= 2)
    await node.looked()
    await node.kubelet.end(pods[0])
    (short,) = await node.hold(1, prefix="short")
    await node.kubelet.end(short)
    await node.advertises({SHARED: 3}, within=20.0)
    await node.kubelet.end(pods[1])
    await node.advertises({SHARED: 2}, within=GONE_WITHIN)


@pytest.mark.parametrize("gets_finished", [True, False])
async def test_a_pod_that_has_finished_and_stays_holds_up_no_drain(
    monkeypatch: pytest.MonkeyPatch, gets_finished: bool
) -> None:
    """As a Job's does. Where the kubelet's `Get` still shows it, the next `List` does not."""
    monkeypatch.setattr(looks, "LIST_SELDOM", 2.0)
    async with Node(gpus=1, gets_finished=gets_finished) as node:
        node.commit(shares(4))
        agent = await node.agent()
        await node.advertises({SHARED: 4})
        pods = await node.hold(4)
        await eventually(lambda: all(share.holder for share in agent.snapshot.gpus[0].shares))
        node.commit(shares(1))
        await eventually(lambda: agent.says("Draining").status)
        for pod in pods[:3]:
            await node.kubelet.end(pod, stays=True)
        await node.advertises({SHARED: 1}, within=GONE_WITHIN)
        await eventually(lambda: agent.snapshot.in_sync)
        assert await agent.metric("pod_resources_lists_without_window_total") == 0


async def test_an_old_kubelet_is_looked_at_as_always() -> None:
    """Before 1.34 there is no `Get`: every look is a `List`, every half second while something drains."""
    async with Node(gpus=1, serves_get=False) as node:
        node.commit(shares(4))
        agent = await node.agent()
        await node.advertises({SHARED: 4})
        pods = await node.hold(3)
        node.commit(shares(1))
        await node.advertises({SHARED: 3})
        lists = node.kubelet.lists
        await eventually(lambda: node.kubelet.lists > lists + 2)
        await _ends(node, pods[0], 2)
        await _ends(node, pods[1], 1)
        await eventually(lambda: agent.snapshot.in_sync)
        assert await agent.metric("pod_resources_calls_total", call="get", result="not_served") == 1


async def test_a_list_that_finds_no_quiet_window_goes_all_the_same(node: Node) -> None:
    """Where one pod is admitted after the other a reload takes some seconds longer, which is counted; it goes when the
    kubelet has one pod's devices in its books and has not chosen the next one's.
    """
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})

    admitted, meanwhile = 0, 0

    async def slow() -> None:
        nonlocal meanwhile
        before = node.kubelet.lists
        await asyncio.sleep(0.3)  # a device is chosen, and its Allocate is still to come
        meanwhile += node.kubelet.lists - before

    async def one_after_the_other() -> None:
        nonlocal admitted
        while True:
            (pod,) = await node.hold(1, prefix=f"busy-{admitted}")
            await node.kubelet.end(pod)
            admitted += 1
            await asyncio.sleep(0.06)

    node.kubelet.hooks.before_allocate = slow
    admissions = asyncio.create_task(one_after_the_other())
    await eventually(lambda: admitted > 1)
    node.commit(shares(2))

    async def counted() -> bool:
        return bool(await agent.metric("pod_resources_lists_without_window_total"))

    await eventually(counted, within=20.0)
    admissions.cancel()
    await asyncio.gather(admissions, return_exceptions=True)
    assert meanwhile == 0
    await node.advertises({SHARED: 16}, within=20.0)


async def _handed_out_twice(kubelet: StandInKubelet, node: Node) -> list[Pod]:
    """Somebody calls `List` while a share is being allocated: two pods have it."""
    (gone,) = await node.hold(1, prefix="gone")

    async def others_list() -> None:
        kubelet.hooks.before_allocate = None
        await kubelet.end(gone)
        await Client(kubelet).list()

    kubelet.hooks.before_allocate = others_list
    pods = await node.hold(3, prefix="both")
    return [pod for pod in pods if sum(pod.ids() == other.ids() for other in pods) == 2]


async def test_a_share_that_two_pods_have_is_reported(node: Node) -> None:
    """By a condition with both names and by a metric, until one of them has ended."""
    node.simulate(1)
    node.commit(shares(2))
    agent = await node.agent()
    await node.advertises({SHARED: 2})
    first, second = await _handed_out_twice(node.kubelet, node)
    await eventually(lambda: agent.says("SharedTwice").status)
    assert f"default/{first.name} and default/{second.name}" in agent.says("SharedTwice").message
    assert await agent.metric("shares_handed_out_twice", resource=SHARED) == 1
    assert node.log.having("SharedTwice is True")
    await node.kubelet.end(first)
    await eventually(lambda: not agent.says("SharedTwice").status, within=40.0)
    assert await agent.metric("shares_handed_out_twice", resource=SHARED) == 0


@pytest.mark.parametrize("down_for", [0.0, 0.5])
async def test_a_drain_goes_on_over_a_restart_of_the_kubelet(node: Node, down_for: float) -> None:
    """One `List` names the pods for the new kubelet, and what ended meanwhile is swept out."""
    node.simulate(1)
    node.kubelet.pods_after = 0.3
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 4})
    pods = await node.hold(4)
    node.commit(shares(1))
    await eventually(lambda: agent.says("Draining").status)
    await node.kubelet.stop()
    await node.kubelet.end(pods[0])
    await node.kubelet.restart(down_for=down_for)
    await node.advertises({SHARED: 3}, within=15.0)
    await _ends(node, pods[1], 2)
    await _ends(node, pods[2], 1)
    assert (node.kubelet.device_plugins / names.CHECKPOINT).exists()


async def test_a_pod_that_ends_before_it_has_a_name_is_not_held_for_long(node: Node) -> None:
    """Also where nothing drains and no pod follows: what is reported as held is."""
    node.simulate(1)
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 4})
    for pod in await node.hold(3):
        await node.kubelet.end(pod)
    await eventually(lambda: sum(share.held for share in agent.snapshot.gpus[0].shares) == 3)
    await eventually(lambda: not any(share.held for share in agent.snapshot.gpus[0].shares))


async def test_a_pod_that_ends_while_nothing_drains_is_seen_at_the_next_look(node: Node) -> None:
    """Looks are seldom then, and each asks for every pod."""
    node.simulate(1)
    node.commit(shares(2))
    agent = await node.agent()
    await node.advertises({SHARED: 2})
    (pod,) = await node.hold(1)
    await eventually(lambda: agent.snapshot.gpus[0].shares[0].holder or agent.snapshot.gpus[0].shares[1].holder)
    await node.kubelet.end(pod)
    await eventually(lambda: not any(share.held for share in agent.snapshot.gpus[0].shares), within=LOOK_SELDOM + 10)
