"""A device plugin of the simplest kind, over real gRPC: what the stand-in kubelet is shown to."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import deviceplugin_pb2 as api
from tests.waiting import longer

RESOURCE = "nvidia.com/gpu"
Context = grpc.aio.ServicerContext[Any, Any]
_serial = itertools.count()


class TinyPlugin:
    """Serves one list and grants what it is asked for, once `grant` is set, unless `refuse` says no.

    `preferred` is its preference, `asked` what it was asked.
    """

    def __init__(self, directory: Path, *, resource: str = RESOURCE, preference: bool = True) -> None:
        self.directory = directory
        self.resource = resource
        self.endpoint = f"t{next(_serial)}.sock"
        self.options = api.DevicePluginOptions(get_preferred_allocation_available=preference)
        self.devices: list[api.Device] = []
        self.preferred: list[str] = []
        self.refuse: str | None = None
        self.grant = asyncio.Event()
        self.grant.set()
        self.asked: list[tuple[str, tuple[str, ...]]] = []
        self.pre_started: list[tuple[str, ...]] = []
        self.streams = 0
        self._changed = asyncio.Condition()
        self._revision = 0
        self._ending = 0
        self._server: grpc.aio.Server | None = None

    async def serve(self) -> None:
        unary = grpc.unary_unary_rpc_method_handler
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "GetDevicePluginOptions": unary(
                self._get_options, api.Empty.FromString, api.DevicePluginOptions.SerializeToString
            ),
            "GetPreferredAllocation": unary(
                self._prefer,
                api.PreferredAllocationRequest.FromString,
                api.PreferredAllocationResponse.SerializeToString,
            ),
            "Allocate": unary(self._allocate, api.AllocateRequest.FromString, api.AllocateResponse.SerializeToString),
            "PreStartContainer": unary(
                self._pre_start,
                api.PreStartContainerRequest.FromString,
                api.PreStartContainerResponse.SerializeToString,
            ),
            "ListAndWatch": grpc.unary_stream_rpc_method_handler(
                self._list_and_watch, api.Empty.FromString, api.ListAndWatchResponse.SerializeToString
            ),
        }
        generic = grpc.method_handlers_generic_handler(names.DEVICE_PLUGIN_SERVICE, handlers)
        self._server = grpc.aio.server(handlers=[generic], options=[("grpc.max_send_message_length", -1)])
        self._server.add_insecure_port(f"unix:{self.directory / self.endpoint}")
        await self._server.start()

    async def register(self, *, version: str = names.API_VERSION, endpoint: str | None = None) -> None:
        """Register; raises AioRpcError when the kubelet refuses."""
        async with grpc.aio.insecure_channel(
            f"unix:{self.directory / names.KUBELET_SOCKET}", options=[("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            register = channel.unary_unary(names.REGISTER, api.RegisterRequest.SerializeToString, api.Empty.FromString)
            await register(
                api.RegisterRequest(version=version, endpoint=endpoint or self.endpoint, resource_name=self.resource),
                timeout=longer(20),
            )

    async def send(self, healthy: Iterable[str], unhealthy: Iterable[str] = (), *, node: int | None = None) -> None:
        """Make this the list, and send it on every open stream."""
        topology = None if node is None else api.TopologyInfo(nodes=[api.NUMANode(ID=node)])
        self.devices = [
            *(api.Device(ID=id_, health=names.HEALTHY, topology=topology) for id_ in healthy),
            *(api.Device(ID=id_, health=names.UNHEALTHY, topology=topology) for id_ in unhealthy),
        ]
        await self._wake()

    async def end_streams(self) -> None:
        """End the open streams and go on serving."""
        self._ending += 1
        await self._wake()

    async def stop(self) -> None:
        if self._server is not None:
            server, self._server = self._server, None
            await server.stop(None)

    async def _wake(self) -> None:
        async with self._changed:
            self._revision += 1
            self._changed.notify_all()

    async def _get_options(self, request: api.Empty, context: Context) -> api.DevicePluginOptions:
        return self.options

    async def _list_and_watch(self, request: api.Empty, context: Context) -> AsyncIterator[api.ListAndWatchResponse]:
        self.streams += 1
        ending = self._ending
        try:
            while ending == self._ending:
                sent = self._revision
                yield api.ListAndWatchResponse(devices=self.devices)
                async with self._changed:
                    while sent == self._revision:
                        await self._changed.wait()
        finally:
            self.streams -= 1

    async def _prefer(
        self, request: api.PreferredAllocationRequest, context: Context
    ) -> api.PreferredAllocationResponse:
        (container,) = request.container_requests
        self.asked.append(("prefer", tuple(container.available_deviceIDs)))
        return api.PreferredAllocationResponse(
            container_responses=[api.ContainerPreferredAllocationResponse(deviceIDs=self.preferred)]
        )

    async def _allocate(self, request: api.AllocateRequest, context: Context) -> api.AllocateResponse:
        (container,) = request.container_requests
        self.asked.append(("allocate", tuple(container.devices_ids)))
        await self.grant.wait()
        if self.refuse is not None:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refuse)
        envs = {"VISIBLE": ",".join(container.devices_ids)}
        return api.AllocateResponse(container_responses=[api.ContainerAllocateResponse(envs=envs)])

    async def _pre_start(
        self, request: api.PreStartContainerRequest, context: Context
    ) -> api.PreStartContainerResponse:
        self.pre_started.append(tuple(request.devices_ids))
        return api.PreStartContainerResponse()
