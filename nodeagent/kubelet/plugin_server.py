"""Serves one resource to the kubelet: the DevicePlugin service on a unix socket of its own.

A server per resource, since ListAndWatch does not say which resource it asks for. Every answer comes from the desk
at once: the kubelet waits for Allocate without a limit, and meanwhile admits no pod at all, so no handler may ever
wait for anything, but for the moment that `Desk.choosing` bounds. A stream knows only which list it sent last: it is
woken, takes the newest list and skips what came between, so that a slow reader delays nobody and a late one starts with
the current list.

Others than the kubelet may connect (`streams`). What one client does is the end of its own stream at most.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from nodeagent import refusals
from nodeagent.kubelet import names
from nodeagent.kubelet.offered import Offered
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.sockets import bind_refusal, target
from nodeagent.kubelet.streams import Streams
from nodeagent.model.allocation import Desk, PreferenceRequest, RefusalReason, Refused
from nodeagent.model.shares import Device, Listing

logger = logging.getLogger(__name__)

OPTIONS: Final = pb.DevicePluginOptions(get_preferred_allocation_available=True)
"""What we tell the kubelet of ourselves, in Register and when it asks."""

ENDPOINT_GLOB: Final = "nodeagent-??????.sock"
"""What our sockets are called in the device plugins' directory."""

OPTIONS_OF_SERVER: Final = (
    ("grpc.max_receive_message_length", 4 * names.MAX_LIST_BYTES),
    # Connections that nobody uses are closed before they use up the file descriptors. The kubelet's has a stream.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 60_000),
)

_STATUS: Final = {
    RefusalReason.UNKNOWN_SHARE: grpc.StatusCode.NOT_FOUND,
    RefusalReason.UNHEALTHY: grpc.StatusCode.FAILED_PRECONDITION,
    RefusalReason.TOO_MANY: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalReason.SEVERAL_GPUS: grpc.StatusCode.INVALID_ARGUMENT,
    RefusalReason.INVALID: grpc.StatusCode.INVALID_ARGUMENT,
}

_Context = grpc.aio.ServicerContext[Any, Any]
_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response", bound=Message)


def serialise(devices: Iterable[Device]) -> bytes:
    """One ListAndWatch message.

    What devices have in common is made once and copied with each id: 40,000 of them take a third less time than if each
    were given its node.
    """
    message = pb.ListAndWatchResponse()
    append = message.devices.append
    kinds: dict[tuple[bool, int | None], pb.Device] = {}
    for id_, healthy, numa in devices:
        kind = kinds.get((healthy, numa))
        if kind is None:
            kind = kinds[healthy, numa] = _kind(healthy=healthy, numa=numa)
        kind.ID = id_
        append(kind)
    return message.SerializeToString()


def _kind(*, healthy: bool, numa: int | None) -> pb.Device:
    topology = None if numa is None else pb.TopologyInfo(nodes=[pb.NUMANode(ID=numa)])
    return pb.Device(health=names.HEALTHY if healthy else names.UNHEALTHY, topology=topology)


class CannotBind(OSError):
    """No socket can be made where it is wanted. `unwritable`: nothing can be made there, by us at least."""

    def __init__(self, message: str, *, unwritable: bool) -> None:
        super().__init__(message)
        self.unwritable = unwritable


