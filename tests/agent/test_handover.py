"""How devices are handed over, asked as the kubelet asks, while Git and the host's files change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from nodeagent.devices import host_files
from nodeagent.model.handover import HandOver, IdStrategy, ListStrategy
from nodeagent.sim.plugins import PluginClient, PluginError
from tests.agent.documents import GPU, SHARED, exclusive, sharing, time_sliced
from tests.agent.harness import InProcess, Node, uuid
from tests.agent.test_allocate import client
from tests.waiting import eventually

STRATEGIES = frozenset({ListStrategy.ENVVAR, ListStrategy.CDI_ANNOTATIONS, ListStrategy.CDI_CRI})


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host's files are looked at often."""
    monkeypatch.setattr(host_files, "INTERVAL", 0.05)


def specification(directory: Path, *names: str) -> Path:
    """What the container toolkit would write."""
    directory.mkdir(exist_ok=True)
    path = directory / "nvidia.json"
    document = {"cdiVersion": "0.5.0", "kind": "nvidia.com/gpu", "devices": [{"name": name} for name in names]}
    Node.write(path, json.dumps(document).encode())
    return path


def nvidias(**flags: object) -> bytes:
    """NVIDIA's file with these flags."""
    return yaml.safe_dump({"version": "v1", "flags": flags}).encode()


async def reason(agent: InProcess, expected: str) -> str:
    """The message of HandOverReady, once it has this reason."""

    def told() -> bool:
        found = agent.says("HandOverReady")
        assert found.reason == expected, found
        return True

    await eventually(told)
    return agent.says("HandOverReady").message


async def test_by_cdi_and_by_variable(node: Node) -> None:
    """With several strategies a container is told of its GPUs by each of them. Whether the specification is there is a
    condition that follows the files, and changes no answer: it may come before the container is created.
    """
    directory = node.directory / "cdi"
    node.commit(sharing(time_sliced(4, at=[0, 1]), exclusive()))
    agent = await node.agent(handover=HandOver(strategies=STRATEGIES), cdi_dirs=(directory,))
    await node.advertises({SHARED: 8, GPU: 6})
    plugin = client(node, SHARED)

    async def answers() -> None:
        first, second = [await plugin.allocate([f"{uuid(1)}::0", f"{uuid(0)}::3"]) for _ in range(2)]
        assert first == second
        assert dict(first.envs) == {"NVIDIA_VISIBLE_DEVICES": f"{uuid(0)},{uuid(1)}"}
        names = [f"nvidia.com/gpu={uuid(index)}" for index in (0, 1)]
        assert [device.name for device in first.cdi_devices] == names
        ((key, value),) = first.annotations.items()
        assert key.startswith("cdi.k8s.io/nvidia-device-plugin_")
        assert value == ",".join(names)
        assert not first.mounts
        assert not first.devices

    try:
        message = await reason(agent, "SpecMissing")
        assert message.startswith(f"no CDI specification of nvidia.com/gpu is in {directory}: ")
        await answers()
        specification(directory, *map(uuid, range(6)))
        assert "lacks GPUs 6-7 by uuid" in await reason(agent, "DevicesMissing")
        path = specification(directory, *map(uuid, range(8)))
        assert await reason(agent, "SpecFound") == ""
        assert (await agent.condition("HandOverReady"))[0]
        await answers()
        path.unlink()
        await reason(agent, "SpecMissing")
        await answers()
    finally:
        await plugin.close()


