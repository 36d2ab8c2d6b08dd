"""GPUs under MPS: the real control daemon, the real host as a process, agents and the kubelet as everywhere."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from nodeagent.model.inventory import ComputeMode
from nodeagent.mps.files import encode_desired
from nodeagent.mps.process import Process
from nodeagent.reloads import VERIFY_SECONDS
from nodeagent.sim.history import ListMessage
from nodeagent.sim.pods import AdmissionError
from tests.agent.documents import GPU, MPS, SHARED, exclusive, mps, sharing, time_sliced
from tests.agent.harness import uuid
from tests.agent.mps_node import Host, MpsNode
from tests.waiting import eventually, longer

BACK_WITHIN = 5.0
"""Seconds from the last pod's end until a GPU offers shares of its new mode: below the ten that a young grant is given.
The benchmarks measure it."""

NOTICED_WITHIN = 2.5

BACK_AFTER_THE_HOST = 15.0
"""Seconds from the end of a host and its daemons until the GPUs are offered that it had."""

SIX = {0, 1, 4, 5, 6, 7}
TWO = [2, 3]


@pytest.fixture
async def node(mps_control: Path) -> AsyncIterator[MpsNode]:
    """Eight GPUs, a running kubelet, an empty mount; no agent and no host yet."""
    async with MpsNode(mps_control) as node:
        yield node


def time_sliced_but(*rules: dict[str, object]) -> bytes:
    """Every GPU is shared by ten, but for those of these rules."""
    return sharing(*rules, time_sliced(10))


def unhealthy(node: MpsNode, index: int, resource: str = MPS) -> bool:
    """Whether a GPU has shares of this resource and none of them is healthy."""
    shares = node.of_gpu(index, resource)
    return bool(shares) and not any(shares.values())


async def test_two_gpus_come_under_mps_and_leave_it(node: MpsNode) -> None:
    """time-slicing -> MPS -> other limits -> exclusive on two of eight GPUs: the shares of the six others stay in every
    message, daemons run for the two as long as they are under MPS, each with the limits that Git says, and the compute
    mode is what it was in the end.
    """
    node.commit(time_sliced_but())
    await node.host()
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    begun = node.kubelet.record.message_count

    node.commit(time_sliced_but(mps(4, "9Gi", 25, at=TWO)))
    await node.advertises({SHARED: 60, MPS: 8})
    first = await node.runs(*TWO)
    assert [await node.has(index, 9 * 1024, 25) for index in TWO] == [True, True]
    assert node.compute_modes() == dict.fromkeys(TWO, "exclusive-process")
    await eventually(lambda: agent.says("MpsReady").reason == "DaemonsReady")

    node.commit(time_sliced_but(mps(2, "20Gi", 50, at=TWO)))
    await eventually(lambda: node.are(TWO, 20 * 1024, 50), within=20.0)
    await node.advertises({SHARED: 60, MPS: 4})
    second = await node.runs(*TWO)
    assert not set(first.values()) & set(second.values()), "limits of a daemon that runs do not change"

    node.commit(time_sliced_but(exclusive(at=TWO)))
    await node.advertises({SHARED: 60, MPS: 0, GPU: 2})
    assert await node.runs() == {}
    assert set(node.compute_modes().values()) <= {"default"}
    await eventually(lambda: agent.snapshot.in_sync)
    assert agent.says("MpsReady").reason == "Idle"

    for message in since(node, begun):
        if message.resource == SHARED:
            healthy = {id_.partition("::")[0] for id_ in message.healthy}
            assert {uuid(index) for index in SIX} <= healthy
            assert sum(id_.partition("::")[0] in {uuid(index) for index in SIX} for id_ in message.healthy) == 60


async def test_free_gpus_are_back_soon(node: MpsNode) -> None:
    """A GPU whose last pod has ended offers shares of its new mode soon, into MPS and out of it."""
    node.commit(time_sliced_but())
    await node.host()
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    pods = await node.fill(2, 3)
    node.commit(time_sliced_but(mps(4, "9Gi", 25, at=[2])))
    await eventually(lambda: agent.says("Draining").status)
    await node.looked()
    await node.allocatable(73)
    for pod in pods:
        await node.kubelet.end(pod)
    await node.advertises({SHARED: 70, MPS: 4}, within=BACK_WITHIN)

    pods = await node.hold(2, MPS)
    node.commit(time_sliced_but(exclusive(at=[2])))
    await eventually(lambda: agent.says("Draining").status)
    await node.looked()
    for pod in pods:
        await node.kubelet.end(pod)
    await node.advertises({SHARED: 70, MPS: 0, GPU: 1}, within=BACK_WITHIN)
    assert await node.runs() == {}


async def test_a_pod_gets_its_part_of_one_daemon(node: MpsNode) -> None:
    """What a container gets: its GPU, the daemon's sockets and shared memory, and limits for as many shares as it asked
    for. More shares than one container may have, or than one GPU has, are refused with the reason.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=[0, 1], most=3), exclusive()))
    await node.host()
    await node.agent()
    await node.advertises({MPS: 8, GPU: 6})

    one = await node.kubelet.admit("one", containers={"main": {MPS: 1}})
    three = await node.kubelet.admit("three", containers={"main": {MPS: 3}})
    assert one.envs("main") == {
        "NVIDIA_VISIBLE_DEVICES": uuid(0),
        "CUDA_MPS_PIPE_DIRECTORY": "/mps/pipe",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=9216M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "25",
    }
    assert one.mounts("main") == {"/mps/pipe": str(node.layout.pipe(uuid(0))), "/dev/shm": "/dev/shm"}
    assert three.envs("main") == {
        "NVIDIA_VISIBLE_DEVICES": uuid(1),
        "CUDA_MPS_PIPE_DIRECTORY": "/mps/pipe",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=27648M",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "75",
    }
    assert await node.has(0, 27 * 1024, 75), "the daemon allows what the largest request needs"

    with pytest.raises(AdmissionError, match=r"at most 3 allowed \(maxSharesPerContainer\)"):
        await node.kubelet.admit("four", containers={"main": {MPS: 4}})
    await node.kubelet.admit("two", containers={"main": {MPS: 2}})
    with pytest.raises(AdmissionError, match="under MPS a container can use one GPU only"):
        await node.kubelet.admit("across", containers={"main": {MPS: 2}})