class PluginServer:
    """The DevicePlugin service of one resource, bound once: for another socket make another server.

    `changed` is called when a stream came, went or sent a list; `on_allocate` as (resource, result, seconds) for each
    Allocate, with result `ok`, the reason of a refusal, or `error`; `lately` is told what is offered. `streams` are
    those of the kubelet and of guests. `fault` says why the kubelet's stream had to be ended by us.
    """

    def __init__(
        self,
        resource: str,
        desk: Desk,
        *,
        changed: Callable[[], None],
        on_allocate: Callable[[str, str, float], None],
        lately: Offered | None = None,
    ) -> None:
        self.resource = resource
        self.endpoint = f"nodeagent-{secrets.token_hex(3)}.sock"
        self.fault: str | None = None
        self.streams = Streams()
        self._desk = desk
        self._changed = changed
        self._on_allocate = on_allocate
        self._lately = lately or Offered()
        self._resends = 0
        self._newest: Listing | None = None
        self._list = b""
        self._calls = 0
        self._ended = False
        self._quiet = asyncio.Event()
        self._handling: set[asyncio.Task[Any]] = set()
        self._server: grpc.aio.Server | None = None
        self._stopping: asyncio.Future[None] | None = None

    @property
    def offered(self) -> frozenset[str]:
        """The healthy ids of the list that was made last."""
        devices = self._newest.devices if self._newest is not None else ()
        return frozenset(device.id for device in devices if device.healthy)

    async def serve(self, directory: Path) -> Path:
        """Bind the endpoint in `directory` and answer there. Returns the socket's path; raises CannotBind."""
        path = directory / self.endpoint
        # The socket's name is another one with each try: whoever reports a refusal once must not find it in the words.
        cannot = f"cannot bind a socket in {directory}"
        if (refused := bind_refusal(path)) is not None:  # gRPC would write its own line to stderr with each try
            told = f"{cannot}: {refusals.words(refused, path)}"
            raise CannotBind(told, unwritable=refused.errno in refusals.UNWRITABLE) from refused
        self._server = grpc.aio.server(handlers=[self._handlers()], options=OPTIONS_OF_SERVER)
        try:
            self._server.add_insecure_port(target(path))
        except RuntimeError as error:
            why = str(error).replace(self.endpoint, ENDPOINT_GLOB)
            raise CannotBind(f"{cannot}: {why}", unwritable=False) from error
        await self._server.start()
        return path

    def publish(self) -> None:
        """The list may have changed: every stream looks, and sends the newest unless it has."""
        self.streams.wake()

    def resend(self) -> None:
        """Send the list on every stream even if it has not changed."""
        self._resends += 1
        self.publish()

    async def stop(self, grace: float) -> None:
        """Send what is newest, end the streams, give the running calls `grace` seconds, and remove the socket. Guests
        that do not read are not waited for. Begun once, it goes on whoever of its callers is cancelled.
        """
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._stop(grace))
        await asyncio.shield(self._stopping)

    async def _stop(self, grace: float) -> None:
        self._ended = True
        self.streams.wake()
        if self._server is None:
            return
        if self._calls:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._quiet.wait()
        # Once: gRPC does not survive that a second stop overtakes the end of the first one. Without a grace only where
        # a call is left to be cancelled: that is an error for the other side.
        await self._server.stop(None if any(not task.done() for task in self._handling) else grace)
        # gRPC does not wait for handlers that it has cancelled, and its server must not outlive the loop with them.
        if self._handling:
            await asyncio.wait(tuple(self._handling), timeout=grace)
        self._server = None

    def _newest_list(self) -> tuple[int, bytes]:
        listing = self._desk.listing(self.resource)
        if self._newest is None or listing.revision != self._newest.revision:
            self._list = serialise(listing.devices)
            self._newest = listing
            self._lately.replace(self.offered)
        return listing.revision, self._list

    def _handlers(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            names.DEVICE_PLUGIN_SERVICE,
            {
                "GetDevicePluginOptions": self._unary(self._get_options, pb.Empty),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(self._list_and_watch, pb.Empty.FromString, None),
                "GetPreferredAllocation": self._unary(self._prefer, pb.PreferredAllocationRequest),
                "Allocate": self._unary(self._allocate, pb.AllocateRequest),
                "PreStartContainer": self._unary(self._pre_start, pb.PreStartContainerRequest),
            },
        )

    def _unary(
        self, work: Callable[[_Request, _Context], Awaitable[_Response]], request: type[_Request]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        async def answer(message: _Request, context: _Context) -> bytes:
            self._note(context)
            return (await work(message, context)).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(answer, request.FromString, None)

    def _note(self, context: _Context) -> None:
        """A call that a stop gives time to."""
        self._calls += 1
        context.add_done_callback(self._over)  # type: ignore[arg-type] # the stubs make it a class

    def _over(self, context: _Context) -> None:
        del context
        self._calls -= 1
        if self._ended and not self._calls:
            self._quiet.set()

    async def _get_options(self, _request: pb.Empty, _context: _Context) -> pb.DevicePluginOptions:
        return OPTIONS

    async def _pre_start(
        self, _request: pb.PreStartContainerRequest, _context: _Context
    ) -> pb.PreStartContainerResponse:
        return pb.PreStartContainerResponse()

    async def _list_and_watch(self, _request: pb.Empty, context: _Context) -> None:
        stream = self.streams.open()
        if stream is None:
            self._changed()
            message = f"cannot list {self.resource}: too many clients besides the kubelet have a stream"
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, message)
        if not stream.guest:
            self._note(context)
        if (task := asyncio.current_task()) is not None:
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        try:
            self._changed()
            while True:
                stream.wake.clear()
                ended = self._ended
                revision, data = self._newest_list()
                if stream.sent != (key := (revision, self._resends)):
                    await _write(context, data)
                    stream.sent = key
                    self._changed()
                elif ended:
                    # Not before the newest list is out: the kubelet keeps the last one as its capacity for minutes.
                    break
                else:
                    await stream.wake.wait()
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the stream ends and the reason is kept
            message = f"cannot send the list of {self.resource}: {error!r}"
            if stream.guest:
                await context.abort(grpc.StatusCode.INTERNAL, message)
            self.fault = message
            await self._refuse(context, error, message)
        finally:
            self.streams.close(stream)
            self._changed()

    async def _allocate(self, request: pb.AllocateRequest, context: _Context) -> pb.AllocateResponse:
        begun = time.perf_counter()
        try:
            asked = [list(entry.devices_ids) for entry in request.container_requests]
            response = pb.AllocateResponse()
            for grant in self._desk.allocate(self.resource, asked):
                mounts = [
                    pb.Mount(container_path=mount.container_path, host_path=mount.host_path) for mount in grant.mounts
                ]
                devices = [
                    pb.DeviceSpec(container_path=node.container_path, host_path=node.host_path, permissions="rw")
                    for node in grant.devices
                ]
                response.container_responses.add(
                    envs=grant.envs,
                    mounts=mounts,
                    devices=devices,
                    annotations=grant.annotations,
                    cdi_devices=[pb.CDIDevice(name=name) for name in grant.cdi_devices],
                )
        except Exception as error:  # noqa: BLE001 - the kubelet waits for an answer, whatever went wrong
            self._count(error.reason.value if isinstance(error, Refused) else "error", begun)
            await self._refuse(context, error, f"cannot allocate {self.resource}: {error!r}")
        self._count("ok", begun)
        return response

    async def _prefer(
        self, request: pb.PreferredAllocationRequest, context: _Context
    ) -> pb.PreferredAllocationResponse:
        try:
            asked = [
                PreferenceRequest(
                    list(entry.available_deviceIDs), list(entry.must_include_deviceIDs), entry.allocation_size
                )
                for entry in request.container_requests
            ]
            await self._desk.choosing()
            response = pb.PreferredAllocationResponse()
            for ids in self._desk.prefer(self.resource, asked):
                response.container_responses.add(deviceIDs=ids)
        except Exception as error:  # noqa: BLE001 - as in _allocate
            await self._refuse(context, error, f"cannot choose among {self.resource}: {error!r}")
        return response

    def _count(self, result: str, begun: float) -> None:
        try:
            self._on_allocate(self.resource, result, time.perf_counter() - begun)
        except Exception:
            logger.exception("cannot count an allocation of %s", self.resource)

    @staticmethod
    async def _refuse(context: _Context, error: Exception, message: str) -> NoReturn:
        """End a call with a status: a refusal is for the pod's author, anything else is a bug and goes to the log."""
        if isinstance(error, Refused):
            await context.abort(_STATUS[error.reason], str(error))
        logger.error("%s", message, exc_info=error)
        await context.abort(grpc.StatusCode.INTERNAL, message)


async def _write(context: _Context, data: bytes) -> None:
    """Send a message. Where that fails nobody is left to take it, which is no fault of ours: the call is over."""
    try:
        await context.write(data)
    except Exception as error:
        raise asyncio.CancelledError from error
