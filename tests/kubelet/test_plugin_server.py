"""The DevicePlugin service, asked as the kubelet asks it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import grpc.aio
import pytest

from nodeagent.kubelet.plugin_server import PluginServer, serialise
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.sockets import identity
from nodeagent.model.allocation import ContainerGrant, DeviceSpec, Mount
from nodeagent.model.shares import Device
from nodeagent.sim.plugins import PluginClient
from tests.kubelet.support import GPU, Client, TableDesk
from tests.waiting import eventually


class Served:
    """One server at work, its desk, a client, and what it has counted."""

    def __init__(self) -> None:
        self.desk = TableDesk()
        self.desk.put(GPU, "GPU-0", "GPU-1", "GPU-2", unhealthy=["GPU-2"])
        self.counted: list[str] = []
        self.changes = 0
        self.server = PluginServer(GPU, self.desk, changed=self._changed, on_allocate=self._count)
        self.path = Path()
        self.client: Client

    def _changed(self) -> None:
        self.changes += 1

    def _count(self, _resource: str, result: str, seconds: float) -> None:
        assert seconds >= 0
        self.counted.append(result)

    def put(self, *ids: str, unhealthy: tuple[str, ...] = ()) -> None:
        self.desk.put(GPU, *ids, unhealthy=unhealthy)
        self.server.publish()


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """A server with three shares, one of them unhealthy, whose Register is under way."""
    world = Served()
    world.path = await world.server.serve(tmp_path)
    world.server.streams.expect()
    world.client = Client(world.path)
    yield world
    await world.client.channel.close(None)
    await world.server.stop(0.2)


async def test_a_stream_starts_with_the_current_list_however_late_it_comes(served: Served) -> None:
    """A stream that opens after changes gets the newest list at once, with the health of each id."""
    served.put("GPU-0", "GPU-7", unhealthy=("GPU-7",))
    assert await anext(served.client.lists()) == {"GPU-0": "Healthy", "GPU-7": "Unhealthy"}


async def test_a_change_comes_on_the_open_stream(served: Served) -> None:
    """A new list replaces the old one on the stream that is open, and the revision sent is told."""
    lists = served.client.lists()
    await anext(lists)
    served.put("GPU-0")
    assert await anext(lists) == {"GPU-0": "Healthy"}
    await eventually(lambda: served.server.streams.sent_revision == served.desk.listing(GPU).revision)
    assert served.server.streams.live


async def test_nothing_is_sent_when_nothing_has_changed(served: Served) -> None:
    """Publishing the same revision sends nothing; sending it again has to be asked for."""
    lists = served.client.lists()
    first = await anext(lists)
    served.server.publish()
    following = asyncio.ensure_future(anext(lists))
    await served.client.options(pb.Empty())  # the server has been through its loop since
    assert not following.done()
    served.server.resend()
    assert await following == first


async def test_an_empty_list_is_sent(tmp_path: Path) -> None:
    """A resource of which nothing is advertised has an empty list, which is sent like any other."""
    server = PluginServer("example.com/none", TableDesk(), changed=lambda: None, on_allocate=lambda *_: None)
    client = Client(await server.serve(tmp_path))
    assert await anext(client.lists()) == {}
    await client.channel.close(None)
    await server.stop(0)


async def test_a_slow_reader_delays_nobody_and_gets_only_the_newest_list(served: Served) -> None:
    """While one stream is not read, others get every list; when it is read again it skips to the newest."""
    many = [f"GPU-{number:036d}::{share}" for number in range(8) for share in range(2000)]
    served.put(*many)
    slow = served.client.watch(pb.Empty())
    await eventually(lambda: served.server.streams.live)
    quick_client = Client(served.path)
    quick = quick_client.lists()
    await anext(quick)
    for number in range(10):
        served.put(*many, f"GPU-{number}")
        assert f"GPU-{number}" in await anext(quick)
    seen = 0
    async for message in slow:
        seen += 1
        if message.devices[-1].ID == "GPU-9":
            break
    assert seen < 11
    await quick_client.channel.close(None)


async def test_streams_end_cleanly_and_soon_when_the_server_stops(served: Served) -> None:
    """Stopping ends every stream with OK, removes the socket, and refuses what comes later."""
    stream = served.client.watch(pb.Empty())
    await stream.read()
    await served.server.stop(5.0)
    assert await stream.read() is grpc.aio.EOF
    assert await stream.code() is grpc.StatusCode.OK
    assert identity(served.path) is None
    assert not served.server.streams.live


async def test_the_newest_list_is_sent_before_the_stream_ends(served: Served) -> None:
    """What is published in the breath before the stop still goes out: the kubelet keeps the last list for minutes."""
    stream = served.client.watch(pb.Empty())
    await stream.read()
    served.put()
    await served.server.stop(5.0)
    last = await stream.read()
    assert isinstance(last, pb.ListAndWatchResponse)
    assert len(last.devices) == 0
    assert await stream.read() is grpc.aio.EOF


async def test_a_slow_reader_does_not_hold_up_the_stop(served: Served) -> None:
    """A stream that nobody reads is cut off when the grace is over."""
    served.put(*(f"GPU-{number:036d}::{share}" for number in range(8) for share in range(5000)))
    stream = served.client.watch(pb.Empty())
    await eventually(lambda: served.server.streams.live)
    async with asyncio.timeout(5):
        await served.server.stop(0.1)
    assert not served.server.streams.live
    stream.cancel()


async def test_a_client_that_goes_away_ends_its_stream(served: Served) -> None:
    """A stream whose client is gone is no longer counted."""
    await anext(served.client.lists())
    changes = served.changes
    await served.client.channel.close(None)
    await eventually(lambda: not served.server.streams.live)
    assert served.changes > changes


async def test_the_options_say_that_preferences_are_answered(served: Served) -> None:
    """The kubelet asks GetPreferredAllocation, and does not call PreStartContainer, which is answered all the same."""
    options = await served.client.options(pb.Empty())
    assert (options.get_preferred_allocation_available, options.pre_start_required) == (True, False)
    assert await served.client.pre_start(pb.PreStartContainerRequest(devices_ids=["GPU-0"])) is not None


async def test_allocate_answers_for_every_container(served: Served) -> None:
    """Each container of the request gets its own environment, in order."""
    assert await served.client.allocate(["GPU-0"], ["GPU-1"]) == [
        {"NVIDIA_VISIBLE_DEVICES": "GPU-0"},
        {"NVIDIA_VISIBLE_DEVICES": "GPU-1"},
    ]
    assert served.desk.granted == [("GPU-0",), ("GPU-1",)]
    assert served.counted == ["ok"]


async def test_allocate_says_all_that_is_granted(tmp_path: Path) -> None:
    """Variables, mounts, device nodes that may be read and written, annotations and CDI devices, each in order."""

    class Generous(TableDesk):
        def allocate(self, resource: str, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]:
            super().allocate(resource, requests)
            return [
                ContainerGrant(
                    {"A": "1"},
                    (Mount("/in", "/out"), Mount("/dev/shm", "/shm")),
                    (DeviceSpec("/dev/nvidiactl", "/root/dev/nvidiactl"), DeviceSpec("/dev/nvidia0", "/dev/nvidia0")),
                    {"cdi.k8s.io/x": "nvidia.com/gpu=0"},
                    ("nvidia.com/gpu=0", "nvidia.com/gds=all"),
                )
            ]

    desk = Generous()
    desk.put(GPU, "GPU-0")
    server = PluginServer(GPU, desk, changed=lambda: None, on_allocate=lambda *_: None)
    client = PluginClient(GPU, await server.serve(tmp_path))
    found = await client.allocate(["GPU-0"])
    assert found == pb.ContainerAllocateResponse(
        envs={"A": "1"},
        mounts=[
            pb.Mount(container_path="/in", host_path="/out", read_only=False),
            pb.Mount(container_path="/dev/shm", host_path="/shm", read_only=False),
        ],
        devices=[
            pb.DeviceSpec(container_path="/dev/nvidiactl", host_path="/root/dev/nvidiactl", permissions="rw"),
            pb.DeviceSpec(container_path="/dev/nvidia0", host_path="/dev/nvidia0", permissions="rw"),
        ],
        annotations={"cdi.k8s.io/x": "nvidia.com/gpu=0"},
        cdi_devices=[pb.CDIDevice(name="nvidia.com/gpu=0"), pb.CDIDevice(name="nvidia.com/gds=all")],
    )
    await client.close()
    await server.stop(0)


@pytest.mark.parametrize(
    ("ids", "code", "result"),
    [
        (["GPU-9"], grpc.StatusCode.NOT_FOUND, "unknown"),
        (["GPU-2"], grpc.StatusCode.FAILED_PRECONDITION, "unhealthy"),
        (["GPU-0", "GPU-1", "GPU-0"], grpc.StatusCode.INVALID_ARGUMENT, "too_many"),
    ],
)
async def test_a_refusal_has_a_status_and_says_why(
    served: Served, caplog: pytest.LogCaptureFixture, ids: list[str], code: grpc.StatusCode, result: str
) -> None:
    """What the desk refuses ends with a status of its own and the desk's words, is counted, and is no fault of ours."""
    with pytest.raises(grpc.aio.AioRpcError, match="cannot allocate") as refused:
        await served.client.allocate(ids)
    assert refused.value.code() is code
    assert served.counted == [result]
    assert not caplog.records