async def test_a_daemon_that_is_killed(node: MpsNode) -> None:
    """Kill -9 of a daemon: its GPU's shares, and only those, are Unhealthy at once, and Healthy again when a new daemon
    runs with its limits read back.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), exclusive()))
    await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 8, GPU: 6})
    before = await node.runs(*TWO)
    begun = node.kubelet.record.message_count

    before[2].signal(signal.SIGKILL)
    await eventually(
        lambda: any(_sick(message.devices) == {uuid(2)} for message in since(node, begun)),
        within=NOTICED_WITHIN,
    )
    await node.advertises({MPS: 8, GPU: 6})

    after = await node.runs(*TWO)
    assert after[3] == before[3]
    assert after[2] != before[2]
    assert await node.has(2, 9 * 1024, 25)
    assert all(_sick(message.devices) <= {uuid(2)} for message in since(node, begun))
    assert await agent.metric("mps_daemon_restarts_total", uuid=uuid(2)) == 1
    assert await agent.metric("mps_daemon_restarts_total", uuid=uuid(3)) == 0


async def test_a_daemon_that_hangs(node: MpsNode) -> None:
    """SIGSTOP of a daemon: nothing else stalls, it is shown as not ready, and it is healed by a restart."""
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), time_sliced(10)))
    await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 8, SHARED: 60})
    before = await node.runs(*TWO)

    before[2].signal(signal.SIGSTOP)
    await eventually(lambda: not agent.says("MpsReady").status, within=8.0)
    assert "GPU 2" in agent.says("MpsReady").message
    await eventually(lambda: unhealthy(node, 2))
    begun = time.monotonic()
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), time_sliced(4)))
    await node.allocatable(24, within=2.0)
    other = await node.kubelet.admit("other", containers={"main": {MPS: 1}})
    assert other.envs("main")["NVIDIA_VISIBLE_DEVICES"] == uuid(3)
    assert time.monotonic() - begun < longer(5.0)

    await node.advertises({MPS: 8, SHARED: 24}, within=25.0)
    after = await node.runs(*TWO)
    assert after[3] == before[3]
    assert after[2] != before[2]


@pytest.mark.parametrize("first", ["agent", "host"])
async def test_agent_and_host_in_either_order(node: MpsNode, first: str) -> None:
    """Without a host nothing is advertised under MPS, a condition says why, and everything else works; when the host
    comes, so do the shares. A host that is there before the agent waits for it.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), time_sliced(10)))
    if first == "host":
        await node.host()
        await eventually(node.layout.observed.exists)
        agent = await node.agent()
    else:
        agent = await node.agent()
        await node.advertises({SHARED: 60})
        await eventually(lambda: agent.says("MpsReady").reason == "HostAbsent")
        assert agent.says("MpsReady").message.startswith("GPUs 2-3: ")
        assert agent.says("Ready").status
        await node.hold(3)
        await node.host()
    await node.advertises({MPS: 8, SHARED: 60})
    await eventually(lambda: agent.says("MpsReady").reason == "DaemonsReady")


