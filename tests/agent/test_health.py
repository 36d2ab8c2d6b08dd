"""XIDs: a fault is that of the whole GPU, outlives everything but its mending, and concerns no other GPU."""

from __future__ import annotations

import asyncio
import os
import sys

from nodeagent.admin import ask
from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing, time_sliced
from tests.agent.harness import InProcess, Node, uuid
from tests.waiting import eventually


async def sick(agent: InProcess, *indices: int) -> None:
    """Wait until XIDs stand against exactly these GPUs."""
    await eventually(
        lambda: {entry.gpu.index for entry in agent.snapshot.applied.gpus.values() if entry.xids} == set(indices)
    )


async def test_a_fault_of_a_shared_gpu(node: Node) -> None:
    """All shares of the GPU turn Unhealthy and stay listed, none of another does; so it is after a reload and for an
    agent that starts anew, until a person says that it is well.
    """
    node.commit(shares(10))
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    pods = await node.hold(20)

    node.simulate(xids={3: [79]})
    await node.allocatable(70)
    assert set(node.of_gpu(3).values()) == {False}
    assert len(node.of_gpu(3)) == 10
    assert all(set(node.of_gpu(index).values()) == {True} for index in range(8) if index != 3)
    assert await agent.metric("gpu_healthy", uuid=uuid(3)) == 0
    assert await agent.metric("gpu_healthy", uuid=uuid(2)) == 1
    assert await agent.metric("gpu_xid_events_total", uuid=uuid(3), xid="79") == 1
    assert await agent.metric("drift", kind="hardware") == 1
    assert await agent.metric("shares", resource=SHARED, state="unhealthy") == 10
    assert await agent.ready()
    assert len(node.log.having(f"GPU 3 ({uuid(3)}): XID 79 ", "all its shares are unhealthy")) == 1

    node.commit(shares(12))
    await node.allocatable(84)
    assert list(node.of_gpu(3).values()) == [False] * 12

    await agent.stop()
    agent = await node.agent()
    await sick(agent, 3)
    await node.allocatable(84)
    assert list(node.of_gpu(3).values()) == [False] * 12

    answer = await asyncio.to_thread(ask, node.state_dir, "clear-health", uuid(3))
    assert answer.done, answer.message
    await node.advertises({SHARED: 96})
    assert len(node.log.having(f"GPU 3 ({uuid(3)}) is healthy again: XID 79 ", "is cleared")) == 1
    assert frozenset[str]().union(*(pod.ids() for pod in pods)) == node.kubelet.held(SHARED)

    await agent.stop()
    await node.agent()
    await node.advertises({SHARED: 96})


async def test_a_fault_of_an_application(node: Node) -> None:
    """It is counted, and nothing else: nothing is sent to the kubelet."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    sent = agent.snapshot.listings[SHARED].revision
    node.simulate(xids={3: [13, 31, 13]})

    async def counted() -> bool:
        return await agent.metric("gpu_xid_events_total", uuid=uuid(3), xid="13") == 2

    await eventually(counted)
    assert await agent.metric("gpu_xid_events_total", uuid=uuid(3), xid="31") == 1
    assert agent.snapshot.listings[SHARED].revision == sent
    assert await agent.metric("gpu_healthy", uuid=uuid(3)) == 1
    assert agent.snapshot.in_sync


async def test_a_driver_that_is_loaded_anew(node: Node) -> None:
    """It has reset every GPU: no XID of before stands against one, also when nobody watched it being loaded."""
    node.commit(shares(2))
    agent = await node.agent()
    await node.advertises({SHARED: 16})
    node.simulate(xids={1: [79], 5: [48]})
    await node.allocatable(12)
    node.simulate(driver_loads=2)
    await node.advertises({SHARED: 16})

    node.simulate(xids={6: [79]}, driver_loads=2)
    await node.allocatable(14)
    await agent.stop()
    node.simulate(driver_loads=3)
    await node.agent()
    await node.advertises({SHARED: 16})


async def test_verdicts_follow_the_config(node: Node) -> None:
    """What is critical, and what a GPU recovers from by itself, is Git's to say, at any time."""
    node.commit(sharing(exclusive(), health={"criticalXids": [13, 94]}))
    agent = await node.agent()
    await node.advertises({GPU: 8})
    node.simulate(xids={0: [79], 1: [13], 2: [94]})
    await node.allocatable(6, GPU)
    await sick(agent, 1, 2)

    node.commit(sharing(exclusive(), health={"recovery": {"after": "1s", "xids": [94]}}))
    await node.advertises({GPU: 8})
    node.simulate(xids={0: [79, 79], 1: [13, 13], 2: [94, 94]})
    await node.allocatable(7, GPU)
    await sick(agent, 0)


