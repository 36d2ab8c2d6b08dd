"""Agent and MPS host die in the middle of what they do, again and again, while daemons and their pods go on."""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.agent.harness import Process
from tests.agent.mps_node import Host, MpsNode
from tests.conftest import Soak
from tests.soak.mps_layouts import arbitrary, changed, limited, settled
from tests.soak.mps_watch import Watch
from tests.soak.tenants import Tenants
from tests.waiting import NotInTimeError, eventually, together

PODS = 12
CAUTION = 10.0
"""For so many seconds after its start an agent takes nothing away, so not every agent is killed before that."""

CRASHES = 3
"""After so many crashes of its host an init is replaced: it starts the host again after ever longer pauses."""

SETTLES_WITHIN = 90.0


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_killed_at_random_moments(
    soak: Soak, rng: random.Random, mps_control: Path, tell: Callable[[str], None]
) -> None:
    """Agent and host, one of them or both, are killed at any moment while Git changes limits and modes, and pods come
    and go: daemons that are to run keep their process, none is left that is not, all have their limits, no share of
    another GPU is touched, and the node becomes what Git says.
    """
    kills = soak.times(20)
    lives = [_Life(random.Random(rng.random()), mps_control, init=init) for init in (True, False)]
    await together(life.lead(kills) for life in lives)
    for life in lives:
        tell(f"{kills} kills of each, {'an init' if life.init else 'no init'}: {life}")


class _Life:
    """One node, its agents and its hosts. With `init` the host is the child of an init, which starts it again."""

    def __init__(self, rng: random.Random, control: Path, *, init: bool) -> None:
        self.init = init
        self._rng = rng
        self._node = MpsNode(control, history_limit=100)
        self._judged: str | None = None
        self._watch = Watch(self._node, lambda: self._judged)
        self._tenants = Tenants(self._node.kubelet, rng, most=PODS)
        self._agent: Process | None = None
        self._host: Host | None = None
        self._crashes = 0
        self._documents = 0

    def __str__(self) -> str:
        return f"{self._tenants.admitted} pods, {self._watch.looks} looks"

    async def lead(self, kills: int) -> None:
        """Kill agent and host so many times each, and both once for ten of them."""
        victims = ["agent"] * kills + ["host"] * kills + ["both"] * max(1, kills // 10)
        self._rng.shuffle(victims)
        # Closing the node demands that no promise was broken, by the kubelet's own record.
        async with self._node:
            self._host = await self._node.host(init=self.init)
            self._commit()
            self._agent = await self._node.process()
            async with self._watch, self._listening():
                await self._settles()
                async with self._tenants:
                    for victim in victims:
                        await self._kill(victim)
                        if self._rng.random() < 0.5:
                            await self._tenants.rest()
                            await self._settles()
                            self._tenants.go_on()
                        self._watch.check()
                    await self._tenants.leave()
                    await self._settles()
            await self._agent.stop()

    async def _kill(self, victim: str) -> None:
        if self._rng.random() < 0.5:
            await asyncio.sleep(CAUTION * self._rng.random())
        self._commit()
        await self._moment()
        self._watch.tell(f"kill the {victim}" if victim != "both" else "kill agent and host")
        await together(
            [
                *([self._kill_agent()] if victim != "host" else []),
                *([self._kill_host()] if victim != "agent" else []),
            ]
        )
        await self._watch.limits()

    async def _moment(self) -> None:
        """Any, but most of what happens, happens at once after a commit, or after a wish of the agent."""
        kind = self._rng.randrange(3)
        if kind == 2:
            before = self._node.desired()
            with suppress(NotInTimeError):
                await eventually(lambda: self._node.desired() != before, within=5.0)
        await asyncio.sleep((0.15, 2.5, 0.25)[kind] * self._rng.random())

    async def _kill_agent(self) -> None:
        assert self._agent is not None
        await self._agent.kill()
        self._agent = await self._node.process()

    async def _kill_host(self) -> None:
        assert self._host is not None
        if not self.init:
            await self._host.kill()
            self._host = await self._node.host()
            return
        host = await eventually(self._host.child, within=SETTLES_WITHIN)
        assert host is not None
        host.signal(signal.SIGKILL)
        assert await host.ended(SETTLES_WITHIN)
        self._crashes += 1
        if self._crashes % CRASHES == 0:
            await self._host.stop()
            self._host = await self._node.host(init=True)

    def _commit(self) -> None:
        first = self._documents == 0
        self._documents += 1
        layout = arbitrary(self._rng) if first else changed(self._rng, self._watch.layout)
        document = layout.document(f"document {self._documents}")
        self._watch.commits(layout, document)
        self._node.commit(document)

    async def _settles(self) -> None:
        """The node becomes what Git says, as far as pods allow."""
        try:
            await eventually(partial(settled, self._node, self._watch.layout), within=SETTLES_WITHIN, every=0.05)
            await eventually(partial(limited, self._node), within=SETTLES_WITHIN, every=0.05)
        except NotInTimeError as error:
            self._watch.fault(str(error))
        self._watch.check()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[None]:
        """Ask the agent meanwhile which document it has judged last."""
        task = asyncio.create_task(self._listen())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _listen(self) -> None:
        while True:
            agent = self._agent
            with suppress(OSError):
                response = await agent.get("/status") if agent is not None else None
                if response is not None and response.code == 200:
                    newest = response.json["config"]["newest"]
                    self._judged = None if newest is None else newest["gitBlob"]
            await asyncio.sleep(0.3)
