"""MIG devices in a whole agent: offered by their profiles, followed while instances come and go under running pods."""

from __future__ import annotations

import json

from tests.agent.documents import GPU, Rule, exclusive, sharing, time_sliced, withheld
from tests.agent.harness import Node, uuid
from tests.waiting import eventually

SMALL, MIDDLE, LARGE = (f"nvidia.com/mig-{profile}" for profile in ("1g.10gb", "2g.20gb", "3g.40gb"))
SHARES = "nvidia.com/mig-1g.10gb.shared"
PARTITION = {0: ["1g.10gb"] * 7, 1: ["3g.40gb", "2g.20gb", "2g.20gb"]}


async def test_profiles_beside_whole_gpus(node: Node) -> None:
    """Each profile has a resource, GPUs without MIG are as ever, and a pod gets the MIG device that it asked for."""
    node.simulate(mig=PARTITION)
    node.commit(sharing(exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 6, SMALL: 7, MIDDLE: 2, LARGE: 1})
    pod = await node.kubelet.admit("p", containers={"main": {LARGE: 1}})
    (id_,) = pod.ids()
    assert id_.startswith("MIG-")
    assert pod.envs("main")["NVIDIA_VISIBLE_DEVICES"] == id_
    status = await agent.status()
    names = [gpu["label"] for gpu in status["gpus"] if gpu["mig"] or gpu["migEnabled"]]
    assert [name for name in names if ":" not in name] == ["0", "1"]
    assert len(names) == 12
    assert status["inSync"]


async def test_time_slices_of_mig_devices(node: Node) -> None:
    """A rule for a profile shares its devices; the others are as they were, and no stream ends."""
    node.simulate(mig=PARTITION)
    node.commit(sharing(exclusive()))
    await node.agent()
    await node.advertises({GPU: 6, SMALL: 7, MIDDLE: 2, LARGE: 1})
    rule: Rule = {"name": "slices", "match": {"mig": ["1g.*"]}, "resource": SHARES, "timeSlicing": {"replicas": 4}}
    node.commit(sharing(rule, exclusive()))
    await eventually(lambda: node.kubelet.allocatable(SHARES) == 28)
    await eventually(lambda: node.kubelet.allocatable(SMALL) == 0)
    assert node.kubelet.allocatable(MIDDLE) == 2
    assert {id_.partition("::")[2] for id_ in node.kubelet.devices(SHARES)} == {"0", "1", "2", "3"}


async def test_a_gpu_is_repartitioned_under_a_pod(node: Node) -> None:
    """What the pod has stays listed, Unhealthy, until it ends; new instances are offered at once, and those that stay
    are not touched. An agent that starts meanwhile does the same.
    """
    node.simulate(mig={0: ["1g.10gb", "1g.10gb"]})
    node.commit(sharing(exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 7, SMALL: 2})
    pod = await node.kubelet.admit("p", containers={"main": {SMALL: 1}})
    other = next(id_ for id_ in node.kubelet.devices(SMALL) if id_ not in pod.ids())
    # The first of a profile goes on being the first: what is taken away must be the pod's.
    first = min(node.kubelet.devices(SMALL), key=lambda id_: id_ == other)
    assert first in pod.ids()

    node.simulate(mig={0: ["3g.40gb"]})
    await eventually(lambda: node.kubelet.allocatable(LARGE) == 1)
    await eventually(lambda: node.kubelet.devices(SMALL) == {first: False})
    assert not agent.says("Stalled").status
    assert agent.says("InventoryReady").status

    await agent.stop()
    agent = await node.agent()
    await eventually(lambda: node.kubelet.devices(LARGE) != {} and node.kubelet.devices(SMALL) == {first: False})
    await node.kubelet.end(pod)
    await eventually(lambda: SMALL not in node.kubelet.resources() or node.kubelet.devices(SMALL) == {})
    assert node.kubelet.allocatable(LARGE) == 1


async def test_mig_without_devices(node: Node) -> None:
    """A condition says so; the other GPUs are offered, and the devices as soon as there are some."""
    node.simulate(mig={3: []})
    node.commit(sharing(exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 7})
    condition = agent.says("InventoryReady")
    assert (condition.status, condition.reason) == (False, "NoMigDevices")
    assert condition.message.startswith("GPU 3: ")
    assert await agent.ready()

    node.commit(sharing(withheld(at=[3]), exclusive()))
    await eventually(lambda: agent.says("InventoryReady").status)
    node.commit(sharing(exclusive()))
    node.simulate(mig={3: ["1g.10gb"]})
    await node.advertises({GPU: 7, SMALL: 1})
    assert agent.says("InventoryReady").status


