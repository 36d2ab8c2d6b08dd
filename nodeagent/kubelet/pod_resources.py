"""Asks the kubelet who holds what, and which ids it would hand out: the truth about shares that is not ours.

A look is both calls and the checkpoint, all of one kubelet, or it has failed: half a look would be taken for "nobody
holds it". Its time is taken before the first call, so that what happened later is never taken for seen. There is one
look at a time, and whoever asks for one while it is under way gets another after it.
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
from google.protobuf.message import DecodeError

from nodeagent.errand import Errand, Hangs
from nodeagent.kubelet import names
from nodeagent.kubelet.checkpoint import parse as parse_checkpoint
from nodeagent.kubelet.checkpoint import read as read_checkpoint
from nodeagent.kubelet.proto import podresources_pb2 as pb
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, identity, target
from nodeagent.model.kubelet import Holder, PodListing, PodResourcesReason, PodResourcesStatus

logger = logging.getLogger(__name__)

_OPTIONS: Final = (*LOCAL_CHANNEL, ("grpc.max_receive_message_length", names.MAX_POD_RESOURCES_BYTES))

_GLANCE: Final = 2.0
"""Seconds between two glances at the socket, by which a new kubelet is noticed; each costs some idle CPU."""

_GAP: Final = 0.05
"""Seconds at least from one look to the next: the kubelet grants about 100 calls a second to everybody together."""

_RETRY: Final = (0.1, 1.0)
"""Seconds until a failed look is tried again: at first, at most."""

_PATIENCE: Final = 5
"""So many looks in a row may fail for a passing reason before the status says so."""


class Failed(Exception):
    """A look that came to nothing. `passing`: trying again at once will probably do."""

    def __init__(self, reason: PodResourcesReason, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.passing = passing


def _unforeseen(error: Exception) -> Failed:
    return Failed(PodResourcesReason.UNAVAILABLE, f"cannot read PodResources: {error!r}")


class _Parsed:
    """The last answers as they came, and what they meant: most looks find what the one before found."""

    def __init__(self) -> None:
        self._raw: tuple[bytes, bytes, bytes | None] | None = None
        self._meaning = PodListing(0.0, "")

    def meaning(self, listed: bytes, allocatable: bytes, kept: bytes | None) -> PodListing:
        """A listing without time and kubelet. Raises Failed."""
        if self._raw != (listed, allocatable, kept):
            try:
                holders, free = _holders(listed), _allocatable(allocatable)
            except DecodeError as error:
                raise Failed(PodResourcesReason.UNAVAILABLE, f"cannot understand PodResources: {error}") from None
            entries = None if kept is None else parse_checkpoint(kept)
            self._raw = (listed, allocatable, kept)
            self._meaning = PodListing(0.0, "", holders, free, entries)
        return self._meaning


def _holders(listed: bytes) -> tuple[Holder, ...]:
    """Every container's devices, one entry for each resource, in a stable order."""
    ids: dict[tuple[str, str, str, str], list[str]] = {}
    for pod in pb.ListPodResourcesResponse.FromString(listed).pod_resources:
        for container in pod.containers:
            for devices in container.devices:
                if devices.device_ids:
                    key = (pod.namespace, pod.name, container.name, devices.resource_name)
                    ids.setdefault(key, []).extend(devices.device_ids)
    return tuple(Holder(*key, tuple(sorted(ids[key]))) for key in sorted(ids))


def _allocatable(answer: bytes) -> dict[str, frozenset[str]]:
    """The ids of each resource; the kubelet sends an entry per device."""
    ids: dict[str, list[str]] = {}
    for devices in pb.AllocatableResourcesResponse.FromString(answer).devices:
        ids.setdefault(devices.resource_name, []).extend(devices.device_ids)
    return {resource: frozenset(ids[resource]) for resource in sorted(ids)}


