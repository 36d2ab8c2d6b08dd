"""The calls of PodResources: one channel to one kubelet, each call counted, and no more of them than are ours to make.

The kubelet grants about 100 calls a second to everybody on the node together, ten of them at once. We take half of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.pod_answers import FAILED, NOT_FOUND, NOT_SERVED, OK, result
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, target

LIST: Final = "list"
GET: Final = "get"
ALLOCATABLE: Final = "get_allocatable"

_METHODS: Final = {
    LIST: names.LIST_POD_RESOURCES,
    GET: names.GET_POD_RESOURCES,
    ALLOCATABLE: names.GET_ALLOCATABLE,
}
_OPTIONS: Final = (*LOCAL_CHANNEL, ("grpc.max_receive_message_length", names.MAX_POD_RESOURCES_BYTES))

_EVERY: Final = 0.02
"""Seconds from one call to the next where there are many."""

_AT_ONCE: Final = 5
"""So many calls may be made at once after a pause."""


class Calls:
    """Calls to the kubelet that serves `socket`. `count` is called with each call's name and how it ended."""

    def __init__(self, socket: Path, *, count: Callable[[str, str], None]) -> None:
        self._socket = socket
        self._count = count
        self._channel: grpc.aio.Channel | None = None
        self._kubelet: str | None = None
        self._next = 0.0

    async def connect(self, kubelet: str | None) -> None:
        """Have a channel to this kubelet, made anew for another one; to none: closed."""
        if kubelet is not None and kubelet == self._kubelet:
            return
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close(None)
        if kubelet is not None:
            self._channel = grpc.aio.insecure_channel(target(self._socket), options=_OPTIONS)
        self._kubelet = kubelet

    async def call(self, name: str, until: float, request: bytes = b"") -> bytes:
        """One answer as it came, waited for until a monotonic second. Raises AioRpcError."""
        if self._channel is None:
            raise RuntimeError("cannot call the kubelet: not connected")
        if name == GET:
            await asyncio.sleep(max(self._next - time.monotonic(), 0.0))
        now = time.monotonic()
        self._next = max(self._next, now - _AT_ONCE * _EVERY) + _EVERY
        call = self._channel.unary_unary(_METHODS[name], request_serializer=bytes, response_deserializer=bytes)
        try:
            answer: bytes = await call(request, timeout=max(until - now, 0.0))
        except grpc.aio.AioRpcError as error:
            ended = result(error)
            self._count(name, ended if name == GET or ended not in {NOT_FOUND, NOT_SERVED} else FAILED)
            raise
        self._count(name, OK)
        return answer
