"""Which GPUs and shares a pod gets, where it matters which."""

from __future__ import annotations

from pathlib import Path

from nodeagent.sim import checkpoint
from nodeagent.sim.pods import Pod
from tests.agent.documents import GPU, SHARED, exclusive, sharing, time_sliced
from tests.agent.harness import Node, uuid
from tests.waiting import eventually

TWO_ISLANDS = Path(__file__).parents[2] / "examples" / "simulated" / "two-islands.yaml"


async def got(node: Node, count: int, resource: str = GPU) -> tuple[Pod, set[int]]:
    """A new pod with so many, and the indices of the GPUs that it sees."""
    pod = await node.kubelet.admit("pod", containers={"main": {resource: count}})
    visible = pod.envs("main")["NVIDIA_VISIBLE_DEVICES"].split(",")
    return pod, {index for index in range(8) if uuid(index) in visible}


async def test_whole_gpus_of_a_pod_are_linked_with_one_another(node: Node) -> None:
    """Four of eight stay in one NVLink island, and single ones come of the island that is broken already."""
    node.write(node.simulation, TWO_ISLANDS.read_bytes())
    node.commit(sharing(exclusive()))
    await node.agent()
    await node.advertises({GPU: 8})

    first, gpus = await got(node, 1)
    assert gpus == {0}
    four, gpus = await got(node, 4)
    assert gpus == {4, 5, 6, 7}
    assert (await got(node, 1))[1] == {1}
    await node.kubelet.end(four)
    assert (await got(node, 2))[1] == {2, 3}
    await node.kubelet.end(first)
    assert (await got(node, 4))[1] == {4, 5, 6, 7}


async def test_the_kubelet_knows_on_which_numa_node_each_gpu_is(node: Node) -> None:
    """It keeps what pods have by NUMA node: its topology manager aligns them with processors by that."""
    node.write(node.simulation, TWO_ISLANDS.read_bytes())
    node.commit(sharing(exclusive()))
    await node.agent()
    await node.advertises({GPU: 8})

    await got(node, 8)

    (entry,) = checkpoint.read(node.kubelet.checkpoint_path).entries
    assert {number: set(ids) for number, ids in entry.ids_by_node.items()} == {
        0: {uuid(index) for index in range(4)},
        1: {uuid(index) for index in range(4, 8)},
    }


async def test_placement_is_followed_by_the_next_pod(node: Node) -> None:
    """Packed shares fill the GPU that is used most; a config that distributes them again moves nobody."""
    node.commit(sharing({**time_sliced(4), "placement": "packed"}))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    packed = [await got(node, 1, SHARED) for _ in range(5)]
    assert [gpus for _, gpus in packed] == [{0}, {0}, {0}, {0}, {1}]

    node.commit(sharing(time_sliced(4)))
    await eventually(lambda: agent.snapshot.config.observed_generation == 2)
    assert (await got(node, 1, SHARED))[1] == {2}
    assert all(pod.active for pod, _ in packed)


async def test_placement_stays_while_the_config_is_suspended(node: Node) -> None:
    """What is applied is kept then, and how shares are placed with it."""
    packed = {**time_sliced(4), "placement": "packed"}
    node.commit(sharing(packed))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    node.commit(sharing(packed, suspend=True))
    await eventually(lambda: agent.says("Suspended").status)
    assert [(await got(node, 1, SHARED))[1] for _ in range(3)] == [{0}, {0}, {0}]
