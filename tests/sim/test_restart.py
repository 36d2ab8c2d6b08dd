"""A stand-in kubelet that stops and starts: sockets, connections, and what it takes over."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from nodeagent.kubelet import names
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pods import KubeletDown, Phase
from tests.sim.conftest import MakePlugin
from tests.sim.plugin import RESOURCE
from tests.waiting import eventually


async def test_a_start_wipes_every_socket_and_nothing_else(kubelet: StandInKubelet) -> None:
    """Sockets in device-plugins are removed, others' too; files and sub-directories with their sockets stay."""
    directory = kubelet.device_plugins
    (directory / "file").write_text("kept")
    (directory / "sub").mkdir()
    with socket.socket(socket.AF_UNIX) as foreign, socket.socket(socket.AF_UNIX) as nested:
        foreign.bind(str(directory / "foreign.sock"))
        nested.bind(str(directory / "sub" / "nested.sock"))
    before = (directory / names.KUBELET_SOCKET).stat().st_ino
    await kubelet.restart()
    assert (directory / names.KUBELET_SOCKET).stat().st_ino != before
    assert not (directory / "foreign.sock").exists()
    assert (directory / "sub" / "nested.sock").exists()
    assert (directory / "file").read_text() == "kept"


async def test_a_stopped_kubelet_leaves_stale_sockets(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """After stop both sockets are still there, and nobody answers."""
    tiny = await plugin("a")
    await eventually(lambda: tiny.streams == 1)
    await kubelet.stop()
    await eventually(lambda: tiny.streams == 0)
    for directory in (kubelet.device_plugins, kubelet.pod_resources_dir):
        path = directory / names.KUBELET_SOCKET
        assert stat.S_ISSOCK(path.stat().st_mode)
        with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
            client.connect(str(path))
    with pytest.raises(KubeletDown):
        await kubelet.admit("p")


async def test_pods_keep_their_ids_over_a_restart(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Allocations are taken over: nothing is allocatable until the plugin is back, and held ids stay held."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]
    pod = await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await kubelet.restart()
    assert (kubelet.allocatable(RESOURCE), kubelet.capacity(RESOURCE)) == (0, 0)
    assert kubelet.resources() == (RESOURCE,)
    assert kubelet.held(RESOURCE) == {"a"}
    assert [end.by_kubelet for end in kubelet.streams_ended] == [True]
    await tiny.stop()
    fresh = await plugin("a", "b")
    await eventually(lambda: kubelet.free(RESOURCE) == {"b"})
    second = await kubelet.admit("q", containers={"main": {RESOURCE: 1}})
    assert second.ids() == {"b"}
    assert await kubelet.restart_container(pod, "main") == {"VISIBLE": "a"}
    assert fresh.asked[-1] == ("allocate", ("b",))


async def test_a_pod_whose_container_is_down_and_whose_id_is_gone_fails_at_a_restart(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """A restarted kubelet leaves running containers alone; a stopped one needs its id on the list, or its pod is
    Failed.
    """
    await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    down = await kubelet.admit("down", containers={"main": {RESOURCE: 1}})
    up = await kubelet.admit("up", containers={"main": {RESOURCE: 1}})
    kubelet.stop_container(down, "main")
    kubelet.pods_after = 0.3
    await kubelet.restart()
    await plugin(*up.ids(), "c")
    await eventually(lambda: down.phase is Phase.FAILED)
    assert "previously allocated devices are no longer healthy" in down.message
    assert up.phase is Phase.RUNNING
    await eventually(lambda: kubelet.held(RESOURCE) == up.ids())


async def test_an_admission_ends_with_the_kubelet(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A kubelet that stops in the middle of an admission admits nothing; the pod may be admitted anew afterwards."""
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    kubelet.hooks.before_allocate = kubelet.restart
    with pytest.raises(KubeletDown):
        await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    kubelet.hooks.before_allocate = None
    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    tiny.grant.clear()
    admitting = asyncio.create_task(kubelet.admit("p", containers={"main": {RESOURCE: 1}}))
    await eventually(lambda: ("allocate", ("a",)) in tiny.asked)
    await kubelet.restart()
    with pytest.raises(KubeletDown):
        await admitting
    await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    assert (await kubelet.admit("p", containers={"main": {RESOURCE: 1}})).ids() == {"a"}


async def test_an_admission_that_waits_for_pods_ends_with_the_kubelet(kubelet: StandInKubelet) -> None:
    """After a restart admissions wait for the pods to be known, and not for ever."""
    kubelet.pods_after = 3600.0
    await kubelet.restart()
    waiting: Awaitable[object] = asyncio.create_task(kubelet.admit("p"))
    await asyncio.sleep(0)
    await kubelet.stop()
    with pytest.raises(KubeletDown):
        await waiting


async def test_the_checkpoint_has_the_kubelets_format(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Pod, container, resource, ids by NUMA node, the answer; the registered ids; a checksum. Init containers are in
    it.
    """

    def data() -> dict[str, Any]:
        content = json.loads((kubelet.device_plugins / names.CHECKPOINT).read_text())
        assert isinstance(content["Checksum"], int)
        inner: dict[str, Any] = content["Data"]
        return inner

    tiny = await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    assert data() == {"PodDeviceEntries": None, "RegisteredDevices": {RESOURCE: ["a"]}}
    pod = await kubelet.admit("p", init_containers={"prepare": {RESOURCE: 1}})
    (entry,) = data()["PodDeviceEntries"]
    assert entry.pop("AllocResp")
    assert entry == {
        "PodUID": pod.uid,
        "ContainerName": "prepare",
        "ResourceName": RESOURCE,
        "DeviceIDs": {"-1": ["a"]},
    }
    await tiny.send(["b"], node=1)
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1 and kubelet.free(RESOURCE) == {"b"})
    second = await kubelet.admit("q", containers={"main": {RESOURCE: 1}})
    entries = {entry["PodUID"]: entry["DeviceIDs"] for entry in data()["PodDeviceEntries"]}
    assert entries == {pod.uid: {"-1": ["a"]}, second.uid: {"1": ["b"]}}


async def test_the_checkpoint_keeps_finished_pods_until_the_next_admission(
    kubelet: StandInKubelet, plugin: MakePlugin
) -> None:
    """Ending a pod writes nothing; admitting the next one forgets it."""
    await plugin("a")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)

    def holders() -> list[str]:
        content = json.loads((kubelet.device_plugins / names.CHECKPOINT).read_text())
        return [entry["PodUID"] for entry in content["Data"]["PodDeviceEntries"] or ()]

    first = await kubelet.admit("first", containers={"main": {RESOURCE: 1}})
    await kubelet.end(first)
    assert holders() == [first.uid]
    second = await kubelet.admit("second", containers={"main": {RESOURCE: 1}})
    assert holders() == [second.uid]


async def test_a_corrupt_checkpoint_starts_with_empty_books(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A checkpoint that cannot be read is said so and costs the allocations, not the start."""
    (tmp_path / "device-plugins").mkdir()
    (tmp_path / "device-plugins" / names.CHECKPOINT).write_text("{")
    async with StandInKubelet(tmp_path) as kubelet:
        assert kubelet.resources() == ()
    assert "without its allocations" in caplog.text


async def test_a_socket_path_that_is_too_long_is_refused(tmp_path: Path) -> None:
    """A kubelet directory whose sockets nobody could bind is an error that says so."""
    with pytest.raises(ValueError, match="longer than 107 bytes"):
        await StandInKubelet(tmp_path / ("x" * 100)).start()


async def test_a_registration_in_flight_ends_with_the_kubelet(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A kubelet that stops while it dials back leaves the plugin with an error and nothing behind."""
    tiny = await plugin("a", register=False)
    registering = asyncio.create_task(tiny.register(endpoint="absent.sock"))
    await asyncio.wait([registering], timeout=0.1)
    assert not registering.done()
    await kubelet.stop()
    with pytest.raises(grpc.aio.AioRpcError):
        await registering
