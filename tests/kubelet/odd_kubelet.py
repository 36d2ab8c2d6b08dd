"""A kubelet that misbehaves on purpose, in ways in which the stand-in, which does what the real one does, does not."""

from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.sockets import target
from tests.kubelet.support import Client


class Manner(Enum):
    """What becomes of a Register."""

    KEEP = "its stream is opened and kept"
    DROP = "its stream is ended after the first list"
    FORGET = "it is answered, and no stream is ever opened"
    REFUSE = "it is refused"
    HANG = "it is never answered"


class OddKubelet:
    """Serves Registration on kubelet.sock; `registers` are the endpoints, in order. `manner` may be changed."""

    def __init__(self, directory: Path, manner: Manner) -> None:
        self.manner = manner
        self.registers: list[str] = []
        self._directory = directory
        self._server: grpc.aio.Server | None = None
        self._streams: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        register = grpc.unary_unary_rpc_method_handler(
            self._register, pb.RegisterRequest.FromString, pb.Empty.SerializeToString
        )
        handler = grpc.method_handlers_generic_handler(names.REGISTRATION_SERVICE, {"Register": register})
        self._server = grpc.aio.server(handlers=[handler])
        self._server.add_insecure_port(target(self._directory / names.KUBELET_SOCKET))
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._streams:
            task.cancel()
        await asyncio.gather(*self._streams, return_exceptions=True)
        if self._server is not None:
            await self._server.stop(0)
            self._server = None  # gRPC's server ends badly where it is collected after its loop

    async def _register(self, request: pb.RegisterRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.Empty:
        self.registers.append(request.endpoint)
        if self.manner is Manner.HANG:
            await asyncio.Event().wait()
        if self.manner is Manner.REFUSE:
            await context.abort(grpc.StatusCode.UNKNOWN, "not today")
        if self.manner in (Manner.KEEP, Manner.DROP):
            task = asyncio.create_task(self._follow(self._directory / request.endpoint, self.manner))
            self._streams.add(task)
            task.add_done_callback(self._streams.discard)
        return pb.Empty()

    @staticmethod
    async def _follow(socket: Path, manner: Manner) -> None:
        client = Client(socket)
        try:
            async for _ in client.lists():
                if manner is Manner.DROP:
                    break
        finally:
            await client.channel.close(None)
