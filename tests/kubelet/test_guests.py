"""Clients of our socket that are not the kubelet: whatever they do, they do to themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import grpc
import grpc.aio
import pytest

from nodeagent.kubelet import plugin_server
from nodeagent.kubelet.plugin_server import PluginServer
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.registration import Timing
from nodeagent.kubelet.streams import GUESTS, SETTLE
from nodeagent.model.kubelet import RegistrationState
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pod_resources import Fault
from tests.kubelet.odd_kubelet import Manner, OddKubelet
from tests.kubelet.support import GPU, HASTY, Client, Running, TableDesk, running
from tests.waiting import eventually, longer

LIVE, BACKOFF = RegistrationState.LIVE, RegistrationState.BACKOFF

MANY = [f"GPU-{number:036d}::{share}" for number in range(8) for share in range(2000)]
"""So many that a list does not fit into what gRPC sends without being read."""


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[StandInKubelet]:
    """A stand-in kubelet at work."""
    async with StandInKubelet(tmp_path) as stand_in:
        yield stand_in


@pytest.fixture
async def agent(kubelet: StandInKubelet) -> AsyncIterator[Running]:
    """Plugins at work, whose registration has settled."""
    async with running(kubelet.device_plugins) as world:
        await world.reaches(LIVE)
        await eventually(lambda: kubelet.allocatable(GPU) == 2)
        await settled()
        yield world


async def settled() -> None:
    """Wait until whoever comes now to a socket that is registered is a guest."""
    at = time.monotonic() + SETTLE
    await eventually(lambda: time.monotonic() > at)


@asynccontextmanager
async def guest(agent: Running) -> AsyncIterator[Client]:
    """A client of the agent's socket; at the end its connection is closed."""
    client = Client((await eventually(agent.sockets))[0])
    try:
        yield client
    finally:
        await client.channel.close(None)


async def undisturbed(agent: Running, kubelet: StandInKubelet) -> None:
    """The kubelet has had one stream all the time, and gets what is published now."""
    agent.desk.put(GPU, "GPU-7")
    agent.plugins.publish()
    await eventually(lambda: set(kubelet.devices(GPU)) == {"GPU-7"})
    assert kubelet.streams_ended == []
    assert len(kubelet.registrations) == 1
    assert (agent.status().state, agent.status().streams) == (LIVE, 1)


