"""What can be done to a node with GPUs under MPS, one thing after the other, and what is true when it is left alone.

One node, kubelet, agent and host serve any number of sequences of such deeds: what one sequence leaves behind is where
the next one begins. Whatever happens, the node is watched (`mps_watch`).
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import threading
import time
import traceback
from collections import Counter
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from nodeagent.mps.control import ControlError
from nodeagent.mps.process import Process
from nodeagent.sim.pods import AdmissionError, ContainerError, Pod
from tests.agent.harness import InProcess
from tests.agent.mps_node import Host, MpsNode
from tests.soak.layouts import BATCH
from tests.soak.mps_layouts import Layout, arbitrary, changed, limited, settled
from tests.soak.mps_watch import Watch
from tests.waiting import NotInTimeError, eventually

T = TypeVar("T")

WELL_FOR = 60.0
"""Seconds after which a host starts a daemon again at once, however often it has died before."""

DEATHS = 2
"""So often a daemon is killed within that time, at most: otherwise the sequences would be spent waiting."""

SETTLES_WITHIN = 90.0
SOON = 2.5


class World:
    """The node. Use with `async with`; everything here belongs to the loop in which it was made."""

    def __init__(self, control: Path) -> None:
        self.node = MpsNode(control, history_limit=100)
        self.watch = Watch(self.node, self._newest)
        self.deeds: Counter[str] = Counter()
        self._agent: InProcess | None = None
        self._host: Host | None = None
        self._pods: list[Pod] = []
        self._halted: list[tuple[int, Process]] = []
        self._patient = False
        self._deaths: list[tuple[int, float]] = []
        self._number = itertools.count(1)

    async def __aenter__(self) -> Self:
        await self.node.__aenter__()
        self._commit(arbitrary(random.Random(0)))
        await self.host_comes()
        await self.agent_comes()
        await self.watch.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.watch.__aexit__()
        for _, process in self._halted:
            process.signal(signal.SIGCONT)
        await self.node.__aexit__(kind, error, trace)

    # --- Git and the pods ---

    async def commit(self, seed: int, *, all_gpus: bool) -> None:
        """Other GPUs are shared, or shared differently."""
        rng = random.Random(seed)
        self._commit(arbitrary(rng) if all_gpus else changed(rng, self.watch.layout))

    def _commit(self, layout: Layout) -> None:
        self.deeds["commits"] += 1
        document = layout.document(f"document {next(self._number)}")
        self.watch.commits(layout, document)
        self.node.commit(document)

    async def pod_comes(self, which: int, shares: int) -> None:
        """A pod, for shares of which the node's status says that they are free."""
        kubelet = self.node.kubelet
        places = [name for name in kubelet.resources() if kubelet.schedulable(name) >= shares]
        if not places:
            return
        place = places[which % len(places)]
        name = f"pod-{next(self._number)}"
        try:
            pod = await kubelet.admit(name, containers={"main": {place: shares}})
        except (AdmissionError, ContainerError) as error:
            self.deeds["pods refused"] += 1
            self.watch.tell(f"{name} is refused {shares} x {place}: {error}")
            for failed in kubelet.pods:
                if failed.name == name:
                    await kubelet.end(failed)
            return
        self.deeds["pods"] += 1
        self._pods.append(pod)
        self.watch.tell(f"{name} has {sorted(pod.ids())} of {place}")

    async def pod_ends(self, which: int) -> None:
        """One of those that run."""
        if self._pods:
            pod = self._pods.pop(which % len(self._pods))
            self.watch.tell(f"{pod.name} ends")
            await self.node.kubelet.end(pod)

    # --- daemons ---

    async def daemon_dies(self, which: int) -> None:
        """By SIGKILL."""
        now = time.monotonic()
        self._deaths = [death for death in self._deaths if death[1] > now - WELL_FOR]
        often = Counter(index for index, _ in self._deaths)
        if victim := _one(which, [one for one in self._running() if often[one[0]] < DEATHS]):
            self.deeds["daemons killed"] += 1
            self._deaths.append((victim[0], now))
            self.watch.kills(*victim)
            victim[1].signal(signal.SIGKILL)

    async def daemon_hangs(self, which: int, *, for_good: bool) -> None:
        """By SIGSTOP. Not `for_good`: it goes on at the end of the sequence, if not before."""
        if victim := _one(which, [one for one in self._running() if one not in self._halted]):
            self.deeds["daemons stopped"] += 1
            self._patient |= for_good
            self._halted.append(victim)
            self.watch.halts(*victim)
            victim[1].signal(signal.SIGSTOP)

    async def daemon_goes_on(self, which: int) -> None:
        """One that hangs."""
        if self._halted:
            index, process = self._halted.pop(which % len(self._halted))
            self.watch.continues(index, process)
            process.signal(signal.SIGCONT)

    async def limits_change(self, which: int, threads: int) -> None:
        """A client changes the defaults of a daemon."""
        if victim := _one(which, [one for one in self._running() if one not in self._halted]):
            self.watch.alters(victim[0])
            commands = f"set_default_active_thread_percentage {threads}", "set_default_device_pinned_mem_limit 0 70G"
            with suppress(ControlError):  # it may end in this moment
                await self.node.control(victim[0]).ask(*commands)
                self.deeds["limits changed"] += 1

    def _running(self) -> list[tuple[int, Process]]:
        """The daemons, but for those that are only just starting."""
        return [(index, process) for index, process in self.watch.kept() if process.alive()]

    # --- agent and host ---

    async def agent_goes(self) -> None:
        """It stops in order."""
        agent, self._agent = self._agent, None
        if agent is not None:
            self.deeds["agents stopped"] += 1
            self.watch.tell("the agent stops")
            await agent.stop()

    async def agent_comes(self) -> None:
        """Another agent, where there is none."""
        if self._agent is None:
            self.watch.agent_starts()
            self._agent = await self.node.agent()

    async def host_dies(self) -> None:
        """By SIGKILL."""
        host, self._host = self._host, None
        if host is not None:
            self.deeds["hosts killed"] += 1
            self.watch.tell("the host is killed")
            await host.kill()

    async def host_comes(self) -> None:
        """Another host, where there is none."""
        if self._host is None:
            self.watch.tell("a host starts")
            self._host = await self.node.host()

    # --- and in the end ---

    async def unless_faulty(self, deed: Coroutine[Any, Any, None]) -> None:
        """Do this, and look; nothing where there has been a fault. One of the deed itself is told as such."""
        if self.watch.faults:
            deed.close()
            return
        self.deeds["deeds"] += 1
        try:
            await deed
            self.watch.look()
            await self.watch.limits()
        except Exception:  # noqa: BLE001 - whatever it is, it is told at the end of the sequence
            self.watch.fault(traceback.format_exc())

    async def waits(self, seconds: float) -> None:
        """Nothing happens."""
        await asyncio.sleep(seconds)

    async def rests(self) -> None:
        """Agent and host are there, nothing hangs, all pods end: the node becomes what Git says, and is at rest."""
        await self.agent_comes()
        await self.host_comes()
        if not self._patient:
            while self._halted:
                await self.daemon_goes_on(0)
        self.watch.tell("everybody leaves")
        while self._pods:
            await self.node.kubelet.end(self._pods.pop())
        # One that hangs for good looks well until somebody has asked it.
        await eventually(lambda: not any(one.alive() for _, one in self._halted), within=SETTLES_WITHIN, every=0.05)
        self._halted, self._patient = [], False
        try:
            await eventually(self._at_rest, within=SOON, every=0.05)
        except NotInTimeError:
            await self._witness()
            await eventually(self._at_rest, within=SETTLES_WITHIN, every=0.05)
        await eventually(partial(limited, self.node), within=SETTLES_WITHIN)

    async def _at_rest(self) -> bool:
        settled(self.node, self.watch.layout)
        assert self._agent is not None
        snapshot = self._agent.snapshot
        assert self._newest() == self.watch.blob, "the agent has not read the newest document"
        assert snapshot.in_sync, (snapshot.drift, snapshot.plan)
        assert not snapshot.plan.actions, snapshot.plan
        assert not snapshot.plan.waits, snapshot.plan
        ready = self._agent.says("MpsReady")
        assert ready.status, ready
        assert set(self.watch.layout.daemons()) == self.node.daemons().keys()
        return True

    async def _witness(self) -> None:
        """One pod more, after which the kubelet's checkpoint names nobody who has gone (see `Tenants`)."""
        pod = await self.node.kubelet.admit("witness", containers={"main": {BATCH: 1}})
        calls = self.node.kubelet.allocatable_calls
        await eventually(lambda: self.node.kubelet.allocatable_calls >= calls + 3, within=SETTLES_WITHIN)
        await self.node.kubelet.end(pod)

    def _newest(self) -> str | None:
        agent = self._agent
        if agent is None or agent.agent.snapshot is None or agent.agent.snapshot.config.newest is None:
            return None
        return agent.agent.snapshot.config.newest.git_blob


def _one(which: int, victims: Sequence[T]) -> T | None:
    return victims[which % len(victims)] if victims else None


class LoopThread:
    """An event loop that goes on while the test thinks."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="world", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.do(self._loop.shutdown_default_executor())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def do(self, deed: Coroutine[Any, Any, T], within: float | None = None) -> T:
        """Have this done there, and wait until it is."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(deed, self._loop)
        return future.result(within)
