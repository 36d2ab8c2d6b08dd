"""Anything happens in any order to a node with GPUs under MPS: real daemons, a real host, a real agent."""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.conftest import Soak
from tests.soak.mps_world import LoopThread, World

WHICH = st.integers(0, 999)
SEEDS = st.integers(0, 2**32 - 1)
SELDOM = st.integers(0, 5).map(lambda drawn: drawn == 5)
STEPS = 16

SETTINGS = settings(
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    print_blob=True,
    report_multiple_bugs=False,
    # What happens in a node at the same time cannot be repeated, so nothing is to be learnt from smaller examples.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class Deeds(RuleBasedStateMachine):
    """One sequence. It ends with the node at rest.

    Nothing that is drawn depends on the node. When it has had a fault nothing more is done to it, and each sequence
    from then on, which is the same one tried again, ends by telling of that fault.
    """

    world: ClassVar[World]
    thread: ClassVar[LoopThread]

    @initialize(seed=SEEDS, all_gpus=SELDOM)
    def begins(self, seed: int, *, all_gpus: bool) -> None:
        self.world.watch.forget()
        self._do(self.world.commit(seed, all_gpus=all_gpus))

    @rule(seed=SEEDS, all_gpus=SELDOM)
    def commit(self, seed: int, *, all_gpus: bool) -> None:
        self._do(self.world.commit(seed, all_gpus=all_gpus))

    @rule(which=WHICH, shares=st.sampled_from([1, 1, 2]), count=st.integers(1, 4))
    def pods_come(self, which: int, shares: int, count: int) -> None:
        for number in range(count):
            self._do(self.world.pod_comes(which + number, shares))

    @rule(which=WHICH, count=st.integers(1, 4))
    def pods_end(self, which: int, count: int) -> None:
        for _ in range(count):
            self._do(self.world.pod_ends(which))

    @rule(which=WHICH)
    def daemon_dies(self, which: int) -> None:
        self._do(self.world.daemon_dies(which))

    @rule(which=WHICH, seldom=SELDOM, for_good=SELDOM)
    def daemon_hangs(self, which: int, *, seldom: bool, for_good: bool) -> None:
        if seldom:
            self._do(self.world.daemon_hangs(which, for_good=for_good))

    @rule(which=WHICH)
    def daemon_goes_on(self, which: int) -> None:
        self._do(self.world.daemon_goes_on(which))

    @rule(which=WHICH, threads=st.integers(1, 100))
    def limits_change(self, which: int, threads: int) -> None:
        self._do(self.world.limits_change(which, threads))

    @rule()
    def host_dies(self) -> None:
        self._do(self.world.host_dies())

    @rule()
    def host_comes(self) -> None:
        self._do(self.world.host_comes())

    @rule(goes=st.integers(0, 2).map(lambda drawn: drawn == 2))
    def agent_goes(self, *, goes: bool) -> None:
        if goes:
            self._do(self.world.agent_goes())

    @rule()
    def agent_comes(self) -> None:
        self._do(self.world.agent_comes())

    @rule(seconds=st.floats(0.0, 1.5))
    def nothing_happens(self, seconds: float) -> None:
        self._do(self.world.waits(seconds))

    def teardown(self) -> None:
        self._do(self.world.rests())
        self.world.watch.check()

    def _do(self, deed: Coroutine[Any, Any, None]) -> None:
        self.thread.do(self.world.unless_faulty(deed))


@pytest.fixture
def thread() -> Iterator[LoopThread]:
    """A loop that runs beside the test."""
    with LoopThread() as thread:
        yield thread


@pytest.fixture
def world(thread: LoopThread, mps_control: Path) -> Iterator[World]:
    """A node in that loop, with an agent and a host."""

    async def opened() -> World:
        return await World(mps_control).__aenter__()

    world = thread.do(opened())
    yield world
    # Demands that the kubelet saw no promise broken, and that nobody logged a fault of its own.
    thread.do(world.__aexit__(None, None, None))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_whatever_happens_to_daemons_and_pods(
    soak: Soak, world: World, thread: LoopThread, tell: Callable[[str], None]
) -> None:
    """No order of configs, pods, deaths of daemons, hosts and agents, and clients that change limits breaks a rule of
    the shares: none is offered without its daemon, no daemon ends under them, what a pod was promised stays, other GPUs
    are not touched; and when all is quiet the node is what Git says.
    """

    class Sequence(Deeds):
        pass

    Sequence.world, Sequence.thread = world, thread
    begun = time.monotonic()
    try:
        run_state_machine_as_test(seed(soak.seed)(Sequence), settings=settings(SETTINGS, max_examples=soak.times(200)))
    finally:
        deeds = ", ".join(f"{count} {name}" for name, count in sorted(world.deeds.items()))
        tell(f"{time.monotonic() - begun:.0f} s, {world.watch.looks} looks, {deeds}")