async def test_one_name_for_everything_is_refused(node: Node) -> None:
    """NVIDIA's strategy `single` on a node that is not uniform is rejected, names the odd ones, and changes nothing; on
    one that is, MIG devices bear the name of whole GPUs.
    """
    node.simulate(2, mig={0: ["1g.10gb"] * 2, 1: ["1g.10gb", "2g.20gb"]})
    node.commit(sharing(exclusive()))
    agent = await node.agent()
    await node.advertises({SMALL: 3, MIDDLE: 1})
    node.commit(json.dumps({"version": "v1", "flags": {"migStrategy": "single"}}).encode())
    await eventually(lambda: agent.says("ConfigAccepted").reason == "SemanticError")
    assert "2g.20gb on MIG device 1:" in agent.says("ConfigAccepted").message
    await node.advertises({SMALL: 3, MIDDLE: 1})

    node.simulate(2, mig={0: ["1g.10gb"] * 2, 1: ["1g.10gb"] * 2})
    await eventually(lambda: node.kubelet.allocatable(GPU) == 4)
    assert agent.says("ConfigAccepted").status


async def test_hardware_that_the_config_in_force_does_not_fit(node: Node) -> None:
    """Where the mounted document is gone, so that nobody else says so, the accepted one is told to be at odds with the
    GPUs, and what is applied is kept; on GPUs that fit it, it is applied again.
    """
    node.simulate(2, mig={0: ["1g.10gb"] * 2, 1: ["1g.10gb"] * 2})
    node.commit(json.dumps({"version": "v1", "flags": {"migStrategy": "single"}}).encode())
    agent = await node.agent()
    await node.advertises({GPU: 4})
    node.mount.write({"one.yaml": b"", "other.yaml": b""})
    await eventually(lambda: agent.says("ConfigAccepted").reason == "Missing")
    node.simulate(2, mig={0: ["1g.10gb"] * 2, 1: ["3g.40gb"]})
    await eventually(lambda: any(drift.subject == "GPUs" for drift in agent.snapshot.drift))
    assert len(node.log.having("the config in force cannot be applied to these GPUs", "3g.40gb on MIG device 1:")) == 1
    (obstacle,) = (await agent.status())["config"]["obstacles"]
    assert "3g.40gb on MIG device 1:" in obstacle["message"]
    await node.allocatable(2, GPU)
    node.simulate(2, mig={0: ["1g.10gb"] * 2, 1: ["1g.10gb"]})
    await node.advertises({GPU: 3})
    assert len(node.log.having("can be applied to these GPUs again")) == 1


async def test_git_wants_a_held_gpu_by_mig_device(node: Node) -> None:
    """NVIDIA's `none` becomes `mixed` while a pod has the whole GPU: its MIG devices come when the pod has ended."""
    node.simulate(2, mig={0: ["1g.10gb"] * 2})
    node.commit(json.dumps({"version": "v1", "flags": {"migStrategy": "none"}}).encode())
    agent = await node.agent()
    await node.advertises({GPU: 2})
    pods = await node.hold(2, GPU)
    node.commit(json.dumps({"version": "v1", "flags": {"migStrategy": "mixed"}}).encode())
    await eventually(lambda: agent.snapshot.condition("Draining") is not None and agent.says("Draining").status)
    assert "waiting for what is on the list of the same GPU" in str((await agent.status())["plan"]["waits"])
    assert SMALL not in node.kubelet.resources()
    for pod in pods:
        await node.kubelet.end(pod)
    await eventually(lambda: node.kubelet.allocatable(SMALL) == 2)
    await node.allocatable(1, GPU)


async def test_a_lost_gpu_and_its_mig_devices(node: Node) -> None:
    """They are lost together, and come back together; the condition names the GPU once."""
    node.simulate(mig={0: ["1g.10gb", "1g.10gb"]})
    node.commit(sharing(time_sliced(2)))
    agent = await node.agent()
    await eventually(lambda: node.kubelet.allocatable(SMALL) == 2)
    node.simulate(mig={0: ["1g.10gb", "1g.10gb"]}, health={0: "lost"})
    await eventually(lambda: node.kubelet.allocatable(SMALL) == 0)
    assert len(node.kubelet.devices(SMALL)) == 2
    assert agent.says("InventoryReady").reason == "GpuLost"
    assert agent.says("InventoryReady").message.count(uuid(0)) == 1
    assert await agent.metric("drift", kind="hardware") == 1
    node.simulate(mig={0: ["1g.10gb", "1g.10gb"]})
    await eventually(lambda: node.kubelet.allocatable(SMALL) == 2)
