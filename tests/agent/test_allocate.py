"""What a pod gets, and what it is refused with which words."""

from __future__ import annotations

import pytest

from nodeagent.sim.plugins import PluginClient, PluginError
from nodeagent.sim.pods import AdmissionError
from tests.agent.documents import GPU, SHARED, exclusive, sharing, time_sliced
from tests.agent.harness import Node, uuid
from tests.waiting import eventually


def client(node: Node, resource: str) -> PluginClient:
    """A kubelet's connection to the agent's endpoint of a resource."""
    endpoint = next(message.endpoint for message in reversed(node.kubelet.history) if message.resource == resource)
    return PluginClient(resource, node.kubelet.device_plugins / endpoint)


async def test_a_pod_sees_its_gpus(node: Node) -> None:
    """NVIDIA_VISIBLE_DEVICES names the GPUs of a container's shares, each once, by uuid and in the order of their
    indices; shares spread over the GPUs, whole GPUs come lowest index first.
    """
    node.commit(sharing(time_sliced(4, at=[0, 1]), exclusive()))
    agent = await node.agent()
    await node.advertises({SHARED: 8, GPU: 6})

    async def visible(count: int, resource: str) -> str:
        pod = await node.kubelet.admit("pod", containers={"main": {resource: count}})
        return pod.envs("main")["NVIDIA_VISIBLE_DEVICES"]

    assert await visible(1, SHARED) == uuid(0)
    assert await visible(1, SHARED) == uuid(1)
    assert await visible(3, SHARED) == f"{uuid(0)},{uuid(1)}"
    assert await visible(1, GPU) == uuid(2)
    assert await visible(2, GPU) == f"{uuid(3)},{uuid(4)}"
    assert await agent.metric("allocations_total", resource=SHARED, result="ok") == 3
    assert await agent.metric("allocation_duration_seconds_count", resource=GPU) == 2


async def test_too_many_shares_for_one_container(node: Node) -> None:
    """A container that asks for more than `maxSharesPerContainer` is told the limit and what to ask for; the limit
    follows the config, and concerns no share that was given before.
    """
    node.commit(sharing(time_sliced(4)))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    await node.hold(1, each=2)
    sent = node.kubelet.record.message_count

    node.commit(sharing(time_sliced(4, most=1)))
    await eventually(lambda: agent.snapshot.config.observed_generation == 2)
    with pytest.raises(AdmissionError) as refused:
        await node.hold(1, each=2)
    assert (
        "cannot allocate 2 shares of nvidia.com/gpu.shared to one container: at most 1 allowed "
        "(maxSharesPerContainer); request nvidia.com/gpu.shared: 1"
    ) in str(refused.value)
    await node.hold(1)
    assert await agent.metric("allocations_total", resource=SHARED, result="too_many") == 1
    assert node.kubelet.record.message_count == sent


@pytest.mark.parametrize(
    ("id_", "code"),
    [
        (f"{uuid(0)}::4", "NotFound"),
        (f"{uuid(0)}", "NotFound"),
        (f"{uuid(0)}::x", "NotFound"),
        ("GPU-0::0", "NotFound"),
        ("", "NotFound"),
        (f"{uuid(7)}::0", "FailedPrecondition"),
    ],
    ids=["number beyond", "whole", "no number", "other GPU", "empty", "lost GPU"],
)
async def test_ids_that_cannot_be_given(node: Node, id_: str, code: str) -> None:
    """An id that is not on the list, or whose GPU is lost, is refused with a status that says so and names it."""
    node.simulate(health={7: "lost"})
    node.commit(sharing(time_sliced(4)))
    await node.agent()
    await node.allocatable(28)
    plugin = client(node, SHARED)
    try:
        with pytest.raises(PluginError, match=rf"code = {code} desc = cannot allocate {id_}:"):
            await plugin.allocate([id_])
        with pytest.raises(PluginError, match=f"code = {code}"):
            await plugin.allocate([f"{uuid(0)}::0", id_])
        assert (await plugin.allocate([f"{uuid(0)}::0"])).envs == {"NVIDIA_VISIBLE_DEVICES": uuid(0)}
    finally:
        await plugin.close()