async def test_a_restart_under_a_policy_of_its_own(node: Node) -> None:
    """An agent that starts keeps verdicts that only its config takes for such, also where the mounted one is broken."""
    node.commit(sharing(exclusive(), health={"ignoreXids": []}))
    agent = await node.agent()
    await node.advertises({GPU: 8})
    node.simulate(xids={1: [31]})
    await node.allocatable(7, GPU)
    await agent.stop()
    agent = await node.agent()
    await sick(agent, 1)
    await node.allocatable(7, GPU)
    await agent.stop()
    node.commit(b"broken")
    agent = await node.agent()
    await eventually(lambda: agent.says("ServingLastKnownGood").status)
    await sick(agent, 1)
    assert node.log.having("is healthy again") == []


async def test_a_burst_of_events(node: Node) -> None:
    """A thousand XIDs are a few turns of the loop, one verdict and one line of the log."""
    node.commit(shares(10))
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    before = agent.snapshot.revision
    node.simulate(xids={3: [48] * 1_000})

    async def counted() -> bool:
        return await agent.metric("gpu_xid_events_total", uuid=uuid(3), xid="48") == 1_000

    await eventually(counted)
    await node.allocatable(70)
    assert agent.snapshot.revision - before < 50
    assert len(node.log.having(f"GPU 3 ({uuid(3)}): XID 48 ")) == 1


async def test_a_disk_that_cannot_be_written(node: Node) -> None:
    """A GPU is ill all the same, and can be cleared; whoever clears it is told that an agent that starts anew will not
    know.
    """
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    (node.state_dir / ".applied.json.tmp").mkdir()
    node.simulate(xids={3: [79]})
    await node.allocatable(28)
    await eventually(lambda: not agent.says("StateDirWritable").status)
    answer = await asyncio.to_thread(ask, node.state_dir, "clear-health", uuid(3))
    assert answer.done
    assert "is cleared of XID 79" in answer.message
    assert "an agent that starts anew will not know: " in answer.message
    assert "cannot write" in answer.message
    await node.advertises({SHARED: 32})


async def test_the_command_and_the_agent(node: Node) -> None:
    """`clear-health` reaches the agent of its state directory, and says what it did."""
    node.commit(sharing(time_sliced(2)))
    agent = await node.process()
    await node.advertises({SHARED: 16})
    node.simulate(xids={3: [79]})
    await node.allocatable(14)

    async def clear(what: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "nodeagent", "clear-health", what,
            env={**os.environ, "NODEAGENT_STATE_DIR": str(node.state_dir)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        told, _ = await process.communicate()
        return process.returncode, told.decode()

    assert await clear(uuid(3)) == (0, f"GPU 3 ({uuid(3)}) is cleared of XID 79 (GPU has fallen off the bus)\n")
    await node.advertises({SHARED: 16})
    code, told = await clear(uuid(3))
    assert (code, told) == (
        1,
        "nodeagent clear-health: cannot clear GPU 3: there is nothing to clear, no XID stands against it\n",
    )
    assert (await clear("GPU-0"))[0] == 1
    await agent.stop()
    assert (await clear(uuid(3)))[0] == 3
