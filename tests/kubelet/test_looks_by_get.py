"""Looks by `Get`: of the pods that are known, no faster than the kubelet allows; by `List` where it must be."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from nodeagent.kubelet import names
from nodeagent.kubelet.pod_resources import PodResources
from nodeagent.model.kubelet import Holder, Looks, PodListing, PodResourcesReason
from tests.kubelet.pod_books import Context, PodBooks
from tests.kubelet.support import GPU
from tests.waiting import eventually

POD = ("default", "pod")
OFTEN = Looks(0.02, {POD: 0.0})
NEVER = float("inf")
EMPTY = '{"Data": {"PodDeviceEntries": null}}'


@dataclass
class Traffic:
    """From when on it is quiet, and when there is a lull."""

    quiet: float = float("-inf")
    lull: float = float("-inf")
    listing: bool = False
    allocated: Callable[[], None] = lambda: None

    def when_allocated(self, call: Callable[[], None]) -> None:
        self.allocated = call

    def quiet_at(self) -> float:
        return self.quiet

    def lull_at(self) -> float:
        return self.lull

    def list_begins(self) -> None:
        assert not self.listing
        self.listing = True

    def list_ends(self) -> None:
        assert self.listing
        self.listing = False


@dataclass
class Looking:
    """PodResources at work."""

    looks: PodResources
    traffic: Traffic
    calls: Counter[tuple[str, str]]
    without: list[float] = field(default_factory=list)
    woken: int = 0

    @property
    def listing(self) -> PodListing:
        listing = self.looks.status.listing
        assert listing is not None
        assert self.looks.status.reason is PodResourcesReason.LISTED, self.looks.status.message
        return listing

    @property
    def lists(self) -> int:
        return self.calls["list", "ok"]

    def holders(self) -> dict[str, tuple[str, ...]]:
        return {holder.pod: holder.ids for holder in self.listing.holders}


@pytest.fixture
async def books(tmp_path: Path) -> AsyncIterator[PodBooks]:
    """A kubelet with `Get` and a checkpoint, and one pod with one device."""
    (tmp_path / names.CHECKPOINT).write_text(EMPTY)
    async with PodBooks(tmp_path / names.KUBELET_SOCKET, serves_get=True) as service:
        service.pods[(*POD, "main")] = {GPU: ["GPU-0"]}
        service.allocatable = {GPU: ["GPU-0", "GPU-1"]}
        yield service


@asynccontextmanager
async def looking(
    tmp_path: Path, *, deadline: float = 2.0, cgroups: Callable[[], frozenset[str] | None] = lambda: None
) -> AsyncIterator[Looking]:
    """PodResources that has looked once, until the end of the block."""
    socket, traffic, calls = tmp_path / names.KUBELET_SOCKET, Traffic(), Counter[tuple[str, str]]()

    def wake() -> None:
        world.woken += 1

    looks = PodResources(
        socket,
        socket.with_name(names.CHECKPOINT),
        wake=wake,
        cgroups=cgroups,
        traffic=traffic,
        count=lambda call, result: calls.update([(call, result)]),
        count_without_window=lambda: world.without.append(time.monotonic()),
        deadline=deadline,
    )
    world = Looking(looks, traffic, calls)
    task = asyncio.create_task(looks.run())
    try:
        await eventually(lambda: looks.status.reason is PodResourcesReason.LISTED)
        yield world
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_one_list_names_the_pods_and_get_asks_for_them(books: PodBooks, tmp_path: Path) -> None:
    """What `Get` answers is the news: a pod that it does not find has ended."""
    async with looking(tmp_path) as world:
        assert world.listing.by_list
        listed_at = world.listing.begun_at
        world.looks.follow(OFTEN)
        await eventually(lambda: books.gets.count(POD) > 3)
        assert world.holders() == {"pod": ("GPU-0",)}
        assert (world.listing.by_list, world.listing.listed_at) == (False, listed_at)
        books.pods[(*POD, "main")] = {GPU: ["GPU-0", "GPU-1"]}
        await eventually(lambda: world.holders() == {"pod": ("GPU-0", "GPU-1")})
        books.pods.clear()
        await eventually(lambda: world.holders() == {})
        assert world.lists == books.looks == 1
        assert world.calls["get", "not_found"] == 2  # whether Get is served was asked with a pod that cannot be


async def test_pods_are_asked_for_as_often_as_they_matter(books: PodBooks, tmp_path: Path) -> None:
    """Those of other plugins not at all; of all others what was known is repeated."""
    books.pods["default", "seldom", "main"] = {GPU: ["GPU-1"]}
    books.pods["default", "foreign", "main"] = {"example.com/nic": ["nic-0"]}
    async with looking(tmp_path) as world:
        world.looks.follow(Looks(0.02, {POD: 0.0, ("default", "seldom"): 30.0}))
        await eventually(lambda: books.gets.count(POD) > 5)
        assert set(books.gets) == {("", ""), POD}
        assert world.holders().keys() == {"pod", "seldom", "foreign"}


@pytest.mark.parametrize("details", ["PodResources API Get method disabled", "something else"])
async def test_a_kubelet_whose_get_is_behind_a_gate_is_asked_by_list(
    books: PodBooks, tmp_path: Path, details: str
) -> None:
    """Whatever it says instead of an answer: every look is a `List`, as it always was."""

    async def refuse(context: Context) -> None:
        await context.abort(grpc.StatusCode.UNKNOWN, details)

    books.before_get = refuse
    async with looking(tmp_path) as world:
        world.looks.follow(OFTEN)
        await eventually(lambda: books.looks > 5)
        assert world.listing.by_list
        assert books.gets == [("", "")]


async def test_a_kubelet_that_serves_get_no_more_is_asked_by_list(books: PodBooks, tmp_path: Path) -> None:
    """And what it had said by then stays held."""

    async def refuse(context: Context) -> None:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method")

    async with looking(tmp_path) as world:
        books.before_get = refuse
        world.looks.follow(OFTEN)
        await eventually(lambda: books.looks > 5)
        assert world.holders() == {"pod": ("GPU-0",)}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text('{"Data": 7}')])
async def test_without_the_checkpoint_every_look_is_a_list(
    books: PodBooks, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    """A pod that has come since the last `List` would be seen by nobody. The status says so, and `Get` will do again as
    soon as the file can be read.
    """
    async with looking(tmp_path) as world:
        checkpoint = tmp_path / names.CHECKPOINT
        world.looks.follow(OFTEN)
        await eventually(lambda: books.gets.count(POD) > 2)
        damage(checkpoint)
        await eventually(lambda: books.looks > 3)
        assert str(checkpoint) in world.looks.status.message
        assert world.listing.by_list
        checkpoint.write_text(EMPTY)
        asked = len(books.gets)
        await eventually(lambda: len(books.gets) > asked + 2)
        assert world.looks.status.message == ""


async def test_a_look_says_which_pods_of_the_checkpoint_have_a_cgroup(books: PodBooks, tmp_path: Path) -> None:
    """Of others nobody asks. Without a checkpoint nothing is known of any, which is not that they have none."""
    checkpoint = tmp_path / names.CHECKPOINT
    entry = {"PodUID": "u1", "ContainerName": "c", "ResourceName": GPU, "DeviceIDs": {"-1": ["GPU-0"]}}
    checkpoint.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}}))
    found: list[frozenset[str] | None] = [frozenset({"u1", "u2"})]
    async with looking(tmp_path, cgroups=lambda: found[0]) as world:
        world.looks.follow(OFTEN)
        await eventually(lambda: world.listing.cgroups == frozenset({"u1"}))
        found[0] = frozenset({"u2"})
        await eventually(lambda: world.listing.cgroups == frozenset())
        checkpoint.unlink()
        await eventually(lambda: world.listing.cgroups is None)
        checkpoint.write_text(EMPTY)
        await eventually(lambda: world.listing.cgroups == frozenset())
        found[0] = None
        await eventually(lambda: world.listing.cgroups is None)


async def test_a_look_says_whom_it_has_asked_for(books: PodBooks, tmp_path: Path) -> None:
    """Of everybody else it repeats what was known."""
    books.pods["default", "seldom", "main"] = {GPU: ["GPU-1"]}
    async with looking(tmp_path) as world:
        world.looks.follow(Looks(0.02, {POD: 0.0, ("default", "seldom"): 30.0}))
        await eventually(lambda: books.gets.count(POD) > 1)
        assert world.listing.asked == {POD}


async def test_a_needed_list_waits_for_a_quiet_window(books: PodBooks, tmp_path: Path) -> None:
    """Meanwhile looks by `Get` go on; it wakes the agent when it has been."""
    async with looking(tmp_path) as world:
        world.traffic.quiet = time.monotonic() + 0.5
        world.looks.follow(Looks(0.02, {POD: 0.0}, list_at=time.monotonic()))
        await eventually(lambda: world.listing.listed_at >= world.traffic.quiet)
        assert world.lists == 2
        assert books.gets.count(POD) > 3
        assert not world.without
        assert world.woken == 2


async def test_a_needed_list_does_not_wait_for_ever(books: PodBooks, tmp_path: Path) -> None:
    """A second after the two it goes, and is counted, though a device is chosen all the time."""
    async with looking(tmp_path) as world:
        world.traffic.quiet = world.traffic.lull = NEVER
        asked = time.monotonic()
        world.looks.follow(Looks(0.02, list_at=asked))
        await eventually(lambda: books.looks == 2)
        (gone,) = world.without
        assert gone >= asked + 3.0


async def test_a_list_without_a_window_goes_right_after_an_allocate(books: PodBooks, tmp_path: Path) -> None:
    """Nothing else says that the device is no longer merely chosen: it has to be noticed at once."""
    async with looking(tmp_path) as world:
        world.traffic.quiet = world.traffic.lull = NEVER
        asked = time.monotonic()
        world.looks.follow(Looks(30.0, list_at=asked))
        await eventually(lambda: time.monotonic() > asked + 2.1)
        assert books.looks == 1
        world.traffic.lull = time.monotonic() + 0.02
        world.traffic.allocated()
        await eventually(lambda: books.looks == 2)
        (gone,) = world.without
        assert world.traffic.lull <= gone < asked + 3.0


async def test_a_list_for_names_waits_until_it_is_quiet(books: PodBooks, tmp_path: Path) -> None:
    """However long: nothing depends on it."""
    async with looking(tmp_path) as world:
        world.traffic.quiet = NEVER
        world.looks.follow(Looks(0.02, {POD: 0.0}, names_at=time.monotonic()))
        await eventually(lambda: books.gets.count(POD) > 110)  # more than two seconds
        assert books.looks == 1
        world.traffic.quiet = float("-inf")
        await eventually(lambda: books.looks == 2)
        assert not world.without


async def test_lists_for_names_are_few(books: PodBooks, tmp_path: Path) -> None:
    """Ten in a row, then one in thirty seconds: pods that come and go without end do not make them many."""
    async with looking(tmp_path) as world:
        before = time.monotonic()
        for _ in range(200):
            world.looks.follow(Looks(0.05, names_at=time.monotonic()))
            await asyncio.sleep(0.01)
            if time.monotonic() > before + 1.5:
                break
        assert 2 < books.looks <= 11


async def test_many_pods_are_asked_for_in_turn_at_the_kubelets_pace(books: PodBooks, tmp_path: Path) -> None:
    """Fifty calls a second, those first whose answers are oldest."""
    pods = {("default", f"pod-{number}"): 0.0 for number in range(60)}
    for namespace, name in pods:
        books.pods[namespace, name, "main"] = {GPU: [f"GPU-{name}"]}
    async with looking(tmp_path) as world:
        begun = time.monotonic()
        world.looks.follow(Looks(0.5, pods))
        await eventually(lambda: len(books.gets) > 60)
        assert set(books.gets[1:61]) == pods.keys()
        assert len(books.gets) <= 10 + 50 * (time.monotonic() - begun)
        assert world.looks.status.reason is PodResourcesReason.LISTED


async def test_looks_that_are_asked_for_keep_the_pace(books: PodBooks, tmp_path: Path) -> None:
    """Fifty calls a second for pods, also where every admission asks for a look."""
    pods = {("default", f"pod-{number}"): 0.0 for number in range(20)}
    for namespace, name in pods:
        books.pods[namespace, name, "main"] = {GPU: [f"GPU-{name}"]}
    async with looking(tmp_path) as world:
        begun = time.monotonic()
        world.looks.follow(Looks(30.0, pods))
        while len(books.gets) < 100:
            world.looks.request()
            await asyncio.sleep(0.01)
        assert len(books.gets) <= 1 + 25 + 50 * (time.monotonic() - begun)
        assert set(books.gets[1:]) == pods.keys()


async def test_a_rate_limit_in_the_middle_of_a_look_loses_nothing(books: PodBooks, tmp_path: Path) -> None:
    """Who was not asked for stays as known, and is asked for next."""
    books.pods["default", "second", "main"] = {GPU: ["GPU-1"]}
    refused = 0

    async def limit(context: Context) -> None:
        nonlocal refused
        if books.gets[-1] == ("default", "second") and refused < 3:
            refused += 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    async with looking(tmp_path) as world:
        books.before_get = limit
        del books.pods[(*POD, "main")]
        world.looks.follow(Looks(0.02, {POD: 0.0, ("default", "second"): 0.0}))
        await eventually(lambda: world.calls["get", "ok"] > 0)
        assert world.holders() == {"second": ("GPU-1",)}
        assert world.calls["get", "limited"] == 3


async def test_a_get_that_fails_is_a_look_that_fails(books: PodBooks, tmp_path: Path) -> None:
    """A kubelet that does not answer is not taken for one without pods."""

    async def hang(_context: Context) -> None:
        await asyncio.Event().wait()

    async with looking(tmp_path, deadline=0.2) as world:
        books.before_get = hang
        world.looks.follow(OFTEN)
        await eventually(lambda: world.looks.status.reason is PodResourcesReason.TIMEOUT)
        assert world.looks.status.listing is not None
        assert world.looks.status.listing.holders == (Holder(*POD, "main", GPU, ("GPU-0",)),)
        assert world.lists == 1


async def test_a_new_kubelet_is_listed_before_it_is_asked_for_pods(books: PodBooks, tmp_path: Path) -> None:
    """It knows none of them at first: that `Get` does not find one would say nothing."""
    async with looking(tmp_path) as world:
        world.looks.follow(OFTEN)
        await eventually(lambda: books.gets.count(POD) > 1)
        await books.restart()
        await eventually(lambda: books.looks == 2)
        await eventually(lambda: world.holders() == {"pod": ("GPU-0",)})
