"""The two calls on kubelet.sock: to reach who listens there, and to register a resource."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from nodeagent import refusals
from nodeagent.kubelet import names
from nodeagent.kubelet.plugin_server import OPTIONS
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.sockets import refusal, unconnected
from nodeagent.model.kubelet import Obstacle

_UNANSWERED: Final = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


class Failed(Exception):
    """One try to register has failed; the message says why, and another try follows. `obstacle`: what somebody has to
    take away before one can succeed.
    """

    def __init__(self, message: str, obstacle: Obstacle | None = None) -> None:
        super().__init__(message)
        self.obstacle = obstacle


class Unanswered(Failed):
    """The answer to Register has not come: the kubelet may have registered us or not."""


async def connect(channel: grpc.aio.Channel, socket: Path, within: float) -> None:
    """Raises Failed unless somebody speaks gRPC behind kubelet.sock."""
    try:
        async with asyncio.timeout(within):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                    raise _unconnected(socket)
                await channel.wait_for_state_change(state)
    except TimeoutError:
        raise Failed(f"cannot connect to {socket}: no answer in {within:g} s") from None


def _unconnected(socket: Path) -> Failed:
    """A connection has failed, of which gRPC does not say why: the kernel does, when it is asked again."""
    error = refusal(socket)
    if error is None:
        return Failed(f"cannot connect to {socket}: who listens there does not speak gRPC, or has just begun to")
    obstacle = Obstacle.DENIED if error.errno in refusals.DENIED else None
    return Failed(f"cannot connect to {socket}: {unconnected(error, socket)}", obstacle)


async def register(channel: grpc.aio.Channel, resource: str, endpoint: str, within: float) -> None:
    """Raises Failed when the kubelet refuses, Unanswered when it does not answer in time."""
    request = pb.RegisterRequest(version=names.API_VERSION, endpoint=endpoint, resource_name=resource, options=OPTIONS)
    call = channel.unary_unary(
        names.REGISTER,
        request_serializer=pb.RegisterRequest.SerializeToString,
        response_deserializer=pb.Empty.FromString,
    )
    try:
        await call(request, timeout=within)
    except grpc.aio.AioRpcError as error:
        kind = Unanswered if error.code() in _UNANSWERED else Failed
        raise kind(f"cannot register {resource}: {error.code().name}: {error.details()}") from None