class PodResources:
    """The kubelet's PodResources socket and checkpoint, looked at regularly and on request.

    `wake` is called on the loop after a look that found something new or was asked for, and when the state of affairs
    (`status.reason` or `.message`) has changed. `deadline` bounds what a look waits for: its calls and the disk.
    """

    def __init__(
        self,
        socket: Path,
        checkpoint: Path,
        *,
        wake: Callable[[], None],
        deadline: float = 2.0,
        interval: float = 30.0,
    ) -> None:
        self._socket = socket
        self._checkpoint = checkpoint
        self._wake = wake
        self._deadline = deadline
        self._interval = interval
        self._status = PodResourcesStatus()
        self._requested = False
        self._nudged = asyncio.Event()
        self._parsed = _Parsed()
        self._reader = Errand("checkpoint", on_late=self._nudged.set)
        self._channel: grpc.aio.Channel | None = None
        self._channel_to: str | None = None
        self._begun = 0.0
        self._failures = 0

    @property
    def status(self) -> PodResourcesStatus:
        """The newest complete listing, and how the last look went."""
        return self._status

    def request(self) -> None:
        """Look as soon as possible: a look begun after this call follows."""
        self._requested = True
        self._nudged.set()

    def set_interval(self, seconds: float) -> None:
        """Look this often from now on, counted from the beginning of the last look."""
        if seconds != self._interval:
            self._interval = seconds
            self._nudged.set()

    async def run(self) -> None:
        """Look until cancelled."""
        try:
            while True:
                asked, self._requested = self._requested, False
                kubelet = identity(self._socket)
                try:
                    listing = await self._look(kubelet)
                except Exception as error:  # noqa: BLE001 - whatever it was, it is told, and the next look is tried
                    self._requested |= asked
                    await self._fail(error)
                else:
                    self._failures = 0
                    self._take(listing, asked=asked)
                    await self._rest(kubelet)
        finally:
            await self._connect(None)

    async def _look(self, kubelet: str | None) -> PodListing:
        """One complete look at one kubelet. Raises Failed."""
        self._begun = time.monotonic()
        channel = await self._connect(kubelet)
        if kubelet is None or channel is None:
            raise Failed(PodResourcesReason.KUBELET_ABSENT, f"no {self._socket}: waiting for the kubelet")
        begun = self._begun
        try:
            listed = await self._call(channel, names.LIST_POD_RESOURCES)
            allocatable = await self._call(channel, names.GET_ALLOCATABLE)
        except grpc.aio.AioRpcError as error:
            raise await self._failure(error) from None
        kept = await self._read_checkpoint()
        # In a thread, since there may be megabytes.
        meaning = await asyncio.to_thread(self._parsed.meaning, listed, allocatable, kept)
        if identity(self._socket) != kubelet:
            raise Failed(PodResourcesReason.UNAVAILABLE, "the kubelet restarted during a look", passing=True)
        return replace(meaning, begun_at=begun, kubelet=kubelet)

    async def _call(self, channel: grpc.aio.Channel, method: str) -> bytes:
        """One call in what is left of the deadline, its answer as it came. Raises AioRpcError."""
        left = self._begun + self._deadline - time.monotonic()
        call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
        return await call(b"", timeout=max(left, 0.0))

    async def _failure(self, error: grpc.aio.AioRpcError) -> Failed:
        if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
            message = f"the kubelet limits the rate of PodResources: {error.details()}"
            return Failed(PodResourcesReason.UNAVAILABLE, message, passing=True)
        await self._connect(None)
        if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            return Failed(PodResourcesReason.TIMEOUT, f"PodResources did not answer within {self._deadline:g} s")
        message = f"cannot read PodResources: {error.code().name}: {error.details()}"
        return Failed(PodResourcesReason.UNAVAILABLE, message)

    async def _read_checkpoint(self) -> bytes | None:
        """What the checkpoint says after the calls; None where there is none. Raises Failed."""
        left = self._begun + self._deadline - time.monotonic()
        try:
            return await self._reader.run(lambda: read_checkpoint(self._checkpoint), max(left, 0.0))
        except Hangs:
            message = f"cannot read {self._checkpoint}: no answer from the disk within {self._deadline:g} s"
            raise Failed(PodResourcesReason.TIMEOUT, message) from None

    async def _connect(self, kubelet: str | None) -> grpc.aio.Channel | None:
        """The channel to this kubelet, made anew for another one; to none: closed."""
        if kubelet is None or kubelet != self._channel_to:
            channel, self._channel = self._channel, None
            if channel is not None:
                await channel.close(None)
            if kubelet is not None:
                self._channel = grpc.aio.insecure_channel(target(self._socket), options=_OPTIONS)
            self._channel_to = kubelet
        return self._channel

    def _take(self, listing: PodListing, *, asked: bool) -> None:
        before = self._status
        self._status = PodResourcesStatus(PodResourcesReason.LISTED, "", listing)
        known = before.listing
        news = known is None or replace(listing, begun_at=known.begun_at) != known
        if before.reason is not PodResourcesReason.LISTED:
            logger.info("PodResources can be read")
        if asked or news or before.reason is not PodResourcesReason.LISTED:
            self._wake()

    async def _fail(self, error: Exception) -> None:
        """Say what is wrong, unless it will pass, and wait before the next try, whoever asks for one."""
        self._failures += 1
        failed, bug = (error, None) if isinstance(error, Failed) else (_unforeseen(error), error)
        if not failed.passing or self._failures >= _PATIENCE:
            before = self._status
            self._status = replace(before, reason=failed.reason, message=str(failed))
            if self._status != before:
                logger.warning("%s", failed, exc_info=bug)
                self._wake()
        first, most = _RETRY
        await asyncio.sleep(min(first * 2 ** min(self._failures - 1, 16), most))

    async def _rest(self, kubelet: str | None) -> None:
        """Until the next look is due, is asked for, or there is another kubelet."""
        while not self._requested and identity(self._socket) == kubelet:
            left = self._begun + self._interval - time.monotonic()
            if left <= 0:
                return
            self._nudged.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _GLANCE)):
                    await self._nudged.wait()
        await asyncio.sleep(max(self._begun + _GAP - time.monotonic(), 0.0))
