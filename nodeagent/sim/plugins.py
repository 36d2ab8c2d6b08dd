"""The kubelet's side of the device plugin API: registrations, the dial back, and one client per registered plugin.

There is one current client per resource *name*. When any stream of a resource ends, the kubelet looks that name up
and drops whom it finds: the newer plugin, if one has registered meanwhile. A failed registration leaves the name
empty, and the death of an older plugin then goes unnoticed. Both are kept here as they are.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import deviceplugin_pb2 as api
from nodeagent.sim.history import History, RegistrationRecord, StreamEnd

log = logging.getLogger(__name__)

_RESOURCE_NAME = re.compile(
    r"(?=.{1,253}/)[a-z0-9]([a-z0-9.-]*[a-z0-9])?/[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?"
)


Request = TypeVar("Request")
Answer = TypeVar("Answer")

_CLOSING = "rpc error: code = Canceled desc = grpc: the client connection is closing"


class PluginError(Exception):
    """A plugin that refused or could not be reached; the message is the kubelet's wording of it."""


def _told(error: grpc.aio.AioRpcError) -> str:
    code = error.code().name.title().replace("_", "")
    return f"rpc error: code = {code} desc = {error.details()}"


class PluginClient:
    """One connection to one plugin. Its calls have no deadline, as the kubelet's have none. `socket` is the plugin's
    endpoint.
    """

    def __init__(self, resource: str, socket: Path) -> None:
        self.resource = resource
        self.socket = socket
        self.closed = False
        self._channel = grpc.aio.insecure_channel(
            f"unix:{socket}",
            options=[
                ("grpc.max_receive_message_length", names.MAX_LIST_BYTES),
                ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, even to a path seen before
                ("grpc.default_authority", "localhost"),
            ],
        )
        channel = self._channel
        self._options = channel.unary_unary(
            names.GET_OPTIONS, api.Empty.SerializeToString, api.DevicePluginOptions.FromString
        )
        self._watch = channel.unary_stream(
            names.LIST_AND_WATCH, api.Empty.SerializeToString, api.ListAndWatchResponse.FromString
        )
        self._prefer = channel.unary_unary(
            names.GET_PREFERRED_ALLOCATION,
            api.PreferredAllocationRequest.SerializeToString,
            api.PreferredAllocationResponse.FromString,
        )
        self._allocate = channel.unary_unary(
            names.ALLOCATE, api.AllocateRequest.SerializeToString, api.AllocateResponse.FromString
        )
        self._pre_start = channel.unary_unary(
            names.PRE_START_CONTAINER,
            api.PreStartContainerRequest.SerializeToString,
            api.PreStartContainerResponse.FromString,
        )

    async def connect(self, dial_timeout: float) -> api.DevicePluginOptions:
        """Dial and ask for the options. Raises PluginError."""
        try:
            async with asyncio.timeout(dial_timeout):
                await self._channel.channel_ready()
        except TimeoutError:
            raise PluginError("failed to dial device plugin: context deadline exceeded") from None
        options: api.DevicePluginOptions = await self._call(
            self._options, api.Empty(), "failed to get device plugin options: "
        )
        return options

    async def run(self, receive: Callable[[PluginClient, api.ListAndWatchResponse], None]) -> str:
        """Follow the plugin's list until its stream ends; the answer says why it ended."""
        if self.closed:
            return _CLOSING
        try:
            async for message in self._watch(api.Empty()):
                receive(self, message)
        except grpc.aio.AioRpcError as error:
            return _told(error)
        except asyncio.CancelledError:
            if self._closed_under_call():
                return _CLOSING
            raise
        return "EOF"

    async def prefer(self, available: Sequence[str], must_include: Sequence[str], size: int) -> list[str]:
        """Which of the available ids the plugin would rather give. Raises PluginError."""
        request = api.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must_include, allocation_size=size
        )
        response: api.PreferredAllocationResponse = await self._call(
            self._prefer,
            api.PreferredAllocationRequest(container_requests=[request]),
            "device plugin GetPreferredAllocation rpc failed with err: ",
        )
        return list(response.container_responses[0].deviceIDs) if response.container_responses else []

    async def allocate(self, ids: Sequence[str]) -> api.ContainerAllocateResponse:
        """What one container gets with these ids. Raises PluginError."""
        request = api.ContainerAllocateRequest(devices_ids=ids)
        response: api.AllocateResponse = await self._call(
            self._allocate, api.AllocateRequest(container_requests=[request])
        )
        if not response.container_responses:
            raise PluginError("no containers return in allocation response")
        return response.container_responses[0]

    async def pre_start(self, ids: Sequence[str]) -> None:
        """Tell the plugin that a container with these ids is about to start. Raises PluginError."""
        await self._call(
            self._pre_start,
            api.PreStartContainerRequest(devices_ids=ids),
            "device plugin PreStartContainer rpc failed with err: ",
        )

    async def _call(self, method: Callable[[Request], Awaitable[Answer]], request: Request, prefix: str = "") -> Answer:
        if self.closed:
            raise PluginError(f"{prefix}{_CLOSING}")
        try:
            return await method(request)
        except grpc.aio.AioRpcError as error:
            raise PluginError(f"{prefix}{_told(error)}") from error
        except asyncio.CancelledError:
            if self._closed_under_call():
                raise PluginError(f"{prefix}{_CLOSING}") from None
            raise

    def _closed_under_call(self) -> bool:
        """Whether a call was cancelled because its channel was closed, and not together with its task."""
        task = asyncio.current_task()
        return self.closed and task is not None and not task.cancelling()

    async def close(self) -> None:
        self.closed = True
        await self._channel.close(None)