async def test_git_says_how(node: Node) -> None:
    """NVIDIA's flags take effect with the reload that brings them, on the open stream and for the next container; where
    they say nothing, the agent's options hold.
    """
    root = node.directory / "driver"
    (root / "dev").mkdir(parents=True)
    for name in ("nvidiactl", "nvidia-uvm"):
        (root / "dev" / name).touch()
    node.commit(nvidias())
    agent = await node.agent(driver_root=root, handover=HandOver(gds=True), cdi_dirs=(node.directory / "cdi",))
    await node.advertises({GPU: 8})
    sent = node.kubelet.record.message_count
    plugin = client(node, GPU)

    async def applied(generation: int) -> None:
        await eventually(lambda: agent.snapshot.config.observed_generation == generation)

    try:
        answer = await plugin.allocate([uuid(3)])
        assert dict(answer.envs) == {"NVIDIA_VISIBLE_DEVICES": uuid(3), "NVIDIA_GDS": "enabled"}
        await reason(agent, "NothingNeeded")

        plugin_flags = {"deviceListStrategy": "volume-mounts", "deviceIDStrategy": "index", "passDeviceSpecs": True}
        node.commit(nvidias(plugin=plugin_flags, gdsEnabled=False, nvidiaDriverRoot="/run/nvidia/driver"))
        await applied(2)
        await reason(agent, "NodesFound")
        answer = await plugin.allocate([uuid(3)])
        assert dict(answer.envs) == {"NVIDIA_VISIBLE_DEVICES": "/var/run/nvidia-container-devices"}
        assert [mount.container_path for mount in answer.mounts] == ["/var/run/nvidia-container-devices/3"]
        assert [(node.container_path, node.host_path, node.permissions) for node in answer.devices] == [
            (f"/dev/{name}", f"/run/nvidia/driver/dev/{name}", "rw") for name in ("nvidiactl", "nvidia-uvm", "nvidia3")
        ]

        node.commit(nvidias(plugin={"deviceListStrategy": ["cdi-cri"]}))
        await applied(3)
        await reason(agent, "SpecMissing")
        answer = await plugin.allocate([uuid(3)])
        assert [device.name for device in answer.cdi_devices] == [f"nvidia.com/gpu={uuid(3)}", "nvidia.com/gds=all"]
        assert not answer.envs

        node.commit(nvidias())
        await applied(4)
        await reason(agent, "NothingNeeded")
        answer = await plugin.allocate([uuid(3)])
        assert dict(answer.envs) == {"NVIDIA_VISIBLE_DEVICES": uuid(3), "NVIDIA_GDS": "enabled"}
        assert node.kubelet.record.message_count == sent
    finally:
        await plugin.close()


async def test_a_channel_that_must_be_there(node: Node) -> None:
    """Where an IMEX channel is required and is not there, a container is told so; once it is there it gets it."""
    root = node.directory / "driver"
    (root / "dev").mkdir(parents=True)
    node.commit(sharing(exclusive()))
    agent = await node.agent(driver_root=root, handover=HandOver(imex_channels=(0,), imex_required=True))
    await node.advertises({GPU: 8})
    plugin: PluginClient = client(node, GPU)
    try:
        await reason(agent, "ChannelMissing")
        with pytest.raises(
            PluginError, match=r"code = FailedPrecondition desc = cannot allocate nvidia.com/gpu: IMEX ch"
        ):
            await plugin.allocate([uuid(0)])
        channel = root / "dev/nvidia-caps-imex-channels/channel0"
        channel.parent.mkdir()
        channel.touch()
        await reason(agent, "NodesFound")
        answer = await plugin.allocate([uuid(0)])
        assert answer.envs["NVIDIA_IMEX_CHANNELS"] == "0"
    finally:
        await plugin.close()


async def test_mig_devices_by_index(node: Node) -> None:
    """A MIG device has no index that is known here: a container that would get one is refused, and the node says so."""
    node.simulate(2, mig={1: ["1g.10gb", "1g.10gb"]})
    node.commit(b"version: v1\nflags: {migStrategy: mixed}\n")
    agent = await node.agent(handover=HandOver(id_strategy=IdStrategy.INDEX))
    await node.advertises({GPU: 1, "nvidia.com/mig-1g.10gb": 2})
    assert "MIG devices cannot be handed over by index" in await reason(agent, "MigByIndex")
    whole, part = client(node, GPU), client(node, "nvidia.com/mig-1g.10gb")
    try:
        assert dict((await whole.allocate([uuid(0)])).envs) == {"NVIDIA_VISIBLE_DEVICES": "0"}
        (id_, _) = node.kubelet.devices("nvidia.com/mig-1g.10gb")
        with pytest.raises(PluginError, match="cannot be handed over by index; set the device id strategy to uuid"):
            await part.allocate([id_])
    finally:
        await whole.close()
        await part.close()
