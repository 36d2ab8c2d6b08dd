"""Registration, held against the stand-in kubelet, and against one that misbehaves."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from nodeagent.kubelet import names
from nodeagent.kubelet.plugins import Plugins, keep_running
from nodeagent.kubelet.registration import Timing
from nodeagent.model.kubelet import RegistrationState
from nodeagent.sim.kubelet import StandInKubelet
from tests.kubelet.odd_kubelet import Manner, OddKubelet
from tests.kubelet.support import GPU, HASTY, SHARED, Events, Running, TableDesk, running
from tests.waiting import eventually

LIVE, ABSENT, BACKOFF = RegistrationState.LIVE, RegistrationState.ABSENT, RegistrationState.BACKOFF
PENDING, FOREIGN = RegistrationState.PENDING, RegistrationState.FOREIGN


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[StandInKubelet]:
    """A stand-in kubelet that has not been started; its folders are there."""
    stand_in = StandInKubelet(tmp_path)
    stand_in.device_plugins.mkdir()
    yield stand_in
    await stand_in.stop()


@pytest.fixture
async def agent(kubelet: StandInKubelet) -> AsyncIterator[Running]:
    """Plugins at work beside the stand-in kubelet, which has been started."""
    await kubelet.start()
    async with running(kubelet.device_plugins) as world:
        await world.reaches(LIVE)
        yield world


@pytest.fixture
def plugins_dir(tmp_path: Path) -> Path:
    """A directory of device plugins without a kubelet."""
    directory = tmp_path / "device-plugins"
    directory.mkdir()
    return directory


async def unanswered(_resource: str) -> frozenset[str] | None:
    """A kubelet that does not say what it shows."""
    return None


def registered_once_each(kubelet: StandInKubelet, times: int) -> None:
    """The kubelet has had so many registrations, none refused and none on a live stream."""
    records = kubelet.registrations
    assert len(records) == times
    assert not any(record.error or record.over_live_stream for record in records)
    assert len({record.endpoint for record in records}) == times


async def test_a_resource_is_registered_once_and_its_list_is_allocatable(
    agent: Running, kubelet: StandInKubelet
) -> None:
    """The kubelet has one registration, one stream and the ids of the list; Allocate reaches the desk."""
    await eventually(lambda: kubelet.allocatable(GPU) == 2)
    await kubelet.admit("pod", containers={"main": {GPU: 1}})
    assert len(agent.desk.granted) == 1
    assert agent.counted == [(GPU, "ok")]
    status = agent.status()
    assert (status.streams, status.registrations, status.failures, status.sent_revision) == (1, 1, 0, 1)
    registered_once_each(kubelet, 1)


async def test_no_event_registers_again_on_a_live_stream(agent: Running, kubelet: StandInKubelet) -> None:
    """Events in the directory, a kubelet.sock that is touched or chmodded, and register again change nothing."""
    (kubelet.device_plugins / names.KUBELET_SOCKET).chmod(0o700)
    for _ in range(20):
        agent.events.happen()
        agent.plugins.register(GPU)
        await asyncio.sleep(0)
    agent.desk.put(GPU, "GPU-0", "GPU-1", "GPU-2")
    agent.plugins.publish()
    await eventually(lambda: kubelet.allocatable(GPU) == 3)
    assert kubelet.streams_ended == []
    registered_once_each(kubelet, 1)


async def test_each_restart_of_the_kubelet_is_followed_by_one_registration(
    agent: Running, kubelet: StandInKubelet
) -> None:
    """Every new kubelet is registered with exactly once, whether or not an event tells of it."""
    for restarts in range(1, 7):
        await kubelet.restart(down_for=0.01 * restarts)
        if restarts % 2:
            agent.events.happen()
        await agent.reaches(LIVE, registrations=1 + restarts)
        registered_once_each(kubelet, 1 + restarts)
    await eventually(lambda: kubelet.allocatable(GPU) == 2)


async def test_an_absent_kubelet_is_waited_for(kubelet: StandInKubelet) -> None:
    """Without kubelet.sock nothing is tried and nothing fails; the kubelet that comes is registered with."""
    async with running(kubelet.device_plugins) as agent:
        await agent.reaches(ABSENT)
        await kubelet.start()
        await agent.reaches(LIVE)
        assert agent.status().failures == 0
        registered_once_each(kubelet, 1)


async def test_a_directory_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    """The agent may start before the kubelet has ever run on this node."""
    kubelet = StandInKubelet(tmp_path / "kubelet")
    async with running(kubelet.device_plugins) as agent:
        await agent.reaches(ABSENT)
        await kubelet.start()
        await agent.reaches(LIVE)
        await kubelet.stop()


async def test_a_stale_socket_is_retried_until_a_kubelet_listens(kubelet: StandInKubelet) -> None:
    """A kubelet.sock that nobody listens on is backed off from, and the new kubelet ends the wait."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(kubelet.device_plugins / names.KUBELET_SOCKET))
        stale.listen()
    async with running(kubelet.device_plugins, timing=replace(HASTY, backoff=(60.0, 60.0))) as agent:
        await agent.reaches(BACKOFF)
        assert "nobody listens" in agent.status().message
        await kubelet.start()
        await agent.reaches(LIVE, registrations=1)
        assert agent.status().failures == 1