async def test_a_reload_whose_daemon_does_not_come_has_failed(node: MpsNode) -> None:
    """A document that needs a daemon which is not ready in time is a failed reload, stage `verify`; it stays in force,
    and the reload counts as successful when the daemon has come after all.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 7})

    async def failed() -> bool:
        return await agent.metric("config_reload_failures_total", stage="verify") == 1

    await eventually(failed, within=20.0)
    (reload,) = agent.snapshot.reloads
    assert reload.result.value == "failed"
    assert "GPU 2: " in reload.message
    assert "no MPS host runs" in reload.message
    assert await agent.metric("config_last_reload_successful") == 0
    await node.host()
    await node.advertises({GPU: 7, MPS: 4})
    await eventually(lambda: agent.snapshot.in_sync)
    assert await agent.metric("config_last_reload_successful") == 1


async def test_a_daemon_that_does_not_come_fails_no_other_reload(node: MpsNode) -> None:
    """A document that asks nothing new of a GPU whose daemon does not come is told at once, and as accepted."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 7})
    await eventually(lambda: len(agent.snapshot.reloads) == 1, within=20.0)

    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), time_sliced(3, at=[5]), exclusive()))
    await eventually(lambda: len(agent.snapshot.reloads) == 2, within=VERIFY_SECONDS / 2)
    assert [reload.result.value for reload in agent.snapshot.reloads] == ["accepted", "failed"]
    assert not agent.says("MpsReady").status


async def test_a_reload_is_told_when_its_daemons_are_ready(node: MpsNode) -> None:
    """A document that brings free GPUs under MPS is told as accepted when their daemons are verified; one that has to
    wait for pods is told at once.
    """
    node.commit(time_sliced_but())
    await node.host()
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    await eventually(lambda: agent.snapshot.in_sync)
    (pod,) = await node.fill(2, 1)

    node.commit(time_sliced_but(mps(4, "9Gi", 25, at=[3])))
    await eventually(lambda: len(agent.snapshot.reloads) == 2)
    assert agent.snapshot.mps.daemons[uuid(3)].state.value == "ready"
    assert await agent.metric("config_reload_failures_total", stage="verify") == 0
    node.commit(time_sliced_but(mps(4, "9Gi", 25, at=TWO)))
    await eventually(lambda: len(agent.snapshot.reloads) == 3)
    assert uuid(2) not in agent.snapshot.mps.daemons
    assert "held shares drain: 1 on GPU 2" in agent.snapshot.reloads[0].message
    assert pod.active


async def test_limits_change_when_the_pods_have_left(node: MpsNode) -> None:
    """Pods hold shares while Git changes the limits: nothing changes for them, the daemon stays, the plan shows the
    wait; when they have ended the new limits apply.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    pods = await node.hold(2, MPS)
    before = await node.runs(2)

    node.commit(sharing(mps(2, "30Gi", 50, at=[2]), exclusive()))
    await eventually(lambda: agent.says("Draining").status)
    await node.allocatable(2, MPS)
    status = await agent.status()
    assert any("waiting for the pods on 2 shares" in wait["text"] for wait in status["plan"]["waits"])
    assert await node.runs(2) == before
    assert await node.has(2, 9 * 1024, 25)

    await node.kubelet.end(pods[0])
    await node.looked()
    assert await node.runs(2) == before
    await node.kubelet.end(pods[1])
    await eventually(lambda: agent.snapshot.in_sync, within=20.0)
    await node.advertises({MPS: 2, GPU: 7})
    assert (await node.runs(2)) != before
    assert await node.has(2, 30 * 1024, 50)


async def test_a_client_changes_the_defaults(node: MpsNode) -> None:
    """Limits that a client has changed through the control socket are noticed, restored and counted; no share is taken
    from anybody for it, and the daemon stays.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), exclusive()))
    await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 8, GPU: 6})
    before = await node.runs(*TWO)
    begun = node.kubelet.record.message_count

    await node.control(2).ask("set_default_active_thread_percentage 90", "set_default_device_pinned_mem_limit 0 70G")
    await eventually(lambda: any(drift.kind.value == "mps" for drift in agent.snapshot.drift), within=5.0, every=0.01)

    async def restored() -> bool:
        return await node.has(2, 9 * 1024, 25) and await agent.metric("mps_limits_restored_total", uuid=uuid(2)) == 1

    await eventually(restored)
    await eventually(lambda: agent.says("MpsReady").status)
    assert await agent.metric("mps_limits_restored_total", uuid=uuid(3)) == 0
    assert await node.runs(*TWO) == before
    assert not any(_sick(message.devices) for message in since(node, begun))