async def test_a_guest_that_leaves_while_a_large_list_is_written_ends_its_own_stream(
    agent: Running, kubelet: StandInKubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """The write that fails is no fault of ours, and nobody else notices."""
    for number in range(10):
        agent.desk.put(GPU, *MANY, f"GPU-{number}")
        agent.plugins.publish()
        async with guest(agent) as client:
            stream = client.watch(pb.Empty())
            await stream.read()
            agent.desk.put(GPU, *MANY, f"GPU-again-{number}")
            agent.plugins.publish()
    await undisturbed(agent, kubelet)
    assert not [record for record in caplog.records if record.levelname in {"WARNING", "ERROR"}]


async def test_guests_that_come_and_go_are_not_noticed(agent: Running, kubelet: StandInKubelet) -> None:
    """Health checks that connect, ask for the options, open a stream and leave, read or unread."""
    for number in range(20):
        async with guest(agent) as client:
            await client.options(pb.Empty())
            stream = client.watch(pb.Empty())
            if number % 2:
                await stream.read()
    await undisturbed(agent, kubelet)


async def test_a_guest_that_does_not_read_delays_no_reload(agent: Running, kubelet: StandInKubelet) -> None:
    """What the kubelet's stream has sent is sent, and counts at once."""
    agent.desk.put(GPU, *MANY)
    agent.plugins.publish()
    async with guest(agent) as client:
        stream = client.watch(pb.Empty())
        await stream.read()
        for number in range(5):
            revision = agent.desk.put(GPU, *MANY, f"GPU-{number}").revision
            agent.plugins.publish()
            await eventually(partial(sent, agent, revision))
        await eventually(lambda: len(kubelet.devices(GPU)) == len(MANY) + 1)


def sent(agent: Running, revision: int) -> bool:
    """Whether the list of this revision counts as sent."""
    return agent.status().sent_revision == revision


async def test_guests_have_a_bound_and_the_kubelet_always_gets_in(agent: Running, kubelet: StandInKubelet) -> None:
    """A guest too many is refused with the reason; a kubelet that starts anew is served while they stay."""
    async with guest(agent) as client:
        streams = [client.watch(pb.Empty()) for _ in range(GUESTS)]
        for stream in streams:
            await stream.read()
        with pytest.raises(grpc.aio.AioRpcError, match="too many clients besides the kubelet") as refused:
            await anext(client.lists())
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await kubelet.restart()
        await agent.reaches(LIVE, registrations=2)
        await eventually(lambda: kubelet.allocatable(GPU) == 2)


async def test_a_guest_that_does_not_read_does_not_hold_up_the_end(tmp_path: Path) -> None:
    """Registering anew waits for the end of our server, and there are no devices meanwhile. The kubelet's own stream
    has its time, and its end is a clean one.
    """
    desk = TableDesk()
    desk.put(GPU, *MANY)
    server = PluginServer(GPU, desk, changed=lambda: None, on_allocate=lambda *_: None)
    path = await server.serve(tmp_path)
    slow, kubelet = Client(path), Client(path)
    unread = [slow.watch(pb.Empty()) for _ in range(GUESTS)]
    for one in unread:
        await one.initial_metadata()
    server.streams.expect()
    stream = kubelet.watch(pb.Empty())
    await stream.read()
    async with asyncio.timeout(longer(20)):
        await server.stop(60.0)
    assert await stream.read() is grpc.aio.EOF
    for one in unread:
        one.cancel()
    await slow.channel.close(None)
    await kubelet.channel.close(None)


async def test_connections_that_nobody_uses_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing at all, and one without a call: else they would use up the file descriptors. One with a
    stream stays.
    """
    options = [
        (name, min(value, 300) if name.endswith("_ms") else value) for name, value in plugin_server.OPTIONS_OF_SERVER
    ]
    monkeypatch.setattr(plugin_server, "OPTIONS_OF_SERVER", options)
    desk = TableDesk()
    server = PluginServer(GPU, desk, changed=lambda: None, on_allocate=lambda *_: None)
    path = await server.serve(tmp_path)
    server.streams.expect()
    kubelet, idle = Client(path), Client(path)
    lists = kubelet.lists()
    await anext(lists)
    await idle.options(pb.Empty())
    reader, writer = await asyncio.open_unix_connection(path)
    async with asyncio.timeout(longer(20)):
        while await reader.read(4096):
            pass
    await eventually(lambda: idle.channel.get_state() is not grpc.ChannelConnectivity.READY)
    desk.put(GPU, "GPU-0")
    server.publish()
    assert await anext(lists) == {"GPU-0": "Healthy"}
    writer.close()
    await idle.channel.close(None)
    await kubelet.channel.close(None)
    await server.stop(0)


async def come_and_go(directory: Path) -> None:
    """Open a stream on every socket of ours as soon as it is there, again and again, and leave at once."""
    while True:
        for path in directory.glob("nodeagent-*.sock"):
            client = Client(path)
            try:
                with suppress(grpc.aio.AioRpcError):
                    await client.options(pb.Empty(), timeout=1)
                    await client.watch(pb.Empty(), timeout=1).read()
            finally:
                await client.channel.close(None)
        await asyncio.sleep(0)


async def test_guests_within_the_moment_of_register_do_no_harm(kubelet: StandInKubelet) -> None:
    """A guest that opens its stream just when the kubelet does cannot be told from it. When it ends, the kubelet is
    asked whether it has our devices: nobody registers again for a guest.
    """
    guests = [asyncio.create_task(come_and_go(kubelet.device_plugins)) for _ in range(3)]
    async with running(kubelet.device_plugins) as agent:
        await agent.reaches(LIVE)
        await settled()
        await undisturbed(agent, kubelet)
        for task in guests:
            task.cancel()
        await asyncio.gather(*guests, return_exceptions=True)
        await undisturbed(agent, kubelet)


async def stay(directory: Path, opened: asyncio.Event) -> None:
    """Open a stream on the first socket of ours, and keep it."""
    path = await eventually(lambda: next(directory.glob("nodeagent-*.sock"), None), every=0.001)
    assert path is not None
    client = Client(path)
    try:
        async for _ in client.lists():
            opened.set()
    finally:
        await client.channel.close(None)


async def test_a_guest_cannot_keep_a_lost_registration_alive(kubelet: StandInKubelet) -> None:
    """Where a guest's stream looks like the kubelet's and the kubelet's ends, the kubelet shows no devices of ours: we
    register again.
    """
    opened = asyncio.Event()
    async with running(kubelet.device_plugins) as agent:
        await agent.reaches(LIVE)
        staying = asyncio.create_task(stay(kubelet.device_plugins, opened))
        await opened.wait()
        await eventually(lambda: kubelet.allocatable(GPU) == 2)
        await kubelet.end_stream(GPU)
        await agent.reaches(LIVE, registrations=2)
        await eventually(lambda: kubelet.allocatable(GPU) == 2)
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)


async def insist(path: Path) -> None:
    """Have a stream on this socket, and another one as soon as it has ended or is refused, without end."""
    client = Client(path)
    try:
        while True:
            with suppress(grpc.aio.AioRpcError):
                async for _ in client.lists():
                    pass
            await asyncio.sleep(0)
    finally:
        await client.channel.close(None)


async def test_guests_that_come_just_when_the_kubelet_leaves_do_not_stand_in_for_it(
    agent: Running, kubelet: StandInKubelet
) -> None:
    """The kubelet's stream ends, and a guest's opens in the same moment: we register again all the same."""
    (path,) = agent.sockets()
    guests = [asyncio.create_task(insist(path)) for _ in range(GUESTS + 2)]
    await eventually(lambda: kubelet.allocatable(GPU) == 2)
    await kubelet.end_stream(GPU)
    await agent.reaches(LIVE, registrations=2)
    await eventually(lambda: kubelet.allocatable(GPU) == 2)
    for task in guests:
        task.cancel()
    await asyncio.gather(*guests, return_exceptions=True)


async def test_what_cannot_be_asked_leaves_the_stream_alone(kubelet: StandInKubelet) -> None:
    """A doubt that the kubelet does not answer is none."""
    kubelet.pod_resources_fault = Fault.UNAVAILABLE
    guests = [asyncio.create_task(come_and_go(kubelet.device_plugins)) for _ in range(2)]
    async with running(kubelet.device_plugins) as agent:
        await agent.reaches(LIVE)
        await settled()
        await undisturbed(agent, kubelet)
        for task in guests:
            task.cancel()
        await asyncio.gather(*guests, return_exceptions=True)


@pytest.mark.parametrize("manner", [Manner.HANG, Manner.REFUSE])
async def test_a_guest_is_no_registration(tmp_path: Path, manner: Manner) -> None:
    """A Register that came to nothing is not made good by the stream of a guest."""
    directory = tmp_path / "device-plugins"
    directory.mkdir()
    patient = Timing(connect=1.0, register=1.0, stream=0.5, backoff=HASTY.backoff, grace=0.2)
    states: set[RegistrationState] = set()
    async with OddKubelet(directory, manner) as odd, running(directory, timing=patient) as agent:
        staying = [asyncio.create_task(stay(directory, asyncio.Event())) for _ in range(2)]
        await agent.reaches(BACKOFF)

        def tried_again() -> bool:
            states.add(agent.status().state)
            return agent.status().failures >= 2

        await eventually(tried_again)
        assert LIVE not in states
        assert agent.status().registrations == 0
        assert len(odd.registers) >= 2
        for task in staying:
            task.cancel()
        await asyncio.gather(*staying, return_exceptions=True)