async def test_a_removed_socket_is_replaced_by_a_fresh_one(agent: Running, kubelet: StandInKubelet) -> None:
    """Without its socket a resource could not be dialled again: the stream is ended first, then it registers anew."""
    (gone,) = agent.sockets()
    gone.unlink()
    agent.events.happen()
    await agent.reaches(LIVE, registrations=2)
    registered_once_each(kubelet, 2)
    assert agent.sockets() != [gone]


async def test_a_reconnect_ends_the_old_stream_before_it_registers(agent: Running, kubelet: StandInKubelet) -> None:
    """Reconnecting is safe on the real kubelet only in this order."""
    agent.plugins.reconnect(GPU)
    agent.plugins.reconnect(GPU)
    await agent.reaches(LIVE, registrations=2)
    registered_once_each(kubelet, 2)
    assert [end.by_kubelet for end in kubelet.streams_ended] == [False]
    await eventually(lambda: kubelet.allocatable(GPU) == 2)


async def test_a_list_is_sent_again_on_request(agent: Running, kubelet: StandInKubelet) -> None:
    """Resend sends the same list once more on the same stream."""
    await eventually(lambda: len(kubelet.history) == 1)
    agent.plugins.resend(GPU)
    await eventually(lambda: len(kubelet.history) == 2)
    assert kubelet.streams_ended == []


async def test_a_retired_resource_is_not_registered_again(agent: Running, kubelet: StandInKubelet) -> None:
    """Retiring ends the stream and removes the socket; neither events nor a new kubelet bring it back."""
    agent.plugins.retire(GPU)
    agent.plugins.retire(GPU)
    await eventually(lambda: kubelet.allocatable(GPU) == 0 and not agent.sockets())
    assert agent.plugins.statuses() == ()
    agent.plugins.register(SHARED)
    await kubelet.restart()
    await agent.reaches(LIVE, SHARED)
    assert [record.resource for record in kubelet.registrations] == [GPU, SHARED]


async def test_a_resource_may_come_back_at_once(agent: Running, kubelet: StandInKubelet) -> None:
    """Retire and register in one breath, twice: the new registration waits for the end of the old stream."""
    for _ in range(2):
        agent.plugins.retire(GPU)
        agent.plugins.register(GPU)
    await agent.reaches(LIVE)
    await eventually(lambda: kubelet.allocatable(GPU) == 2)
    registered_once_each(kubelet, 2)


async def test_stopping_ends_the_streams_and_removes_only_our_sockets(agent: Running, kubelet: StandInKubelet) -> None:
    """At the end the kubelet has seen every stream end, and whatever is not ours is as it was."""
    await eventually(lambda: kubelet.allocatable(GPU) == 2)
    other = kubelet.device_plugins / "other.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(other))
        await agent.plugins.stop(2.0)
        await eventually(lambda: [end.reason for end in kubelet.streams_ended] == ["EOF"])
        left = {path.name for path in kubelet.device_plugins.iterdir()}
    assert left == {names.KUBELET_SOCKET, names.CHECKPOINT, other.name}


