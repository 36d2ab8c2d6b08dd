"""A PodResources service whose every answer, and its moment, is the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import podresources_pb2 as pb
from nodeagent.kubelet.sockets import target

Context = grpc.aio.ServicerContext[Any, Any]


async def _at_once(_context: Context) -> None:
    """Nothing is in the way of an answer."""


class PodBooks:
    """Serves List and GetAllocatableResources at `socket`, one entry per device as the kubelet does.

    `before` is awaited before List answers: it may wait, change the world or abort. `looks` counts calls of List,
    `most` is how many were ever under way at once.
    """

    def __init__(self, socket: Path) -> None:
        self.pods: dict[tuple[str, str, str], Mapping[str, Sequence[str]]] = {}
        self.allocatable: dict[str, Sequence[str]] = {}
        self.before: Callable[[Context], Awaitable[None]] = _at_once
        self.looks = 0
        self.most = 0
        self._under_way = 0
        self._socket = socket
        self._server: grpc.aio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        unary = grpc.unary_unary_rpc_method_handler
        handler = grpc.method_handlers_generic_handler(
            names.POD_RESOURCES_SERVICE,
            {
                "List": unary(
                    self._list, pb.ListPodResourcesRequest.FromString, pb.ListPodResourcesResponse.SerializeToString
                ),
                "GetAllocatableResources": unary(
                    self._allocatable,
                    pb.AllocatableResourcesRequest.FromString,
                    pb.AllocatableResourcesResponse.SerializeToString,
                ),
            },
        )
        self._server = grpc.aio.server(handlers=[handler])
        self._server.add_insecure_port(target(self._socket))
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    async def restart(self) -> None:
        """As a new kubelet does it: the old one's calls are lost, and the socket is another."""
        await self.stop()
        await asyncio.sleep(0.01)  # the clock of file systems is coarse
        await self.start()

    async def _list(self, _request: pb.ListPodResourcesRequest, context: Context) -> pb.ListPodResourcesResponse:
        self.looks += 1
        self._under_way += 1
        self.most = max(self.most, self._under_way)
        try:
            answer = pb.ListPodResourcesResponse()
            for (namespace, name, container), devices in self.pods.items():
                pod = answer.pod_resources.add(name=name, namespace=namespace)
                entry = pod.containers.add(name=container)
                for resource, ids in devices.items():
                    for id_ in ids:
                        entry.devices.add(resource_name=resource, device_ids=[id_])
            await self.before(context)
            return answer
        finally:
            self._under_way -= 1

    async def _allocatable(
        self, _request: pb.AllocatableResourcesRequest, _context: Context
    ) -> pb.AllocatableResourcesResponse:
        answer = pb.AllocatableResourcesResponse()
        for resource, ids in self.allocatable.items():
            for id_ in ids:
                answer.devices.add(resource_name=resource, device_ids=[id_])
        return answer