async def test_daemons_outlive_agent_and_host(node: MpsNode) -> None:
    """Agent and host may be killed and come back: the daemon keeps its process, its shares stay Healthy meanwhile, and
    no list is ever without them.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    host = await node.host()
    agent = await node.process()
    await node.advertises({MPS: 4, GPU: 7})
    before = await node.runs(2)
    await node.hold(2, MPS)

    await host.kill()
    await agent.kill()
    assert await node.runs(2) == before
    begun = node.kubelet.record.message_count
    again = await node.process()
    await node.advertises({MPS: 4, GPU: 7})
    assert (await again.condition("MpsReady"))[1] == "HostAbsent"
    await node.host()

    async def well() -> bool:
        return (await again.condition("MpsReady"))[0]

    await eventually(well)
    assert await node.runs(2) == before
    assert not any(_sick(message.devices) for message in since(node, begun))


@pytest.mark.parametrize("damaged", [False, True], ids=["lost", "all-lost"])
async def test_a_lost_state_directory_ends_no_daemon(node: MpsNode, *, damaged: bool) -> None:
    """An agent that remembers nothing finds the daemons by what the one before had asked for, or where that is damaged
    as well by what the host has kept: they keep their processes, and pods their shares under the same contract.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    pods = await node.hold(2, MPS)
    before = await node.runs(2)
    await agent.stop()
    for file in node.state_dir.iterdir():
        file.unlink()
    if damaged:
        node.layout.desired.write_bytes(b"damaged")

    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    await eventually(lambda: agent.snapshot.in_sync)
    assert await node.runs(2) == before
    assert all(pod.active for pod in pods)


async def test_a_gpu_that_is_in_use_by_others_waits(node: MpsNode) -> None:
    """A GPU on which a process computes that is no client of MPS does not come under MPS before that has ended, and the
    condition names it.
    """
    node.simulate(8, processes={2: [{"pid": 4242, "name": "python3"}]})
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), exclusive()))
    await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 6})
    await eventually(lambda: agent.says("MpsReady").reason == "Occupied")
    assert "GPU 2" in agent.says("MpsReady").message
    assert "4242 (python3)" in agent.says("MpsReady").message
    assert 2 not in node.compute_modes()

    node.simulate(8)
    await node.advertises({MPS: 8, GPU: 6})


async def test_spawn_starts_a_host_that_outlives_the_agent(node: MpsNode) -> None:
    """With `--mps-host spawn` the agent starts the host when it is first needed, and a host that died again; both
    outlive a SIGKILL of the agent.
    """
    node.commit(sharing(exclusive()))
    agent = await node.process(mps_host="spawn")
    await node.advertises({GPU: 8})
    assert not node.layout.observed.exists()
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    await node.advertises({MPS: 4, GPU: 7}, within=20.0)
    before = await node.runs(2)
    host = Process.find(node.observed().host_pid)
    assert host is not None

    await agent.kill()
    assert host.alive()
    assert await node.runs(2) == before
    again = await node.process(mps_host="spawn")
    await node.advertises({MPS: 4, GPU: 7})
    host.signal(signal.SIGKILL)

    async def another() -> bool:
        return node.observed().host_pid != host.pid and (await again.condition("MpsReady"))[0]

    await eventually(another, within=20.0)
    assert await node.runs(2) == before


