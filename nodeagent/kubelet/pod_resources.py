"""Asks the kubelet who holds what, and which ids it would hand out: the truth about shares that is not ours.

A look is its calls, the checkpoint and the pods' cgroups, all of one kubelet, or it has failed: half a look would be
taken for "nobody holds it". Its time is taken before the first call, so that what happened later is never taken for
seen. There is one look at a time, and whoever asks for one while it is under way gets another after it.

There are two kinds. A look by `List` names every pod, and goes out in a quiet window (`quiet`): the first of each
kubelet, those that `follow` asks for, and all of them where the kubelet has no `Get` (before 1.34; it is tried once),
or where its checkpoint cannot be read: without it, new pods on the shares of old ones go unseen by `Get`. A look by
`Get` asks for the pods that are known by then, those whose answers are oldest first, no more of them than the
kubelet's rate limit lets pass; of the others it repeats what was known.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from nodeagent import refusals
from nodeagent.errand import Errand, Hangs
from nodeagent.kubelet import pod_answers
from nodeagent.kubelet.checkpoint import parse as parse_checkpoint
from nodeagent.kubelet.checkpoint import read as read_checkpoint
from nodeagent.kubelet.pod_answers import LIMITED, NOT_FOUND, NOT_SERVED, Failed, Remembered
from nodeagent.kubelet.pod_calls import ALLOCATABLE, GET, LIST, Calls
from nodeagent.kubelet.quiet import Budget, Traffic, Unwatched, Window, window
from nodeagent.kubelet.sockets import absence, identity, refusal, unconnected
from nodeagent.model.kubelet import (
    CheckpointEntry,
    Holder,
    Looks,
    PodListing,
    PodName,
    PodResourcesReason,
    PodResourcesStatus,
)

logger = logging.getLogger(__name__)

_GLANCE: Final = 2.0
"""Seconds between two glances at the socket, by which a new kubelet is noticed; each costs some idle CPU."""

_GAP: Final = 0.05
"""Seconds at least from one look to the next: the kubelet grants about 100 calls a second to everybody together."""

_RETRY: Final = (0.1, 1.0)
"""Seconds until a failed look is tried again: at first, at most."""

_PATIENCE: Final = 5
"""So many looks in a row may fail for a passing reason before the status says so."""

_MOST_PODS: Final = 25
"""So many pods are asked for in one look by `Get`: with those of half a second the next one begins at once."""

_PODS: Final = (_MOST_PODS, 1 / 50)
"""And of all looks together: so many in a row, and one in so many seconds in the long run."""

_NAMES: Final = (10, 30.0)
"""`List` for names alone: so many in a row, and one in so many seconds in the long run."""

_NOBODY: Final[PodName] = ("", "")
"""A pod that cannot be: whether `Get` is served can be asked without one."""


class PodResources:
    """The kubelet's PodResources socket and checkpoint, looked at regularly and on request.

    `wake` is called on the loop after a look that found something new or was asked for, after each `List`, and when the
    state of affairs (`status.reason` or `.message`) has changed. `deadline` bounds what a look waits for: its calls and
    the disk. `cgroups` finds the UIDs of all pods that have a cgroup, in a thread; None where none can be seen.
    `traffic` says when a `List` may go out; `count` is called with each call's name and how it ended,
    `count_without_window` for each `List` that went out without a quiet window.
    """

    def __init__(
        self,
        socket: Path,
        checkpoint: Path,
        *,
        wake: Callable[[], None],
        cgroups: Callable[[], frozenset[str] | None] = lambda: None,
        traffic: Traffic | None = None,
        count: Callable[[str, str], None] = lambda _call, _result: None,
        count_without_window: Callable[[], None] = lambda: None,
        deadline: float = 2.0,
        interval: float = 30.0,
    ) -> None:
        self._socket = socket
        self._checkpoint = checkpoint
        self._wake = wake
        self._cgroups = cgroups
        self._traffic = traffic or Unwatched()
        self._count_without_window = count_without_window
        self._deadline = deadline
        self._looks = Looks(interval)
        self._status = PodResourcesStatus()
        self._requested = False
        self._nudged = asyncio.Event()
        self._allocatable = Remembered(pod_answers.allocatable_of)
        self._entries = Remembered(_books)
        self._reader = Errand("checkpoint", on_late=self._nudged.set)
        self._calls = Calls(socket, count=count)
        self._begun = float("-inf")
        self._failures = 0

        self._kubelet: str | None = None
        """The kubelet that the last `List` was answered by; what follows is of it."""
        self._gets = False
        self._checkpoint_read = False
        self._unread = ""
        self._listed_at = float("-inf")
        self._pods: dict[PodName, tuple[Holder, ...]] = {}
        self._asked_at: dict[PodName, float] = {}
        self._list_wanted_since: float | None = None
        self._for_names = Budget(*_NAMES)
        self._for_pods = Budget(*_PODS)
        self._traffic.when_allocated(self._allocated)

    @property
    def status(self) -> PodResourcesStatus:
        """The newest complete listing, and how the last look went."""
        return self._status

    def request(self) -> None:
        """Look as soon as possible: a look begun after this call follows."""
        self._requested = True
        self._nudged.set()

    def follow(self, looks: Looks) -> None:
        """Look like this from now on; the interval counts from the beginning of the last look."""
        if looks != self._looks:
            self._looks = looks
            self._nudged.set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                kubelet = identity(self._socket)
                # Nothing may be awaited between the quiet window and the `List` that goes out in it.
                await self._calls.connect(kubelet)
                chance = self._list_chance(kubelet)
                by_list = chance is not None and chance.at <= time.monotonic()
                if not by_list and not (self._may_get(kubelet) and self._due() <= time.monotonic()):
                    await self._rest(kubelet, chance)
                    continue
                asked, self._requested = self._requested, False
                self._list_wanted_since = None if by_list else self._list_wanted_since
                try:
                    if chance is not None and by_list:
                        self._note(chance)
                    listing = await self._look(kubelet, by_list=by_list)
                except Exception as error:  # noqa: BLE001 - whatever it was, it is told, and the next look is tried
                    self._requested |= asked
                    await self._fail(error)
                else:
                    self._failures = 0
                    self._take(listing, asked=asked)
                    await asyncio.sleep(max(self._begun + _GAP - time.monotonic(), 0.0))
        finally:
            await self._calls.connect(None)

    def _note(self, chance: Window) -> None:
        """A look by `List` begins."""
        if chance.without:
            self._count_without_window()
        if chance.for_names:
            self._for_names.spend(time.monotonic())

    # --- which look is next -----------------------------------------------------------------------------------------

    def _due(self) -> float:
        """When the next look of either kind is due."""
        return float("-inf") if self._requested else self._begun + self._looks.interval

    def _may_get(self, kubelet: str | None) -> bool:
        return self._get_will_do and kubelet == self._kubelet

    @property
    def _get_will_do(self) -> bool:
        return self._gets and self._checkpoint_read

    def _list_chance(self, kubelet: str | None) -> Window | None:
        """When a look by `List` may go out; None where none is to."""
        now = time.monotonic()
        if kubelet is None:
            return Window(now)
        if self._list_needed(kubelet, now):
            if self._list_wanted_since is None:
                self._list_wanted_since = now
            return window(self._traffic, self._list_wanted_since)
        self._list_wanted_since = None
        names_at = self._looks.names_at
        if names_at is not None and self._listed_at < names_at:
            return Window(max(names_at, self._traffic.quiet_at(), self._for_names.ready_at()), for_names=True)
        return None

    def _list_needed(self, kubelet: str | None, now: float) -> bool:
        """Where `Get` will not do: to begin with, to take something away, or because it cannot be relied on."""
        if kubelet != self._kubelet or (not self._get_will_do and self._due() <= now):
            return True
        list_at = self._looks.list_at
        return list_at is not None and self._listed_at < list_at <= now

    def _allocated(self) -> None:
        """An Allocate has been answered: a `List` that waits for a chance may have one now."""
        if self._list_wanted_since is not None:
            self._nudged.set()

    async def _rest(self, kubelet: str | None, chance: Window | None) -> None:
        """Until the next look is due, is asked for, or there is another kubelet."""
        now = time.monotonic()
        times = [now + _GLANCE]
        if self._may_get(kubelet) or chance is None:
            times.append(self._due())
        if chance is not None:
            times.append(chance.at)
        if self._looks.list_at is not None and self._looks.list_at > now:
            times.append(self._looks.list_at)
        self._nudged.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(max(min(times) - now, 0.0)):
                await self._nudged.wait()

    # --- one look ---------------------------------------------------------------------------------------------------

    async def _look(self, kubelet: str | None, *, by_list: bool) -> PodListing:
        """One complete look at one kubelet, which there is a channel to. Raises Failed."""
        begun = self._begun = time.monotonic()
        until = begun + self._deadline
        if kubelet is None:
            why, denied = absence(self._socket)
            raise Failed(PodResourcesReason.ACCESS_DENIED if denied else PodResourcesReason.KUBELET_ABSENT, why)
        gets, listed, asked = self._gets, b"", frozenset[PodName]()
        try:
            if by_list:
                listed = await self._list(until)
                if kubelet != self._kubelet:
                    gets = await self._serves_get(until)
            allocatable = await self._calls.call(ALLOCATABLE, until)
            if not by_list:
                asked = await self._ask_for_pods(begun, until)
        except grpc.aio.AioRpcError as error:
            failed = self._refused(error) or pod_answers.failure(error, self._deadline)
            if not failed.passing:
                await self._calls.connect(None)
            raise failed from None
        kept, cgroups = await self._read_node(until)
        unread = kept if isinstance(kept, str) else ""
        # What has been read is let go of before the next is: each may be megabytes.
        pods = await asyncio.to_thread(pod_answers.pods_of, listed) if by_list else self._pods
        del listed
        free = await self._meaning(self._allocatable, allocatable)
        del allocatable
        nothing = None, frozenset[str]()
        entries, uids = nothing if isinstance(kept, str) else await self._meaning(self._entries, kept)
        del kept
        if identity(self._socket) != kubelet:
            raise Failed(PodResourcesReason.UNAVAILABLE, "the kubelet restarted during a look", passing=True)
        if by_list:
            self._kubelet, self._gets, self._listed_at = kubelet, gets, begun
            self._pods, self._asked_at = pods, {}
        self._checkpoint_read = entries is not None
        self._unread = unread or "it is no checkpoint as it is known here"
        holders = tuple(holder for pod in sorted(self._pods) for holder in self._pods[pod])
        return PodListing(
            begun,
            kubelet,
            holders,
            free,
            entries,
            None if by_list else self._listed_at,
            asked,
            None if cgroups is None or entries is None else cgroups & uids,
        )

    def _refused(self, error: grpc.aio.AioRpcError) -> Failed | None:
        """Why nobody could connect, where it is that: gRPC does not say, but the kernel does when it is asked again."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE or (refused := refusal(self._socket)) is None:
            return None
        denied = refused.errno in refusals.DENIED
        reason = PodResourcesReason.ACCESS_DENIED if denied else PodResourcesReason.UNAVAILABLE
        return Failed(reason, f"cannot connect to {self._socket}: {unconnected(refused, self._socket)}")

    @staticmethod
    async def _meaning(parser: Remembered[pod_answers.T], data: bytes) -> pod_answers.T:
        """What the bytes mean: in a thread where they are new, since there may be megabytes. Raises Failed."""
        return parser.meaning(data) if parser.knows(data) else await asyncio.to_thread(parser.meaning, data)

    async def _list(self, until: float) -> bytes:
        """The answer of `List`, while our plugins keep the kubelet from choosing devices. Raises AioRpcError."""
        self._traffic.list_begins()
        try:
            return await self._calls.call(LIST, until)
        finally:
            self._traffic.list_ends()

    async def _serves_get(self, until: float) -> bool:
        """Whether this kubelet serves `Get`. Raises AioRpcError."""
        try:
            await self._calls.call(GET, until, pod_answers.pod_request(_NOBODY))
        except grpc.aio.AioRpcError as error:
            if pod_answers.result(error) == NOT_SERVED:
                logger.info(
                    "this kubelet does not serve Get of PodResources (it is on since 1.34): every look is a List"
                )
                return False
            if pod_answers.result(error) != NOT_FOUND:
                raise
        return True

    async def _ask_for_pods(self, begun: float, until: float) -> frozenset[PodName]:
        """`Get` for the pods whose answers are oldest; those that were asked for. A round that is cut short loses
        nothing: what was not asked for stays as it was. Raises AioRpcError, Failed.
        """
        asked: set[PodName] = set()
        since = {pod: self._asked_at.get(pod, self._listed_at) for pod in self._pods if pod in self._looks.asks}
        due = [pod for pod, at in since.items() if at + self._looks.asks[pod] <= begun]
        for number, pod in enumerate(sorted(due, key=lambda pod: (since[pod], pod))[:_MOST_PODS]):
            at = time.monotonic()
            chance = self._list_chance(self._kubelet)
            if number and chance is not None and chance.at <= at and not chance.for_names:
                break
            if self._for_pods.ready_at() > at:
                break
            self._for_pods.spend(at)
            try:
                answer = await self._calls.call(GET, until, pod_answers.pod_request(pod))
            except grpc.aio.AioRpcError as error:
                ended = pod_answers.result(error)
                if ended == NOT_FOUND:
                    self._forget(pod)
                    asked.add(pod)
                    continue
                if ended == NOT_SERVED:
                    logger.warning("the kubelet does not serve Get of PodResources any more: %s", error.details())
                    self._gets = False
                    break
                if ended == LIMITED and number:
                    break
                raise
            asked.add(pod)
            if holders := pod_answers.pod_of(answer):
                self._pods[pod], self._asked_at[pod] = holders, at
            else:
                self._forget(pod)
        return frozenset(asked)

    def _forget(self, pod: PodName) -> None:
        del self._pods[pod]
        self._asked_at.pop(pod, None)

    async def _read_node(self, until: float) -> tuple[bytes | str, frozenset[str] | None]:
        """What the checkpoint says after the calls, or why it says nothing; then, which pods have a cgroup. Raises
        Failed.
        """
        left = max(until - time.monotonic(), 0.0)
        try:
            return await self._reader.run(lambda: (read_checkpoint(self._checkpoint), self._cgroups()), left)
        except Hangs:
            message = f"cannot read {self._checkpoint}: no answer from the disk within {self._deadline:g} s"
            raise Failed(PodResourcesReason.TIMEOUT, message) from None

    # --- after a look -----------------------------------------------------------------------------------------------

    def _take(self, listing: PodListing, *, asked: bool) -> None:
        before = self._status
        blind = "" if self._checkpoint_read else f"cannot read {self._checkpoint}: {self._unread}; every look is a List"
        self._status = PodResourcesStatus(PodResourcesReason.LISTED, blind, listing)
        known = before.listing
        news = known is None or _timeless(listing) != _timeless(known) or blind != before.message
        if blind and blind != before.message:
            logger.info("%s", blind)
        if before.reason is not PodResourcesReason.LISTED:
            logger.info("PodResources can be read")
        wanted = listing.by_list and (self._looks.list_at is not None or self._looks.names_at is not None)
        if asked or news or wanted or before.reason is not PodResourcesReason.LISTED:
            self._wake()

    async def _fail(self, error: Exception) -> None:
        """Say what is wrong, unless it will pass, and wait before the next try, whoever asks for one."""
        self._failures += 1
        failed, bug = (error, None) if isinstance(error, Failed) else (pod_answers.unforeseen(error), error)
        if not failed.passing or self._failures >= _PATIENCE:
            before = self._status
            self._status = replace(before, reason=failed.reason, message=str(failed))
            if self._status != before:
                logger.warning("%s", failed, exc_info=bug)
                self._wake()
        first, most = _RETRY
        await asyncio.sleep(min(first * 2 ** min(self._failures - 1, 16), most))


def _timeless(listing: PodListing) -> PodListing:
    return replace(listing, begun_at=0.0, list_begun_at=None, asked=frozenset())


def _books(data: bytes) -> tuple[frozenset[CheckpointEntry] | None, frozenset[str]]:
    """The entries of a checkpoint, None where it is none as we know it; and the UIDs of their pods."""
    entries = parse_checkpoint(data)
    return entries, frozenset(entry.pod_uid for entry in entries or ())
