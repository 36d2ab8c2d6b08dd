"""The whole agent on NVML: the real binding on a stand-in library, found by `--nvml-library`."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.sim.plugins import PluginError
from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing, time_sliced
from tests.agent.harness import Node, Process
from tests.agent.test_allocate import client
from tests.devices.worlds import gpu
from tests.fakes.nvml.library import UNKNOWN, Controls, build, connected, partitioned
from tests.waiting import eventually, longer

GPUS = tuple(replace(gpu(index), numa_node=index // 4) for index in range(8))
ISLANDS = [[0, 1, 2, 3], [4, 5, 6, 7]]
BURST = 10_000


@pytest.fixture(scope="module")
def library(gcc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in library, built once."""
    return build(gcc, tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Controls:
    """Eight GPUs in two islands."""
    controls = Controls(tmp_path / "nvml.conf", tmp_path / "calls", tmp_path / "sys")
    monkeypatch.setenv("FAKE_NVML", str(controls.path))
    has(controls)
    return controls


def has(
    controls: Controls, health: Mapping[int, GpuHealth] | None = None, mig: Mapping[int, Sequence[str]] | None = None
) -> None:
    """Have these GPUs from now on."""
    told = tuple(replace(one, health=(health or {}).get(one.index, GpuHealth.OK)) for one in GPUS)
    extra = connected(told, ISLANDS)
    for index, profiles in (mig or {}).items():
        extra |= partitioned(index, told[index], profiles)
    controls.answer(told, **extra)


async def started(node: Node, library: Path) -> Process:
    """An agent on this library."""
    return await node.process(driver="nvml", nvml_library=library)


def states(node: Node, index: int, resource: str = SHARED) -> set[bool]:
    """Whether the shares of one GPU are healthy."""
    devices = node.kubelet.devices(resource).items()
    return {healthy for id_, healthy in devices if id_.partition("::")[0] == GPUS[index].uuid}


async def test_one_of_eight_hangs(node: Node, nvml: Controls, library: Path) -> None:
    """A call that hangs on GPU 3 leaves seven advertised, and pods admitted to them; SIGTERM ends the agent in time."""
    node.commit(shares(2))
    agent = await started(node, library)
    await node.advertises({SHARED: 16})
    has(nvml, {3: GpuHealth.HANG})
    await node.allocatable(14, within=30.0)
    assert states(node, 3) == {False}
    await node.hold(14)
    node.commit(shares(3))
    await node.allocatable(21)
    assert await agent.ready()
    begun = time.monotonic()
    await agent.stop()
    assert time.monotonic() - begun < longer(5.0)


async def test_one_is_lost_and_then_a_reload(node: Node, nvml: Controls, library: Path) -> None:
    """Seven GPUs stay, rules by index go on meaning the same ones, and status names the one that is lost."""
    node.commit(sharing(time_sliced(2, at=[0, 1, 2, 3]), exclusive()))
    agent = await started(node, library)
    await node.advertises({SHARED: 8, GPU: 4})
    has(nvml, {1: GpuHealth.LOST})
    await node.allocatable(6, within=30.0)
    node.commit(sharing(time_sliced(3, at=[0, 1, 2, 3]), exclusive()))
    await node.allocatable(9)
    assert node.kubelet.allocatable(GPU) == 4
    assert len(states(node, 3)) == 1
    _, reason, message = await agent.condition("InventoryReady")
    assert reason == "GpuLost"
    assert f"GPU 1 ({GPUS[1].uuid})" in message
    found = (await agent.status())["gpus"]
    assert [(one["index"], one["health"]) for one in found] == [
        (index, "lost" if index == 1 else "ok") for index in range(8)
    ]


def by_index() -> bytes:
    """NVIDIA's file: whole GPUs, handed over by index in every way there is, with their device nodes."""
    ways = ["envvar", "cdi-annotations", "cdi-cri"]
    plugin = {"deviceIDStrategy": "index", "deviceListStrategy": ways, "passDeviceSpecs": True}
    return yaml.safe_dump({"version": "v1", "flags": {"plugin": plugin}}).encode()


async def given(node: Node, one: Gpu) -> tuple[str, ...]:
    """By what a container with this GPU is told of it."""
    plugin = client(node, GPU)
    try:
        answer = await plugin.allocate([one.uuid])
    except PluginError as error:
        return (str(error),)
    finally:
        await plugin.close()
    cdi = [device.name for device in answer.cdi_devices]
    assert list(answer.annotations.values()) == cdi
    return (answer.envs["NVIDIA_VISIBLE_DEVICES"], *cdi, *(device.host_path for device in answer.devices))


async def is_renumbered(agent: Process) -> bool:
    """Whether the driver calls a GPU by another number than the agent."""
    return (await agent.condition("GpusRenumbered"))[0]


def reboot(node: Node) -> None:
    """Have what is on disk be of another boot."""
    path = node.directory / "state" / "applied.json"
    header, _, body = path.read_bytes().partition(b"\n")
    node.write(path, json.dumps({**json.loads(header), "bootId": "another"}).encode() + b"\n" + body)


async def test_by_index_a_container_gets_what_the_driver_calls_it(node: Node, nvml: Controls, library: Path) -> None:
    """GPU 0 drops out: for the driver each of the others has one less, which is handed over, by the next agent too;
    device nodes stay. Rules and names keep the numbers. A condition says so, and the status of each GPU.
    """
    nvml.answer(GPUS[:4])
    node.commit(by_index())
    agent = await started(node, library)
    await node.advertises({GPU: 4})
    assert await given(node, GPUS[3]) == ("3", "nvidia.com/gpu=3", f"/dev/nvidia{GPUS[3].minor}")
    assert await agent.condition("GpusRenumbered") == (False, "NumbersAgree", "")

    nvml.answer(GPUS[1:4])
    await node.allocatable(3, GPU, within=30.0)
    for _ in range(2):
        for index in (1, 2, 3):
            told = f"{index - 1}"
            assert await given(node, GPUS[index]) == (told, f"nvidia.com/gpu={told}", f"/dev/nvidia{GPUS[index].minor}")
        status, reason, message = await agent.condition("GpusRenumbered")
        assert (status, reason) == (True, "NumbersDiffer")
        assert message.endswith(": GPU 1 has index 0 there, GPU 2 has index 1 there, GPU 3 has index 2 there")
        gpus = (await agent.status())["gpus"]
        assert [(one["index"], one["driverIndex"]) for one in gpus] == [(0, None), (1, 0), (2, 1), (3, 2)]
        await agent.stop()
        agent = await started(node, library)
        await node.allocatable(3, GPU, within=30.0)
        await eventually(partial(is_renumbered, agent))

    nvml.answer(GPUS[:4])
    await node.allocatable(4, GPU, within=30.0)
    assert await given(node, GPUS[1]) == ("1", "nvidia.com/gpu=1", f"/dev/nvidia{GPUS[1].minor}")
    assert await agent.condition("GpusRenumbered") == (False, "NumbersAgree", "")


async def test_a_gpu_that_was_replaced_while_another_one_hangs(node: Node, nvml: Controls, library: Path) -> None:
    """After the reboot the new GPU has a number of its own, and is handed over by the driver's; when the other one
    answers it gets the number of the one that is gone.
    """
    nvml.answer(GPUS[:4])
    node.commit(by_index())
    agent = await started(node, library)
    await node.advertises({GPU: 4})
    await agent.stop()
    reboot(node)

    new = replace(GPUS[7], minor=3)
    nvml.answer((*GPUS[:2], replace(GPUS[2], health=GpuHealth.HANG), new))
    agent = await started(node, library)
    await node.allocatable(3, GPU, within=30.0)

    async def numbers() -> dict[str, tuple[int, int | None]]:
        return {one["uuid"]: (one["index"], one["driverIndex"]) for one in (await agent.status())["gpus"]}

    assert (await numbers())[new.uuid] == (4, 3)
    assert await given(node, new) == ("3", "nvidia.com/gpu=3", "/dev/nvidia3")
    assert await is_renumbered(agent)

    nvml.answer((*GPUS[:3], new))
    await node.advertises({GPU: 4}, within=30.0)
    expected = {one.uuid: (index, index) for index, one in enumerate((*GPUS[:3], new))}

    async def settled() -> bool:
        """The one that is gone is forgotten in the turn after its last share has left."""
        return await numbers() == expected and not await is_renumbered(agent)

    await eventually(settled)


async def test_a_burst_of_events(node: Node, nvml: Controls, library: Path) -> None:
    """Ten thousand XIDs of one GPU are counted, make it unhealthy once, and cost a few turns of the loop."""
    node.commit(shares(10))
    agent = await started(node, library)
    await node.advertises({SHARED: 80})

    async def revision() -> int:
        return int((await agent.status())["snapshotRevision"])

    before = await revision()
    nvml.report(3, 79, times=BURST)
    await node.allocatable(70)

    async def counted() -> bool:
        return await agent.metric("gpu_xid_events_total", uuid=GPUS[3].uuid, xid="79") == BURST

    await eventually(counted)
    assert await revision() - before < 60
    assert agent.log.count("XID 79 (GPU has fallen off the bus): all its shares are unhealthy") == 1
    assert states(node, 3) == {False}
    assert states(node, 4) == {True}


async def test_four_gpus_of_one_island(node: Node, nvml: Controls, library: Path) -> None:
    """A container gets GPUs that NVLink joins, also when they are not the first ones."""
    node.commit(sharing(exclusive()))
    await started(node, library)
    await node.advertises({GPU: 8})
    (one,) = await node.hold(1, GPU)
    four = await node.kubelet.admit("four", containers={"main": {GPU: 4}})
    rest = {gpu.uuid for gpu in GPUS} - one.ids()
    island = next({GPUS[index].uuid for index in each} for each in ISLANDS if {GPUS[i].uuid for i in each} <= rest)
    assert four.ids() == island


async def test_instances_of_a_gpu_without_mig(node: Node, nvml: Controls, library: Path) -> None:
    """It has none, whatever the driver says: the fault is the GPU's, and that of no other. The event says whose it is,
    in whichever set it comes in.
    """
    node.commit(sharing(exclusive()))
    agent = await started(node, library)
    await node.advertises({GPU: 8})
    nvml.report(3, 79, 0, 0)
    await node.allocatable(7, GPU)
    nvml.report(5, 48, 0, 0, 7)
    await node.allocatable(6, GPU)
    assert await agent.metric("gpu_healthy", uuid=GPUS[3].uuid) == 0
    assert await agent.metric("gpu_healthy", uuid=GPUS[6].uuid) == 0
    assert await agent.metric("gpu_xid_events_total", uuid=GPUS[6].uuid, xid="48") == 1
    assert await agent.metric("gpu_xid_events_unplaced_total", uuid=GPUS[3].uuid) == 0


async def test_mig_devices(node: Node, nvml: Controls, library: Path) -> None:
    """They are offered by profile, the fault of an instance is that of its device alone, and they come and go."""
    has(nvml, mig={0: ["3g.40gb", "1g.10gb", "1g.10gb"]})
    node.commit(sharing(exclusive()))
    agent = await started(node, library)
    small, large = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb"
    await node.advertises({GPU: 7, small: 2, large: 1})
    nvml.report(0, 48, 8, 0)
    await node.allocatable(1, small)
    assert node.kubelet.allocatable(large) == 1
    has(nvml)
    await node.allocatable(8, GPU, within=30.0)
    await node.allocatable(0, small)

    async def whole_again() -> bool:
        found = (await agent.status())["gpus"]
        return [one["label"] for one in found] == [str(index) for index in range(8)]

    await eventually(whole_again)


async def test_all_device_nodes_are_taken_away(node: Node, nvml: Controls, library: Path) -> None:
    """Every call fails, as after a daemon-reload: nothing is withdrawn, and it is said what has happened. Where it
    lasts the agent ends once, in order, for a new container; the next one, which finds the same, stays and says so. The
    pods that run notice nothing of it, and new ones are admitted.
    """
    node.commit(shares(2))
    options: dict[str, Any] = {"driver": "nvml", "nvml_library": library, "restart_on_driver_change": True}
    agent = await node.process(**options)
    await node.advertises({SHARED: 16})
    await node.hold(3)
    failing = {f"gpu__{index}__error": UNKNOWN for index in range(8)} | {"error__nvmlInitWithFlags": UNKNOWN}
    nvml.answer(GPUS, **failing)
    agent.signal(signal.SIGHUP)
    await eventually(partial(said, agent, "DriverError", "systemctl daemon-reload"), within=30.0)
    assert node.kubelet.allocatable(SHARED) == 16
    assert await agent.ended(within=90.0) == 75
    assert "ending in order, so that a new container has the driver as it is" in agent.log
    assert "stopped" in agent.log

    agent = await node.process(**options)
    await eventually(
        partial(said, agent, "DriverError", "has ended itself once for it on this boot, which did not help"),
        within=60.0,
    )
    await node.advertises({SHARED: 16})
    assert len(node.kubelet.pods) == 3

    has(nvml)
    agent.signal(signal.SIGHUP)
    await eventually(partial(said, agent, "Found", "8 GPUs"), within=30.0)
    await node.hold(1, prefix="later")


async def said(agent: Process, reason: str, words: str) -> bool:
    """What InventoryReady says."""
    _, found, message = await agent.condition("InventoryReady")
    return found == reason and words in message