async def test_without_a_host_by_choice(node: MpsNode) -> None:
    """With `--mps-host off` a rule under MPS is accepted and waits; the condition says that it is switched off."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    agent = await node.agent(mps_host="off")
    await node.advertises({GPU: 7})
    await eventually(lambda: agent.says("MpsReady").reason == "HostOff")
    assert "--mps-host" in agent.says("MpsReady").message
    node.commit(sharing(exclusive()))
    await node.advertises({GPU: 8})


async def test_off_gives_nothing_away_that_a_host_holds(node: MpsNode) -> None:
    """An agent that is started with `--mps-host off` after another one brought a GPU under MPS offers nothing of that
    GPU while the host holds it, and says so; when the host has let go, the GPU is like any other.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    host = await node.host()
    first = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    await first.stop()
    node.commit(sharing(time_sliced(10, at=[2]), exclusive()))

    agent = await node.agent(mps_host="off")
    await eventually(lambda: agent.snapshot.condition("MpsReady"))
    await eventually(lambda: [wait.reason.value for wait in agent.snapshot.plan.waits] == ["daemon"], within=20.0)
    assert SHARED not in node.kubelet.resources()
    assert agent.says("MpsReady").reason == "HostOff"
    assert await node.runs(2)

    node.layout.desired.write_bytes(encode_desired({}, "by hand"))
    await node.runs()
    await node.allocatable(10, SHARED)
    await host.stop()


async def test_without_a_host_every_share_stays(node: MpsNode) -> None:
    """A config asks for MPS where no host answers: all 80 shares stay, also over a restart, and it is said what is
    missing. The host comes, and the GPUs go on by themselves.
    """
    node.commit(time_sliced_but())
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    begun = node.kubelet.record.message_count
    node.commit(sharing(mps(4, "9Gi", 25)))
    await eventually(lambda: agent.says("MpsReady").reason == "HostAbsent")
    waits = [wait for wait in agent.snapshot.plan.waits if wait.reason.value == "daemon"]
    assert len(waits) == 8
    assert all("no MPS host runs" in wait.detail for wait in waits)
    assert {entry.kind.value for entry in agent.snapshot.drift} == {"shares", "mps"}
    assert not agent.snapshot.in_sync
    assert agent.says("Ready").status
    await agent.stop()
    agent = await node.agent()
    await eventually(lambda: agent.says("MpsReady").reason == "HostAbsent")
    await node.advertises({SHARED: 80})
    assert all(len(message.healthy) == 80 for message in since(node, begun) if message.resource == SHARED)
    await node.runs()

    await node.host()
    await node.advertises({SHARED: 0, MPS: 32}, within=30.0)
    await eventually(lambda: agent.snapshot.in_sync)


async def test_a_gpu_that_cannot_be_prepared_stays(node: MpsNode) -> None:
    """A host that cannot do it says so, and of which GPU; when it can, the GPU goes on."""
    blocked = node.simulation.with_name(f".{node.simulation.name}.compute-modes.json.tmp")
    blocked.mkdir()
    node.commit(time_sliced_but())
    await node.host()
    agent = await node.agent()
    await node.advertises({SHARED: 80})
    node.commit(time_sliced_but(mps(4, "9Gi", 25, at=TWO)))
    await eventually(lambda: agent.says("MpsReady").reason == "NotPrepared")
    await eventually(lambda: "GPU 2: cannot set the compute mode" in agent.says("MpsReady").message)
    assert node.kubelet.allocatable(SHARED) == 80
    blocked.rmdir()
    await node.advertises({SHARED: 60, MPS: 8}, within=20.0)


async def test_a_fresh_gpu_waits_for_a_host(node: MpsNode) -> None:
    """It is offered nothing, has no contract, and nobody is asked for a daemon; the others are served."""
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), exclusive()))
    agent = await node.agent()
    await node.advertises({GPU: 6})
    await eventually(lambda: agent.says("MpsReady").reason == "HostAbsent")
    assert not node.desired()
    assert all(agent.snapshot.applied.gpus[uuid(index)].contract is None for index in TWO)
    await node.host()
    await node.advertises({GPU: 6, MPS: 8})


