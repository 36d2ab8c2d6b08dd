"""A kubelet that is late, restarts, or listens to somebody else."""

from __future__ import annotations

from nodeagent.sim.pods import Phase
from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing, time_sliced
from tests.agent.harness import Node
from tests.waiting import eventually


async def test_a_kubelet_that_comes_after_the_agent() -> None:
    """An agent waits for a kubelet, not even whose directory is there, is not ready and says why; then it registers
    once.
    """
    async with Node(kubelet_runs=False) as node:
        node.commit(shares(4))
        agent = await node.agent()
        await eventually(lambda: agent.says("Registered").reason == "KubeletAbsent")
        assert agent.says("PodResourcesReady").reason == "KubeletAbsent"
        assert not await agent.ready()

        await node.kubelet.start()
        await node.advertises({SHARED: 32})
        await eventually(agent.ready)
        await eventually(lambda: agent.says("PodResourcesReady").status)
        assert len(node.kubelet.registrations) == 1


async def test_a_kubelet_restart() -> None:
    """After a restart of the kubelet every resource registers once, shares that pods hold stay theirs while the kubelet
    knows no pods yet, and what Git asks for meanwhile is done.
    """
    async with Node(gpus=2, pods_after=1.5) as node:
        node.commit(sharing(time_sliced(10, at=[0]), exclusive()))
        agent = await node.agent()
        await node.advertises({SHARED: 10, GPU: 1})
        pods = await node.hold(6)
        await eventually(lambda: agent.snapshot.in_sync)

        await node.kubelet.restart()
        node.commit(sharing(time_sliced(4, at=[0]), exclusive()))
        await node.allocatable(1, GPU)
        await node.advertises({SHARED: 6, GPU: 1})

        assert [record.resource for record in node.kubelet.registrations[2:]] in ([GPU, SHARED], [SHARED, GPU])
        assert not any(record.over_live_stream for record in node.kubelet.registrations)
        assert node.kubelet.devices(SHARED) == dict.fromkeys(sorted(node.kubelet.held(SHARED)), True)
        await eventually(lambda: agent.says("Draining").message == "2 held shares drain on GPU 0")
        assert {pod.phase for pod in pods} == {Phase.RUNNING}

        await node.looked()
        for pod in pods:
            await node.kubelet.end(pod)
        await node.advertises({SHARED: 4, GPU: 1})


async def test_another_plugin_registers_over_ours(node: Node) -> None:
    """A plugin that registers while our stream lives makes the kubelet's view differ, and has the kubelet ask it: this
    is drift, and healed so that the kubelet has our list again and asks us.
    """
    node.simulate(2)
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 8})
    ours = sorted(node.kubelet.devices(SHARED))
    foreign = await node.foreign()
    # As many as ours but for one, which is sent Unhealthy first for the auditor, who cannot tell the senders apart.
    await foreign.send(ours[1:], ours[:1])

    await foreign.register()
    await node.allocatable(7)

    async def drifts() -> bool:
        return await agent.metric("drift", kind="kubelet") == 1

    await eventually(drifts)
    await eventually(lambda: len(node.kubelet.registrations) == 3)
    await node.advertises({SHARED: 8})
    (pod,) = await node.hold(1)
    assert pod.envs("main").keys() == {"NVIDIA_VISIBLE_DEVICES"}
    await eventually(lambda: not agent.snapshot.drift)


async def test_a_kubelet_that_keeps_ending_our_stream(node: Node) -> None:
    """However often the ends of older plugins' streams take ours along: nobody else has the resource, so that nobody is
    accused of it, and we are back each time.
    """
    others = [await node.foreign() for _ in range(4)]
    for other in others:
        await other.register()
    node.commit(sharing(time_sliced(4, at=[0]), exclusive()))
    agent = await node.agent()
    await node.advertises({SHARED: 4, GPU: 7})
    reasons = set()
    for other in others:
        await other.stop()
        await node.allocatable(0)
        reasons.add(agent.says("Registered").reason)
        await node.advertises({SHARED: 4, GPU: 7})
    await eventually(lambda: agent.says("Registered").status)
    assert "ForeignPlugin" not in reasons


async def test_another_plugin_takes_the_resource(node: Node) -> None:
    """One that has it when our stream has ended is a condition and no war; other resources never notice. When it leaves
    we are back.
    """
    old, new = await node.foreign(), await node.foreign()
    await old.register()
    node.commit(sharing(time_sliced(4, at=[0]), exclusive()))
    agent = await node.agent()
    await node.advertises({SHARED: 4, GPU: 7})
    # The same ids, as NVIDIA's plugin has; the auditor cannot tell the senders apart.
    await new.send(sorted(node.kubelet.devices(SHARED)))
    await old.stop()
    await node.allocatable(0)
    await new.register()

    await eventually(lambda: agent.says("Registered").reason == "ForeignPlugin")
    assert "another plugin has nvidia.com/gpu.shared" in agent.says("Registered").message
    assert node.kubelet.allocatable(GPU) == 7
    await new.stop()
    await node.advertises({SHARED: 4, GPU: 7})
    await eventually(lambda: agent.says("Registered").status)