async def test_a_preference_is_answered_or_refused(served: Served) -> None:
    """GetPreferredAllocation gives what the desk chooses; more than there is, is refused."""
    assert await served.client.prefer(["GPU-0", "GPU-1"], ["GPU-1"], 2) == ["GPU-1", "GPU-0"]
    with pytest.raises(grpc.aio.AioRpcError, match="more shares than are available") as refused:
        await served.client.prefer(["GPU-0"], [], 2)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_bug_answers_the_kubelet_and_is_logged_with_its_traceback(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever goes wrong inside, a call ends with INTERNAL and a message, never with silence."""
    served.desk.broken[GPU] = KeyError("oops")
    for call in (served.client.allocate(["GPU-0"]), served.client.prefer(["GPU-0"], [], 1)):
        with pytest.raises(grpc.aio.AioRpcError, match="oops") as failed:
            await call
        assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert served.counted == ["error"]
    assert [bool(record.exc_info) for record in caplog.records] == [True, True]


async def test_a_counter_that_fails_does_not_fail_the_allocation(tmp_path: Path) -> None:
    """Metrics are not worth a pod."""
    desk = TableDesk()
    desk.put(GPU, "GPU-0")

    def count(_resource: str, _result: str, _seconds: float) -> None:
        raise RuntimeError("no more numbers")

    server = PluginServer(GPU, desk, changed=lambda: None, on_allocate=count)
    client = Client(await server.serve(tmp_path))
    assert await client.allocate(["GPU-0"]) == [{"NVIDIA_VISIBLE_DEVICES": "GPU-0"}]
    await client.channel.close(None)
    await server.stop(0)


async def test_a_list_that_cannot_be_made_ends_the_stream_as_our_fault(served: Served) -> None:
    """A stream for which there is no list ends with INTERNAL, and the server says that it was not the kubelet."""
    served.desk.broken[GPU] = RuntimeError("lost the books")
    with pytest.raises(grpc.aio.AioRpcError, match="lost the books"):
        await anext(served.client.lists())
    assert "lost the books" in (served.server.fault or "")


async def test_odd_paths_are_served(tmp_path: Path) -> None:
    """A directory with a space, a percent sign and letters beyond ASCII in its name is one like any other."""
    directory = tmp_path / "a b%20é"
    directory.mkdir()
    desk = TableDesk()
    server = PluginServer(GPU, desk, changed=lambda: None, on_allocate=lambda *_: None)
    path = await server.serve(directory)
    assert identity(path) is not None
    client = Client(path)
    assert await anext(client.lists()) == {}
    await client.channel.close(None)
    await server.stop(0)


async def test_a_directory_that_is_not_there_is_an_os_error(tmp_path: Path) -> None:
    """What cannot be bound says so, and names the path."""
    server = PluginServer(GPU, TableDesk(), changed=lambda: None, on_allocate=lambda *_: None)
    with pytest.raises(OSError, match="cannot bind"):
        await server.serve(tmp_path / "nowhere")
    await server.stop(0)


def test_a_device_tells_its_numa_node_where_that_is_known() -> None:
    """So that the kubelet's topology manager can align it; none is told where the driver says nothing."""
    numas = [0, None, 1, 1, None, 1023]
    devices = [Device(f"GPU-{number}", number != 3, numa) for number, numa in enumerate(numas)]
    sent = pb.ListAndWatchResponse.FromString(serialise(devices)).devices
    told = [[node.ID for node in one.topology.nodes] if one.HasField("topology") else None for one in sent]
    assert told == [[0], None, [1], [1], None, [1023]]
    health = [one.health for one in sent]
    assert [one.ID for one in sent] == [device.id for device in devices]
    assert health == ["Healthy"] * 3 + ["Unhealthy"] + ["Healthy"] * 2


def test_forty_thousand_shares_fit_the_kubelets_limit() -> None:
    """The list of 40,000 shares of GPUs with real uuids, all with a NUMA node, is below the 4 MiB that the kubelet
    receives.
    """
    uuid = "GPU-5a1b2c3d-0000-4000-8000-000000000000"
    devices = [Device(f"{uuid}::{number}", False, 1023) for number in range(40000)]
    data = serialise(devices)
    assert len(data) < 4 * 1024 * 1024
    assert len(pb.ListAndWatchResponse.FromString(data).devices) == 40000