async def test_a_fresh_node_of_mps_alone_is_ready(node: MpsNode) -> None:
    """Without a host there is nothing to register, and an agent that is not ready would not help: `MpsReady` says what
    is missing. When the host comes the shares do.
    """
    node.commit(sharing(mps(4, "9Gi", 25)))
    agent = await node.agent()
    await eventually(lambda: agent.says("MpsReady").reason == "HostAbsent")
    assert agent.says("Registered").reason == "NothingToRegister"
    assert await agent.ready()
    await node.host()
    await node.advertises({MPS: 32}, within=30.0)
    await eventually(lambda: agent.says("Registered").reason == "AllRegistered")


async def test_with_spawn_the_wish_alone_starts_the_host(node: MpsNode) -> None:
    """No GPU has left what it is yet, so that nobody but the config asks for a host."""
    node.commit(time_sliced_but())
    agent = await node.agent(mps_host="spawn")
    await node.advertises({SHARED: 80})
    assert not node.layout.lock.exists()
    node.commit(time_sliced_but(mps(4, "9Gi", 25, at=TWO)))
    await node.advertises({SHARED: 60, MPS: 8}, within=20.0)
    await eventually(lambda: agent.snapshot.in_sync)


async def end_of_the_host(node: MpsNode, host: Host) -> None:
    """What the end of the host's container is: host and daemons are gone at once, and nobody has tidied up."""
    await host.kill()
    for one in node.mps_processes():
        one.process.signal(signal.SIGKILL)
    await node.runs()


@pytest.mark.parametrize("mps_host", ["external", "off"])
async def test_rules_and_host_leave_at_once(node: MpsNode, mps_host: str) -> None:
    """One commit takes MPS and its host away. Whole GPUs are offered within 15 s of the host's end, with a condition
    that says how to put their compute mode back; shares of a GPU come when that has been done. No file is removed.
    """
    node.commit(sharing(mps(4, "9Gi", 25, at=TWO), exclusive()))
    host = await node.host()
    first = await node.agent()
    await node.advertises({MPS: 8, GPU: 6})
    agent = first
    if mps_host == "off":
        await first.stop()
        agent = await node.agent(mps_host="off")
    node.commit(sharing(time_sliced(10, at=[2]), exclusive()))
    await end_of_the_host(node, host)
    await node.allocatable(7, GPU, within=BACK_AFTER_THE_HOST)
    await eventually(lambda: agent.says("MpsReady").reason == "ComputeModeLeft")
    for index in TWO:
        assert f"nvidia-smi -c 0 -i {uuid(index)}" in agent.says("MpsReady").message
    assert {gpu.uuid for gpu in agent.snapshot.inventory.gpus} >= {uuid(index) for index in TWO}
    assert SHARED not in node.kubelet.resources()
    waits = [wait for wait in agent.snapshot.plan.waits if wait.reason.value == "daemon"]
    assert [wait.uuid for wait in waits] == [uuid(2)]
    assert "exclusive-process" in waits[0].detail

    await agent.stop()
    agent = await node.agent(mps_host=mps_host)
    await eventually(lambda: agent.says("MpsReady").reason == "ComputeModeLeft")
    node.set_compute_mode(2, ComputeMode.DEFAULT)
    node.set_compute_mode(3, ComputeMode.DEFAULT)
    await node.allocatable(10, SHARED, within=BACK_AFTER_THE_HOST)
    await eventually(lambda: agent.says("MpsReady").reason == "Idle")
    assert node.layout.observed.exists()
    assert node.desired() == {}


async def test_a_host_that_comes_back_puts_the_compute_mode_back(node: MpsNode) -> None:
    """Nothing of what was offered meanwhile is taken away, and no daemon comes."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    host = await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    node.commit(sharing(exclusive()))
    await end_of_the_host(node, host)
    await node.advertises({MPS: 0, GPU: 8}, within=BACK_AFTER_THE_HOST)
    begun = node.kubelet.record.message_count
    await node.host()
    await eventually(lambda: agent.says("MpsReady").reason == "Idle")
    assert node.compute_modes()[2] == "default"
    assert all(len(message.healthy) == 8 for message in since(node, begun) if message.resource == GPU)
    await node.runs()


async def test_a_lost_state_directory_and_no_host(node: MpsNode) -> None:
    """An agent that remembers nothing finds what was asked for, and that nobody is there any more."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    host = await node.host()
    first = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    await first.stop()
    await end_of_the_host(node, host)
    for file in node.state_dir.iterdir():
        file.unlink()
    node.commit(sharing(exclusive()))
    await node.agent()
    await node.allocatable(8, GPU, within=BACK_AFTER_THE_HOST)


