"""Another plugin that has our resource: proven by what the kubelet shows, never by how often our stream ends."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median

import pytest

from nodeagent.kubelet.offered import KEPT, Offered
from nodeagent.kubelet.registration import Timing
from nodeagent.kubelet.rival import Rival, RivalTiming
from nodeagent.model.kubelet import RegistrationState
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pod_resources import Fault
from tests.kubelet.odd_kubelet import Manner, OddKubelet
from tests.kubelet.support import GPU, HASTY, Running, running
from tests.sim.plugin import TinyPlugin
from tests.waiting import eventually

LIVE, FOREIGN = RegistrationState.LIVE, RegistrationState.FOREIGN
OURS, OTHERS = ("GPU-0", "GPU-1"), ("GPU-8", "GPU-9")


class Fighter(TinyPlugin):
    """A plugin that registers again as soon as its stream has ended, until it leaves."""

    _fight: asyncio.Task[None] | None = None

    async def enter(self, *ids: str) -> None:
        """Serve these ids, and register them from now on."""
        await self.serve()
        await self.send(ids)
        watching = asyncio.Event()
        self._fight = asyncio.create_task(self._keep_registering(watching))
        await watching.wait()

    async def leave(self) -> None:
        """End like a process does."""
        if self._fight is not None:
            self._fight.cancel()
            await asyncio.gather(self._fight, return_exceptions=True)
        await self.stop()

    async def _keep_registering(self, watching: asyncio.Event) -> None:
        while True:
            await self.register()
            await eventually(lambda: self.streams == 1, every=0.001)
            watching.set()
            await eventually(lambda: self.streams == 0, within=600, every=0.001)


@dataclass
class States:
    """The states that a resource was seen in, and how long the kubelet had none of its devices each time."""

    seen: list[RegistrationState] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    async def follow(self, agent: Running, kubelet: StandInKubelet) -> None:
        """Until cancelled."""
        gone: float | None = None
        while True:
            if (state := agent.status().state) not in self.seen[-1:]:
                self.seen.append(state)
            if kubelet.allocatable(GPU) == 0:
                gone = gone or time.monotonic()
            elif gone is not None:
                self.gaps.append(time.monotonic() - gone)
                gone = None
            await asyncio.sleep(0.001)


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[StandInKubelet]:
    """A stand-in kubelet at work."""
    async with StandInKubelet(tmp_path) as stand_in:
        yield stand_in


@asynccontextmanager
async def fighting(kubelet: StandInKubelet, *ids: str) -> AsyncIterator[Fighter]:
    """A fighter with these ids, which has registered. At the end it is gone."""
    fighter = Fighter(kubelet.device_plugins)
    await fighter.enter(*ids)
    await eventually(lambda: set(kubelet.devices(GPU)) == set(ids))
    try:
        yield fighter
    finally:
        await fighter.leave()


@asynccontextmanager
async def following(agent: Running, kubelet: StandInKubelet) -> AsyncIterator[States]:
    """What happens meanwhile."""
    states = States()
    task = asyncio.create_task(states.follow(agent, kubelet))
    try:
        yield states
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def passed(at: float) -> bool:
    """Whether this moment is over."""
    return time.monotonic() > at


async def ours(agent: Running, kubelet: StandInKubelet, registrations: int) -> None:
    """Wait until the resource is ours, after so many registrations."""
    await agent.reaches(LIVE, registrations=registrations)
    await eventually(lambda: kubelet.devices(GPU) == dict.fromkeys(OURS, True))


async def test_streams_that_end_again_and_again_are_no_other_plugin(kubelet: StandInKubelet) -> None:
    """A kubelet that ends our stream ten times as soon as it has our devices: each time they are back soon, and nobody
    is accused of having taken them.
    """
    async with running(kubelet.device_plugins, timing=Timing()) as agent:
        await ours(agent, kubelet, 1)
        async with following(agent, kubelet) as states:
            for number in range(10):
                await kubelet.end_stream(GPU)
                await eventually(lambda: kubelet.allocatable(GPU) == 0)
                await ours(agent, kubelet, number + 2)
            await eventually(lambda: len(states.gaps) >= 5)  # the shortest may not be seen
        assert max(states.gaps) < 5
        assert FOREIGN not in states.seen
        assert not any(record.over_live_stream for record in kubelet.registrations)


async def test_streams_that_end_now_and_then_cost_a_moment(kubelet: StandInKubelet) -> None:
    """One that has lived for a while is registered anew without a wait that grows."""
    timing = Timing(steady=0.05)
    async with running(kubelet.device_plugins, timing=timing) as agent:
        await ours(agent, kubelet, 1)
        async with following(agent, kubelet) as states:
            for number in range(10):
                await eventually(partial(passed, time.monotonic() + 2 * timing.steady))
                await kubelet.end_stream(GPU)
                await eventually(lambda: kubelet.allocatable(GPU) == 0)
                await ours(agent, kubelet, number + 2)
            await eventually(lambda: len(states.gaps) >= 5)  # the shortest may not be seen
        assert median(states.gaps) < 1
        assert FOREIGN not in states.seen


async def test_a_stream_that_ends_out_of_the_blue_is_registered_anew_at_once(kubelet: StandInKubelet) -> None:
    """Nothing is asked and nothing is waited for when it has lived for long."""
    async with running(kubelet.device_plugins, timing=replace(HASTY, short=0.0, steady=0.0)) as agent:
        await ours(agent, kubelet, 1)
        calls = kubelet.pod_resources_calls
        await kubelet.end_stream(GPU)
        await ours(agent, kubelet, 2)
        assert kubelet.pod_resources_calls == calls


async def test_a_kubelet_that_drops_every_stream_is_no_other_plugin(tmp_path: Path) -> None:
    """Not even where it does so at once and nothing can be asked: then there is no proof."""
    directory = tmp_path / "device-plugins"
    directory.mkdir()
    async with OddKubelet(directory, Manner.DROP) as odd, running(directory) as agent:
        states = set()
        while len(odd.registers) < 6:
            states.add(agent.status().state)
            await asyncio.sleep(0)
        assert FOREIGN not in states
        odd.manner = Manner.KEEP
        await agent.reaches(LIVE)


@pytest.mark.parametrize("ids", [OURS, OTHERS], ids=["the same ids", "others"])
async def test_another_plugin_is_found_and_left_alone_until_it_leaves(
    kubelet: StandInKubelet, ids: tuple[str, ...]
) -> None:
    """It restarts, which takes our stream along, and has registered again before us: the resource is left to it, as the
    status says. When it has left we are back at once.
    """
    async with fighting(kubelet, *ids) as fighter, running(kubelet.device_plugins) as agent:
        await ours(agent, kubelet, 1)
        await fighter.end_streams()
        await agent.reaches(FOREIGN)
        assert f"another plugin has {GPU}: the kubelet shows 2 ids such as {ids[0]}" in agent.status().message
        assert set(kubelet.devices(GPU)) == set(ids)
        assert agent.sockets() == []
        await agent.reaches(FOREIGN, registrations=1)
        left = time.monotonic()
        await fighter.leave()
        await ours(agent, kubelet, 2)
        assert time.monotonic() - left < HASTY.rival.waits[0]
        assert not any(record.over_live_stream for record in kubelet.registrations[-1:])


async def test_another_plugin_that_stays_is_tried_again_after_the_long_wait(kubelet: StandInKubelet) -> None:
    """We come back over it, and where it takes the resource again the next wait is longer."""
    timing = replace(HASTY, rival=RivalTiming(waits=(0.3, 60.0), look=0.05))
    async with fighting(kubelet, *OTHERS) as fighter, running(kubelet.device_plugins, timing=timing) as agent:
        await ours(agent, kubelet, 1)
        await fighter.end_streams()
        await agent.reaches(FOREIGN)
        assert "at the latest in 0.3 s" in agent.status().message
        await ours(agent, kubelet, 2)
        await fighter.end_streams()
        await agent.reaches(FOREIGN)
        assert "at the latest in 60 s" in agent.status().message


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.RATE_LIMITED, Fault.HANG])
async def test_what_cannot_be_asked_is_no_proof(kubelet: StandInKubelet, fault: Fault) -> None:
    """Another plugin that nobody can see is met with short waits; when it is seen no more while it is waited for, the
    wait ends.
    """
    timing = replace(HASTY, rival=replace(HASTY.rival, unanswered=0.3))
    async with fighting(kubelet, *OTHERS) as fighter, running(kubelet.device_plugins, timing=timing) as agent:
        await ours(agent, kubelet, 1)
        await fighter.end_streams()
        await agent.reaches(FOREIGN)
        kubelet.pod_resources_fault = fault
        await ours(agent, kubelet, 2)
        async with following(agent, kubelet) as states:
            await fighter.end_streams()
            await ours(agent, kubelet, 3)
        assert FOREIGN not in states.seen
        kubelet.pod_resources_fault = None


async def test_a_new_kubelet_ends_the_wait(kubelet: StandInKubelet) -> None:
    """Who took the resource under the old kubelet has lost it too: the new one is registered with at once."""
    async with fighting(kubelet, *OTHERS) as fighter, running(kubelet.device_plugins) as agent:
        await ours(agent, kubelet, 1)
        await fighter.end_streams()
        await agent.reaches(FOREIGN)
        await kubelet.stop()
        await fighter.leave()
        await kubelet.start()
        await ours(agent, kubelet, 2)


async def test_a_plugin_that_registered_over_ours_and_died_is_gone(kubelet: StandInKubelet) -> None:
    """The kubelet has forgotten whom it would have to drop and goes on showing the list that we sent again, also when
    our stream ends. They are our ids, and prove nothing.
    """
    async with running(kubelet.device_plugins) as agent:
        await ours(agent, kubelet, 1)
        async with fighting(kubelet, *OTHERS):
            pass
        await eventually(lambda: kubelet.allocatable(GPU) == 0)
        agent.plugins.resend(GPU)
        await eventually(lambda: kubelet.allocatable(GPU) == 2)
        async with following(agent, kubelet) as states:
            agent.plugins.reconnect(GPU)
            await ours(agent, kubelet, 2)
        assert FOREIGN not in states.seen
        await kubelet.admit("pod", containers={"main": {GPU: 1}})
        assert len(agent.desk.granted) == 1


async def test_ids_that_were_ours_a_moment_ago_prove_nothing(kubelet: StandInKubelet) -> None:
    """What the kubelet keeps may be an older list of ours, also one that an earlier server has sent; ids that we never
    had are another plugin's.
    """
    shown = frozenset(OURS)

    async def keeps(_resource: str) -> frozenset[str] | None:
        return shown

    async with running(kubelet.device_plugins, shown=keeps) as agent:
        await ours(agent, kubelet, 1)
        agent.desk.put(GPU, "GPU-5", unhealthy=("GPU-0",))
        agent.plugins.publish()
        await eventually(lambda: "GPU-5" in kubelet.devices(GPU))
        async with following(agent, kubelet) as states:
            for registrations in (2, 3):
                agent.plugins.reconnect(GPU)
                await agent.reaches(LIVE, registrations=registrations)
        assert FOREIGN not in states.seen
        shown = frozenset((*OURS, *OTHERS))
        agent.plugins.reconnect(GPU)
        await agent.reaches(FOREIGN)
        assert "shows 2 ids such as GPU-8" in agent.status().message


def test_ids_count_as_ours_for_a_while() -> None:
    """Thirty seconds from when they were offered last."""
    now = 100.0
    offered = Offered(lambda: now)
    assert offered.lately() == frozenset()
    offered.replace(frozenset(("a", "b")))
    now += 1000
    offered.replace(frozenset(("b", "c")))
    now += KEPT - 1
    offered.replace(frozenset("c"))
    assert offered.lately() == {"a", "b", "c"}
    now += 1
    assert offered.lately() == {"b", "c"}
    offered.replace(frozenset("b"))
    now += KEPT
    assert offered.lately() == {"b"}


async def test_a_view_that_has_to_be_healed_again_and_again_is_no_other_plugin(kubelet: StandInKubelet) -> None:
    """Streams that we end ourselves prove nothing either."""
    async with running(kubelet.device_plugins) as agent:
        async with following(agent, kubelet) as states:
            for number in range(6):
                await ours(agent, kubelet, number + 1)
                agent.plugins.reconnect(GPU)
            await ours(agent, kubelet, 7)
        assert FOREIGN not in states.seen


async def test_one_that_is_back_when_we_have_ended_our_stream_is_found(kubelet: StandInKubelet) -> None:
    """The kubelet showed ids that are not ours, so that we ended our stream, which takes the other plugin along; it
    registers again: it is left alone.
    """
    async with running(kubelet.device_plugins) as agent:
        await ours(agent, kubelet, 1)
        async with fighting(kubelet, *OTHERS):
            agent.plugins.reconnect(GPU)
            await agent.reaches(FOREIGN)
            assert set(kubelet.devices(GPU)) == set(OTHERS)
        await ours(agent, kubelet, 2)


async def paused(_seconds: float) -> bool:
    """No time passes, and no other kubelet comes."""
    return False


@pytest.mark.parametrize(
    ("shown", "found"),
    [
        ((frozenset(),), frozenset()),
        ((None,), frozenset()),
        ((frozenset(OURS), frozenset()), frozenset()),
        ((frozenset(OURS), None), frozenset()),
        ((frozenset(OTHERS), frozenset(OTHERS)), frozenset(OTHERS)),
    ],
)
async def test_ids_have_to_be_shown_twice(shown: tuple[frozenset[str] | None, ...], found: frozenset[str]) -> None:
    """A kubelet that is busy may be late to forget our own."""

    async def ask(_resource: str) -> frozenset[str] | None:
        return rest.pop(0)

    rest = list(shown)
    rival = Rival(GPU, ask, RivalTiming())
    assert await rival.proof(frozenset(), paused) == found
    assert rest == []


async def test_our_own_ids_are_none_of_theirs() -> None:
    """Where they may still be shown they are left out."""

    async def ask(_resource: str) -> frozenset[str] | None:
        return frozenset((*OURS, *OTHERS))

    rival = Rival(GPU, ask, RivalTiming())
    assert await rival.proof(frozenset(OURS), paused) == frozenset(OTHERS)
    assert await rival.proof(frozenset((*OURS, *OTHERS)), paused) == frozenset()


def test_the_waits_grow_and_the_last_one_is_repeated() -> None:
    """So that two plugins do not tear at the kubelet."""

    async def ask(_resource: str) -> frozenset[str] | None:
        return None

    rival = Rival(GPU, ask, RivalTiming())
    waits = []
    for _ in range(5):
        waits.append(rival.wait)
        rival.yielded += 1
    assert waits == [30, 60, 120, 120, 120]
