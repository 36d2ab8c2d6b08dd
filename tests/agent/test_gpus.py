"""GPUs that fail, hang, vanish and come back: what the kubelet is told, and that the others never notice."""

from __future__ import annotations

import pytest

from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing, time_sliced, withheld
from tests.agent.harness import Node, uuid
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("health", "reason"), [("lost", "GpuLost"), ("hang", "GpuHangs"), ("gone", "GpuLost")], ids=lambda value: value
)
async def test_a_gpu_that_fails(node: Node, health: str, reason: str) -> None:
    """Shares of a GPU that is lost, hangs or is no longer listed turn Unhealthy, and none leaves the list; it shows as
    a condition and in the metrics; the other GPUs and their pods never notice; a GPU that is back is as before.
    """
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    pods = await node.hold(8)
    before = node.kubelet.devices(SHARED)

    if health == "gone":
        node.simulate(without=[2])
    else:
        node.simulate(health={2: health})
    await node.allocatable(28)

    assert node.kubelet.devices(SHARED).keys() == before.keys()
    assert set(node.of_gpu(2).values()) == {False}
    await eventually(lambda: agent.says("InventoryReady").reason == reason)
    assert not agent.says("InventoryReady").status
    assert await agent.metric("gpu_healthy", uuid=uuid(2)) == 0
    assert await agent.metric("gpu_healthy", uuid=uuid(3)) == 1
    assert await agent.metric("shares", resource=SHARED, state="unhealthy") == 4
    assert await agent.metric("drift", kind="hardware") == 1
    assert await agent.ready()

    node.commit(shares(5))
    await node.allocatable(35)
    node.commit(shares(4))
    await node.allocatable(28)

    node.simulate()
    await node.advertises({SHARED: 32})
    await eventually(lambda: agent.says("InventoryReady").status)
    assert frozenset[str]().union(*(pod.ids() for pod in pods)) == node.kubelet.held(SHARED)
    assert node.kubelet.streams_ended == []


async def test_rules_by_index_keep_their_gpus(node: Node) -> None:
    """A GPU that drops out moves the indices of those behind it, and a rule by index goes on meaning the same GPU, also
    for an agent that starts while the GPU is missing.
    """
    node.commit(sharing(time_sliced(2, at=[0, 1]), withheld(at=[3]), exclusive()))
    agent = await node.agent()
    await node.advertises({SHARED: 4, GPU: 5})
    before = node.kubelet.devices(GPU)
    assert before.keys() == {uuid(2), uuid(4), uuid(5), uuid(6), uuid(7)}

    node.simulate(without=[1])
    await node.allocatable(2)
    assert node.kubelet.devices(GPU) == before

    node.commit(sharing(time_sliced(2, at=[0, 1, 2]), withheld(at=[3]), exclusive()))
    await node.allocatable(4)
    await node.allocatable(4, GPU)
    assert set(node.of_gpu(2)) == {f"{uuid(2)}::0", f"{uuid(2)}::1"}

    await agent.stop()
    agent = await node.agent()
    await node.allocatable(4)
    await node.allocatable(4, GPU)
    assert set(node.of_gpu(2)) == {f"{uuid(2)}::0", f"{uuid(2)}::1"}
    assert node.of_gpu(1) == dict.fromkeys((f"{uuid(1)}::0", f"{uuid(1)}::1"), False)
    assert node.of_gpu(3) == node.of_gpu(3, GPU) == {}

    node.simulate()
    await node.advertises({SHARED: 6, GPU: 4})
    await eventually(lambda: agent.snapshot.in_sync)


async def test_a_new_gpu_is_used(node: Node) -> None:
    """A GPU that appears while the agent runs is what its rule says."""
    node.simulate(1)
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 4})

    node.simulate(2)
    await node.advertises({SHARED: 8})
    await eventually(lambda: agent.snapshot.in_sync)


async def test_a_missing_driver(node: Node) -> None:
    """Without a driver the agent starts, is not ready and says why, and picks the GPUs up when there is one."""
    node.simulation.unlink()
    node.commit(shares(4))
    agent = await node.agent()
    await eventually(lambda: agent.says("InventoryReady").reason == "DriverMissing")
    await eventually(lambda: agent.says("ConfigAccepted").status)
    assert not await agent.ready()
    assert await agent.live()
    assert await agent.metric("condition", type="InventoryReady", reason="DriverMissing") == 0
    assert node.kubelet.registrations == []

    node.simulate()
    await node.advertises({SHARED: 32})
    await eventually(agent.ready)
    assert agent.says("InventoryReady").status


async def test_a_bad_simulation_file_keeps_the_last_inventory(node: Node) -> None:
    """A simulation file that turns bad is shown, and no GPU is taken for lost."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    sent = node.kubelet.record.message_count

    node.write(node.simulation, b"gpus: 7\n")
    await eventually(lambda: agent.says("InventoryReady").reason == "InvalidFile")
    assert "node.yaml:1:" in agent.says("InventoryReady").message
    assert await agent.ready()
    assert node.kubelet.record.message_count == sent