async def test_sockets_of_a_killed_agent_are_swept(kubelet: StandInKubelet) -> None:
    """At the start, sockets that bear our name and that nobody listens on are removed; others stay."""
    dead, alive = kubelet.device_plugins / "nodeagent-dead00.sock", kubelet.device_plugins / "nodeagent-a11fe0.sock"
    (kubelet.device_plugins / "nodeagent-file00.sock").touch()
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(str(dead))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(alive))
        listener.listen()
        async with running(kubelet.device_plugins) as agent:
            await agent.reaches(ABSENT)
            assert [path.name for path in agent.sockets()] == [alive.name, "nodeagent-file00.sock"]


async def test_a_fault_in_one_resource_leaves_the_others_alone(
    agent: Running, kubelet: StandInKubelet, caplog: pytest.LogCaptureFixture
) -> None:
    """A resource whose list cannot be made backs off, with the reason; the other one is served as ever."""
    agent.desk.broken[SHARED] = RuntimeError("lost the books")
    agent.plugins.register(SHARED)
    await agent.reaches(BACKOFF, SHARED)
    assert "lost the books" in agent.status(SHARED).message
    agent.desk.put(GPU, "GPU-5")
    agent.plugins.publish()
    await eventually(lambda: set(kubelet.devices(GPU)) == {"GPU-5"})
    del agent.desk.broken[SHARED]
    await agent.reaches(LIVE, SHARED)
    assert agent.status().registrations == 1


async def test_a_bug_in_one_task_restarts_that_task(kubelet: StandInKubelet, caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen error ends one resource's task or its stream, whichever meets it first, is logged once, and the
    resource is served all the same.
    """
    await kubelet.start()
    faults = [RuntimeError("a bug")]

    def wake() -> None:
        if faults:
            raise faults.pop()

    plugins = Plugins(
        kubelet.device_plugins,
        TableDesk(),
        subscribe=Events().subscribe,
        wake=wake,
        on_allocate=lambda *_: None,
        shown=unanswered,
        timing=HASTY,
    )
    plugins.register(GPU)
    task = asyncio.create_task(plugins.run())
    await eventually(lambda: any(status.state is LIVE for status in plugins.statuses()))
    assert len([record for record in caplog.records if record.exc_info]) == 1
    await plugins.stop(1.0)
    await task


async def test_a_task_that_has_run_well_begins_its_waits_anew(caplog: pytest.LogCaptureFixture) -> None:
    """Bugs in a row are waited for longer and longer and logged once; one after a good while is like the first."""
    now, lives, slept = 0.0, iter([0.0, 0.0, 59.0, 0.0, 61.0, 0.0]), list[float]()

    async def run() -> None:
        nonlocal now
        now += next(lives)
        raise RuntimeError("a bug")

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 6:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await keep_running(run, GPU, clock=lambda: now, sleep=sleep)
    assert slept == [1, 2, 4, 8, 1, 2]
    assert len(caplog.records) == 2


def registered(odd: OddKubelet, times: int) -> bool:
    """Whether it has been registered with so often."""
    return len(odd.registers) >= times


async def test_a_list_that_cannot_be_made_is_tried_more_and_more_slowly(plugins_dir: Path) -> None:
    """A stream that ends at once by our own fault is a try that failed, though the kubelet had opened it."""
    timing = replace(HASTY, backoff=(0.05, 60.0))
    async with OddKubelet(plugins_dir, Manner.KEEP) as odd, running(plugins_dir, timing=timing) as agent:
        await agent.reaches(LIVE)
        agent.desk.broken[GPU] = RuntimeError("lost the books")
        agent.plugins.resend(GPU)
        at = [time.monotonic()]
        for tries in range(2, 7):
            await eventually(partial(registered, odd, tries))
            at.append(time.monotonic())
        assert at[-1] - at[-2] > 4 * (at[2] - at[1])


async def test_a_kubelet_that_refuses_is_tried_again_and_its_words_are_told(plugins_dir: Path) -> None:
    """The status carries the kubelet's own reason, and each try has a socket of its own, of which none is left."""
    async with OddKubelet(plugins_dir, Manner.REFUSE) as odd, running(plugins_dir) as agent:
        await eventually(lambda: agent.status().failures >= 3)
        assert "not today" in agent.status().message
        odd.manner = Manner.KEEP
        await agent.reaches(LIVE)
        assert len(set(odd.registers)) == len(odd.registers)
        assert [path.name for path in agent.sockets()] == odd.registers[-1:]


async def test_a_register_that_hangs_is_given_up(plugins_dir: Path) -> None:
    """Register has a deadline, after which it is tried again."""
    async with OddKubelet(plugins_dir, Manner.HANG) as odd, running(plugins_dir) as agent:
        await agent.reaches(BACKOFF)
        assert "DEADLINE_EXCEEDED" in agent.status().message
        odd.manner = Manner.KEEP
        await agent.reaches(LIVE)


async def test_a_register_that_hangs_does_not_hide_a_new_kubelet(plugins_dir: Path) -> None:
    """A kubelet that is replaced while it hangs in Register is forgotten at once."""
    patient = replace(HASTY, register=60.0, connect=60.0, stream=60.0)
    async with OddKubelet(plugins_dir, Manner.HANG) as old, running(plugins_dir, timing=patient) as agent:
        await eventually(lambda: len(old.registers) == 1)
        (plugins_dir / names.KUBELET_SOCKET).unlink()
        async with OddKubelet(plugins_dir, Manner.KEEP) as new:
            await agent.reaches(LIVE, registrations=1)
            assert (len(old.registers), len(new.registers)) == (1, 1)


async def test_a_kubelet_that_accepts_and_says_nothing_is_given_up(plugins_dir: Path) -> None:
    """A kubelet.sock behind which nobody speaks gRPC is backed off from."""
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(plugins_dir / names.KUBELET_SOCKET))
        mute.listen()
        async with running(plugins_dir, timing=replace(HASTY, connect=0.2)) as agent:
            await agent.reaches(BACKOFF)
            assert "no answer" in agent.status().message


