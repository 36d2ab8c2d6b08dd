"""What a `List` does to a kubelet that is admitting pods: the reason for the quiet window.

The stand-in kubelet has the fault of the real one: `List` makes its set of allocated devices anew from its books, and a
device whose Allocate is under way is in the set and not in the books.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nodeagent.desk import FrontDesk
from nodeagent.kubelet import names
from nodeagent.kubelet.plugins import Plugins
from nodeagent.kubelet.pod_resources import PodResources
from nodeagent.kubelet.shown import ShownIds
from nodeagent.model.kubelet import Looks, PodResourcesReason
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Device, Listing
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pods import AdmissionError, Pod
from nodeagent.state.allocation import offers
from tests.state import make
from tests.waiting import NotInTimeError, eventually

USERS, SHARES = 4, 6
IN_FLIGHT = 0.004
"""Seconds from the choice of a device to its Allocate: what a busy kubelet takes."""

WHOLE_LIST = 2.0
"""Seconds that are waited for one, at most: pods are there only now and then."""


@dataclass
class Node:
    """A kubelet, our plugin, looks at it, and pods that come and go."""

    kubelet: StandInKubelet
    looks: PodResources
    calls: Counter[str]
    admitted: int = 0
    pods: list[Pod] = field(default_factory=list)
    twice: set[str] = field(default_factory=set)

    async def user(self, seed: int) -> None:
        """One pod after the other."""
        chance = random.Random(seed)
        for turn in range(10_000):
            with suppress(AdmissionError):
                pod = await self.kubelet.admit(f"pod-{seed}-{turn}", containers={"main": {make.SHARED: 1}})
                self.admitted += 1
                self.twice |= {share for share in pod.ids() for other in self.pods if share in other.ids()}
                self.pods.append(pod)
                await asyncio.sleep(chance.uniform(0.2, 1.0))
                self.pods.remove(pod)
                await self.kubelet.end(pod)
            await asyncio.sleep(chance.uniform(0, 0.1))


@asynccontextmanager
async def node(directory: Path, *, serves_get: bool = True, careful: bool = True) -> AsyncIterator[Node]:
    """`careful` False: `List` goes out whatever happens, as it did before."""
    desk = FrontDesk(clock=time.monotonic, wake=lambda: None)
    have = make.applied(make.entry(0, make.SLICED, range(SHARES)))
    ids = have.gpus[make.uuid_of(0)].ids(range(SHARES))
    listings = {make.SHARED: Listing(make.SHARED, 1, tuple(Device(share, healthy=True) for share in ids))}

    async def in_flight() -> None:
        # Pods have ended by now, and been forgotten: everything is free again as far as the plugin knows.
        desk.show(listings, offers(have, listings, Plan(), frozenset(), MpsStatus()))
        if careful:
            await asyncio.sleep(IN_FLIGHT)
        else:
            # The moment is not left to chance: one whole `List` falls into it.
            lists = calls["list"]
            with suppress(NotInTimeError):
                await eventually(lambda: calls["list"] >= lists + 2, within=WHOLE_LIST)

    calls: Counter[str] = Counter()
    async with StandInKubelet(directory, calls_per_second=None, serves_get=serves_get) as kubelet:
        kubelet.hooks.before_allocate = in_flight
        plugins = Plugins(
            kubelet.device_plugins,
            desk,
            subscribe=lambda _directory, _look: None,
            wake=lambda: None,
            on_allocate=lambda _resource, _result, _seconds: None,
            shown=ShownIds(kubelet.pod_resources_dir / names.KUBELET_SOCKET),
        )
        desk.show(listings, offers(have, listings, Plan(), frozenset(), MpsStatus()))
        plugins.register(make.SHARED)
        looks = PodResources(
            kubelet.pod_resources_dir / names.KUBELET_SOCKET,
            kubelet.checkpoint_path,
            wake=lambda: None,
            traffic=desk if careful else None,
            count=lambda call, _result: calls.update([call]),
        )
        found = Node(kubelet, looks, calls)
        tasks = [asyncio.create_task(plugins.run()), asyncio.create_task(looks.run())]
        try:
            await eventually(lambda: kubelet.allocatable(make.SHARED) == SHARES)
            await eventually(lambda: looks.status.reason is PodResourcesReason.LISTED)
            tasks += [asyncio.create_task(found.user(seed)) for seed in range(USERS)]
            yield found
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_list_at_any_time_makes_the_kubelet_hand_out_a_share_twice(tmp_path: Path) -> None:
    """As every look was one before: the stand-in has the real kubelet's fault."""
    async with node(tmp_path, serves_get=False, careful=False) as found:
        found.looks.follow(Looks(0.01))
        await eventually(lambda: found.twice, within=60)


@pytest.mark.parametrize("serves_get", [True, False])
async def test_a_list_in_a_quiet_window_does_not(tmp_path: Path, serves_get: bool) -> None:
    """However often one is asked for, and where every look is one, since the kubelet is too old for `Get`."""
    async with node(tmp_path, serves_get=serves_get) as found:
        while found.admitted < 60:
            pods = {(pod.namespace, pod.name): 0.0 for pod in found.pods}
            found.looks.follow(Looks(0.05, pods, list_at=time.monotonic()))
            await asyncio.sleep(0.05)
        assert not found.twice
        assert found.calls["list"] > 3
        assert (found.calls["get"] > 20) is serves_get
