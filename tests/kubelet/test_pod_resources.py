"""Looks at PodResources: complete, of one kubelet, one at a time, and as often as asked."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from nodeagent.kubelet import names
from nodeagent.kubelet.pod_resources import PodResources
from nodeagent.kubelet.sockets import identity
from nodeagent.model.kubelet import CheckpointEntry, Holder, Looks, PodListing, PodResourcesReason, PodResourcesStatus
from tests.kubelet.pod_books import Context, PodBooks
from tests.kubelet.support import GPU, SHARED
from tests.waiting import eventually

LISTED, TIMEOUT, UNAVAILABLE = PodResourcesReason.LISTED, PodResourcesReason.TIMEOUT, PodResourcesReason.UNAVAILABLE
ABSENT = PodResourcesReason.KUBELET_ABSENT


@dataclass
class Looking:
    """PodResources at work, and the statuses at which it woke the agent."""

    looks: PodResources
    checkpoint: Path
    woken: list[PodResourcesStatus] = field(default_factory=list)

    @property
    def listing(self) -> PodListing:
        listing = self.looks.status.listing
        assert listing is not None
        return listing

    async def reaches(self, reason: PodResourcesReason) -> PodResourcesStatus:
        """Wait until the last look went so."""

        def reached() -> PodResourcesStatus:
            assert self.looks.status.reason is reason, self.looks.status.message
            return self.looks.status

        return await eventually(reached)

    async def look(self) -> PodListing:
        """Ask for a look and wait for one that begun since."""
        asked = time.monotonic()
        self.looks.request()

        def fresh() -> bool:
            assert self.looks.status.reason is LISTED, self.looks.status.message
            return self.listing.begun_at >= asked

        await eventually(fresh)
        return self.listing


@pytest.fixture
def socket(tmp_path: Path) -> Path:
    """Where the kubelet serves PodResources."""
    return tmp_path / names.KUBELET_SOCKET


@pytest.fixture
async def books(socket: Path) -> AsyncIterator[PodBooks]:
    """A PodResources service that knows of one pod with one share of two."""
    async with PodBooks(socket) as service:
        service.pods["default", "pod", "main"] = {GPU: ["GPU-0"]}
        service.allocatable = {GPU: ["GPU-0", "GPU-1"]}
        yield service


@asynccontextmanager
async def looking(socket: Path, *, deadline: float = 2.0, interval: float = 60.0) -> AsyncIterator[Looking]:
    """PodResources at work until the end of the block."""

    def wake() -> None:
        world.woken.append(world.looks.status)

    checkpoint = socket.with_name(names.CHECKPOINT)
    world = Looking(PodResources(socket, checkpoint, wake=wake, deadline=deadline, interval=interval), checkpoint)
    task = asyncio.create_task(world.looks.run())
    try:
        yield world
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_look_tells_holders_and_allocatable_ids(books: PodBooks, socket: Path) -> None:
    """One entry per device becomes one holder per container and resource, and one set of ids per resource."""
    books.pods["ml", "train", "a"] = {SHARED: ["GPU-2::1", "GPU-2::0"], GPU: ["GPU-1"]}
    books.pods["ml", "idle", "main"] = {}
    before = time.monotonic()
    async with looking(socket) as world:
        await world.reaches(LISTED)
        listing = world.listing
    assert listing.holders == (
        Holder("default", "pod", "main", GPU, ("GPU-0",)),
        Holder("ml", "train", "a", GPU, ("GPU-1",)),
        Holder("ml", "train", "a", SHARED, ("GPU-2::0", "GPU-2::1")),
    )
    assert listing.allocatable == {GPU: frozenset({"GPU-0", "GPU-1"})}
    assert listing.checkpoint is None
    assert listing.kubelet == identity(socket)
    assert before <= listing.begun_at <= time.monotonic()


async def test_the_checkpoint_is_read_with_every_look(books: PodBooks, socket: Path) -> None:
    """What the checkpoint says when List has answered is part of the look; a damaged file is None."""

    async def write(_context: Context) -> None:
        entry = {"PodUID": "u", "ContainerName": "c", "ResourceName": GPU, "DeviceIDs": {"0": ["GPU-1"]}}
        world.checkpoint.write_text(json.dumps({"Data": {"PodDeviceEntries": [entry]}}))

    books.before = write
    async with looking(socket) as world:
        await world.reaches(LISTED)
        assert world.listing.checkpoint == frozenset({CheckpointEntry("u", "c", GPU, "GPU-1")})

        async def damage(_context: Context) -> None:
            world.checkpoint.write_text("{")

        books.before = damage
        assert (await world.look()).checkpoint is None


async def test_what_is_new_wakes_and_what_is_not_does_not(books: PodBooks, socket: Path) -> None:
    """A look on its own initiative wakes only when it finds something else than the one before."""
    async with looking(socket, interval=0.05) as world:
        await world.reaches(LISTED)
        looks = books.looks
        await eventually(lambda: books.looks >= looks + 3)
        assert len(world.woken) == 1
        books.pods.clear()
        await eventually(lambda: len(world.woken) == 2)
        assert world.listing.holders == ()


async def test_a_request_is_answered_by_a_look_begun_after_it(books: PodBooks, socket: Path) -> None:
    """A request during a look leads to another look after it, which wakes; there is never more than one under way."""
    release = asyncio.Event()

    async def wait(_context: Context) -> None:
        await release.wait()

    async with looking(socket) as world:
        await world.reaches(LISTED)
        books.before = wait
        world.looks.request()
        await eventually(lambda: books.looks == 2)
        requested = time.monotonic()
        for _ in range(5):
            world.looks.request()
        release.set()
        await eventually(lambda: world.listing.begun_at >= requested)
        assert (books.looks, books.most) == (3, 1)
        await eventually(lambda: len(world.woken) == 3)


async def test_the_interval_can_be_shortened_while_waiting(books: PodBooks, socket: Path) -> None:
    """A shorter interval holds at once, not after the long one has passed."""
    async with looking(socket) as world:
        await world.reaches(LISTED)
        world.looks.follow(Looks(0.05))
        await eventually(lambda: books.looks >= 4)


async def test_a_hanging_kubelet_is_a_timeout_and_the_last_listing_stays(books: PodBooks, socket: Path) -> None:
    """A look has a deadline; what was seen last is kept, and the next look that succeeds ends the fault."""

    async def hang(_context: Context) -> None:
        await asyncio.Event().wait()

    async with looking(socket, deadline=0.2) as world:
        await world.reaches(LISTED)
        seen = world.listing
        books.before = hang
        world.looks.request()
        status = await world.reaches(TIMEOUT)
        assert "0.2 s" in status.message
        assert status.listing == seen
        assert world.woken[-1].reason is TIMEOUT
        books.before = PodBooks(socket).before
        await world.reaches(LISTED)
        assert world.woken[-1].reason is LISTED


async def test_a_checkpoint_that_hangs_is_a_timeout(books: PodBooks, socket: Path) -> None:
    """The disk has no longer than the kubelet: a look without the checkpoint has failed, and while one read of it hangs
    no other begins.
    """
    async with looking(socket, deadline=0.2) as world:
        await world.reaches(LISTED)
        os.mkfifo(world.checkpoint)  # opening it hangs until somebody writes to it
        world.looks.request()
        assert "no answer from the disk within 0.2 s" in (await world.reaches(TIMEOUT)).message
        assert str(world.checkpoint) in world.looks.status.message
        before = books.looks
        await eventually(lambda: books.looks >= before + 3)
        readers = [thread for thread in threading.enumerate() if thread.name == "checkpoint"]
        assert [thread.daemon for thread in readers] == [True]
        writer = os.open(world.checkpoint, os.O_WRONLY)
        world.checkpoint.unlink()
        os.close(writer)
        await world.reaches(LISTED)


async def test_an_absent_kubelet_is_waited_for(socket: Path) -> None:
    """Without a socket, or with a stale one, PodResources are unavailable; they are read when the kubelet is there."""
    async with looking(socket) as world:
        assert "no " in (await world.reaches(ABSENT)).message
        async with PodBooks(socket):
            await world.reaches(LISTED)
        await world.reaches(ABSENT)
        assert [status.reason for status in world.woken] == [ABSENT, LISTED, ABSENT]


async def test_requests_do_not_hammer_a_fault(socket: Path) -> None:
    """However often a look is asked for, a failed one is tried again only after a while, and woken for once."""
    async with looking(socket) as world:
        await world.reaches(ABSENT)
        for _ in range(200):
            world.looks.request()
            await asyncio.sleep(0)
        assert len(world.woken) == 1


async def test_a_new_kubelet_is_looked_at_at_once(books: PodBooks, socket: Path) -> None:
    """A replaced socket is another kubelet: it is asked without waiting for the interval, on a new connection."""
    async with looking(socket) as world:
        await world.reaches(LISTED)
        first = world.listing.kubelet
        await books.restart()
        await eventually(lambda: world.listing.kubelet == identity(socket) != first)
        assert world.looks.status.reason is LISTED


async def test_a_restart_during_a_look_fails_that_look(books: PodBooks, socket: Path) -> None:
    """Answers that may be of two kubelets are thrown away, and the look is repeated at once."""
    replacement = PodBooks(socket)

    async def replaced(_context: Context) -> None:
        books.before = PodBooks(socket).before
        socket.unlink()
        await replacement.start()

    async with looking(socket) as world:
        await world.reaches(LISTED)
        books.before = replaced
        listing = await world.look()
        assert listing.holders == ()  # the new kubelet's; the old one still said that GPU-0 is held
        assert listing.kubelet == identity(socket)
        assert [status.reason for status in world.woken] == [LISTED, LISTED]
    await replacement.stop()


async def test_a_rate_limit_passes(books: PodBooks, socket: Path) -> None:
    """RESOURCE_EXHAUSTED is tried again soon and is no fault as long as it passes."""
    refusals = 2

    async def limit(context: Context) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    async with looking(socket) as world:
        await world.reaches(LISTED)
        books.before = limit
        await world.look()
        assert refusals == 0
        assert {status.reason for status in world.woken} == {LISTED}


async def test_a_rate_limit_that_does_not_pass_is_told(books: PodBooks, socket: Path) -> None:
    """When it goes on, the status says why nothing can be read."""

    async def limit(context: Context) -> None:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    books.before = limit
    async with looking(socket) as world:
        assert "rate limit" in (await world.reaches(UNAVAILABLE)).message


async def test_eighty_thousand_ids_are_received(books: PodBooks, socket: Path) -> None:
    """An answer beyond gRPC's usual 4 MiB is received and merged."""
    ids = [f"GPU-5a1b2c3d-0000-4000-8000-000000000000::{number}" for number in range(80_000)]
    books.allocatable = {SHARED: ids}
    async with looking(socket, deadline=30.0) as world:
        await world.reaches(LISTED)
        assert world.listing.allocatable[SHARED] == frozenset(ids)


async def test_an_answer_that_is_no_message_is_a_fault(books: PodBooks, socket: Path, tmp_path: Path) -> None:
    """Bytes that cannot be understood are told as such, and do not end the looks."""
    handler = grpc.method_handlers_generic_handler(
        names.POD_RESOURCES_SERVICE,
        {name: grpc.unary_unary_rpc_method_handler(_garbage) for name in ("List", "GetAllocatableResources")},
    )
    odd = tmp_path / "odd.sock"
    server = grpc.aio.server(handlers=[handler])
    server.add_insecure_port(f"unix:{odd}")
    await server.start()
    async with looking(odd) as world:
        assert "cannot understand" in (await world.reaches(UNAVAILABLE)).message
    await server.stop(0)


async def _garbage(_request: bytes, _context: Context) -> bytes:
    return b"\xff\xff\xff"