async def test_nothing_registers_while_the_stream_is_awaited(plugins_dir: Path) -> None:
    """Between Register and the stream no event and no request registers again; after the wait it is a failed try."""
    async with OddKubelet(plugins_dir, Manner.FORGET) as odd, running(plugins_dir) as agent:
        await agent.reaches(PENDING, registrations=1)
        agent.plugins.reconnect(GPU)
        agent.events.happen()
        await asyncio.sleep(0)
        assert odd.registers == [agent.sockets()[0].name]
        await agent.reaches(BACKOFF)
        assert "opened no stream" in agent.status().message
        odd.manner = Manner.KEEP
        await agent.reaches(LIVE)


async def test_an_ended_stream_is_registered_anew_at_once(kubelet: StandInKubelet) -> None:
    """When the end of an older plugin takes our stream along, as it does in the kubelet, we register again."""
    await kubelet.start()
    async with running(kubelet.device_plugins) as other:
        other.desk.put(GPU, "other-0")
        await other.reaches(LIVE)
        async with running(kubelet.device_plugins) as agent:
            await agent.reaches(LIVE)
            await other.plugins.stop(1.0)
            await agent.reaches(LIVE, registrations=2)
            await eventually(lambda: set(kubelet.devices(GPU)) == {"GPU-0", "GPU-1"})
            assert any(end.by_kubelet for end in kubelet.streams_ended)


def test_a_directory_too_deep_for_sockets_is_refused(tmp_path: Path) -> None:
    """Where no socket could ever be bound, that is said before anything is tried."""
    with pytest.raises(ValueError, match="107"):
        Plugins(
            tmp_path / ("x" * 100),
            TableDesk(),
            subscribe=Events().subscribe,
            wake=lambda: None,
            on_allocate=lambda *_: None,
            shown=unanswered,
        )


def test_the_default_timing_leaves_the_kubelet_time_to_dial_back() -> None:
    """Register must outlast the 10 s in which the kubelet dials back inside it, and the backoff is 0.1 to 5 s."""
    timing = Timing()
    assert timing.register > 10
    assert timing.stream == 10
    assert timing.backoff == (0.1, 5.0)