class Receiver(Protocol):
    """What the device manager does about plugins."""

    def connected(self, client: PluginClient, options: api.DevicePluginOptions) -> None: ...

    def disconnected(self, resource: str) -> None: ...

    def received(self, client: PluginClient, message: api.ListAndWatchResponse) -> None: ...


class PluginRegistry:
    """The Registration service, and the clients that came of it. `dial_timeout` in seconds."""

    def __init__(self, directory: Path, receiver: Receiver, history: History, *, dial_timeout: float) -> None:
        self._directory = directory
        self._receiver = receiver
        self._history = history
        self._dial_timeout = dial_timeout
        self._clients: dict[str, PluginClient] = {}
        self._opened: set[PluginClient] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._over = False

    def handler(self) -> grpc.GenericRpcHandler:
        register = grpc.unary_unary_rpc_method_handler(
            self._register, api.RegisterRequest.FromString, api.Empty.SerializeToString
        )
        return grpc.method_handlers_generic_handler(names.REGISTRATION_SERVICE, {"Register": register})

    async def end(self, resource: str) -> None:
        """End the connection of whom the name stands for, as the end of an older plugin's stream does."""
        if (current := self._clients.get(resource)) is not None:
            await current.close()

    async def close(self) -> None:
        """End every connection at once, as the death of the process does: nobody is told."""
        self._over = True
        self._clients.clear()
        await asyncio.gather(*(client.close() for client in list(self._opened)))
        await asyncio.gather(*self._tasks)

    async def _register(
        self, request: api.RegisterRequest, context: grpc.aio.ServicerContext[api.RegisterRequest, api.Empty]
    ) -> api.Empty:
        at = time.monotonic()
        live = any(client.resource == request.resource_name for client in self._opened)
        error = self._refusal(request)
        if error is None:
            error = await self._connect(request.resource_name, self._directory / request.endpoint)
        self._history.registration(RegistrationRecord(at, request.resource_name, request.endpoint, live, error))
        if error is not None:
            await context.abort(grpc.StatusCode.UNKNOWN, error)
        return api.Empty()

    @staticmethod
    def _refusal(request: api.RegisterRequest) -> str | None:
        if request.version != names.API_VERSION:
            return (
                f'requested API version "{request.version}" is not supported by kubelet. '
                f'Supported version is ["{names.API_VERSION}"]'
            )
        domain = request.resource_name.partition("/")[0]
        if _RESOURCE_NAME.fullmatch(request.resource_name) is None or f".{domain}".endswith(".kubernetes.io"):
            return f'the ResourceName "{request.resource_name}" is invalid'
        if not request.endpoint or Path(request.endpoint).name != request.endpoint:
            return f'the endpoint "{request.endpoint}" is not the base name of a socket'
        return None

    async def _connect(self, resource: str, socket: Path) -> str | None:
        """Dial back; the answer is the error, if any."""
        client = PluginClient(resource, socket)
        self._clients[resource] = client
        options = error = None
        try:
            options = await client.connect(self._dial_timeout)
        except PluginError as refused:
            error = str(refused)
        finally:
            if options is None or self._over:
                self._clients.pop(resource, None)
                await client.close()
        if options is None or self._over:
            return error or "the kubelet has stopped"
        self._opened.add(client)
        self._receiver.connected(client, options)
        task = asyncio.create_task(self._run(client), name=f"plugin {resource}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return None

    async def _run(self, client: PluginClient) -> None:
        resource = client.resource
        reason = await client.run(self._receiver.received)
        self._opened.discard(client)
        self._history.stream_ended(
            StreamEnd(time.monotonic(), resource, client.socket.name, by_kubelet=client.closed, reason=reason)
        )
        current = self._clients.pop(resource, None)
        if current is not None:
            self._receiver.disconnected(resource)
            await current.close()
        await client.close()