@pytest.mark.parametrize("mode", [ComputeMode.PROHIBITED, ComputeMode.DEFAULT])
async def test_the_driver_says_how_a_gpu_was_left(node: MpsNode, mode: ComputeMode) -> None:
    """In a compute mode in which nothing computes nothing is offered; in DEFAULT, which a person has set, all is."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    host = await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    await end_of_the_host(node, host)
    node.set_compute_mode(2, mode)
    node.commit(sharing(time_sliced(10, at=[2]), exclusive()))
    if mode is ComputeMode.DEFAULT:
        await node.allocatable(10, SHARED, within=BACK_AFTER_THE_HOST)
        assert agent.says("MpsReady").reason == "Idle"
    else:
        await eventually(lambda: "in which nothing computes" in agent.says("MpsReady").message, within=20.0)
        node.commit(sharing(exclusive()))
        await eventually(lambda: not agent.says("MpsReady").status)
        await node.allocatable(7, GPU)


async def test_a_daemon_that_outlives_its_host_keeps_its_gpu(node: MpsNode) -> None:
    """The end of the host alone is not the end of its daemons: pods may compute there."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    host = await node.host()
    agent = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    await host.kill()
    node.commit(sharing(exclusive()))
    await eventually(lambda: agent.says("MpsReady").reason == "HostAbsent", within=20.0)
    await eventually(lambda: [wait.reason.value for wait in agent.snapshot.plan.waits] == ["daemon"], within=20.0)
    await node.runs(2)
    await node.host()
    await node.advertises({MPS: 0, GPU: 8}, within=20.0)


async def test_a_root_that_cannot_be_looked_at_gives_nothing_away(node: MpsNode) -> None:
    """Where nobody can tell what an MPS host does, a GPU that was under MPS is not offered under another mode."""
    node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
    await node.host()
    first = await node.agent()
    await node.advertises({MPS: 4, GPU: 7})
    await first.stop()
    node.layout.lock.rename(node.layout.root / "away")
    node.layout.lock.symlink_to("away")
    node.commit(sharing(time_sliced(10, at=[2]), exclusive()))

    agent = await node.agent()
    await eventually(lambda: agent.says("MpsReady").reason == "Unusable", within=20.0)
    await eventually(lambda: [wait.reason.value for wait in agent.snapshot.plan.waits] == ["daemon"], within=20.0)
    assert SHARED not in node.kubelet.resources()
    node.layout.lock.unlink()
    (node.layout.root / "away").rename(node.layout.lock)
    await node.host()  # the one before has ended: its lock was not where others look for it
    await node.allocatable(10, SHARED, within=20.0)


async def test_the_clients_memory_is_a_file_system_of_its_own(mps_control: Path) -> None:
    """Daemons and clients share one tmpfs of the size that was asked for, under the MPS root."""
    async with MpsNode(mps_control, shm_size="32Mi") as node:
        node.commit(sharing(mps(4, "9Gi", 25, at=[2]), exclusive()))
        await node.host()
        await node.agent()
        await node.advertises({MPS: 4, GPU: 7})
        pod = await node.kubelet.admit("pod", containers={"main": {MPS: 1}})
        assert pod.mounts("main")["/dev/shm"] == str(node.layout.shared_memory)
        (node.layout.shared_memory / "seen").write_bytes(b"by the daemon")
        (daemon,) = (await node.runs(2)).values()
        assert Path(f"/proc/{daemon.pid}/root/dev/shm/seen").read_bytes() == b"by the daemon"
        mounts = await asyncio.to_thread(Path("/proc/self/mountinfo").read_text)
        (line,) = [line for line in mounts.splitlines() if f" {node.layout.shared_memory} " in line]
        assert "size=32768k" in line


def since(node: MpsNode, count: int) -> list[ListMessage]:
    """The lists that the kubelet has got after the first `count`."""
    messages = list(node.kubelet.record.messages)
    return messages[count - node.kubelet.record.message_count :] if count < node.kubelet.record.message_count else []


def _sick(devices: Mapping[str, bool]) -> set[str]:
    return {id_.partition("::")[0] for id_, healthy in devices.items() if not healthy}
