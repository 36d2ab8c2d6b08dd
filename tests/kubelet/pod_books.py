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
    """Serves List and GetAllocatableResources at `socket`, and Get if it is to: an entry per device, as the kubelet.

    `before` is awaited before List answers, `before_get` before Get does: it may wait, change the world or abort.
    `looks` counts calls of List, `most` is how many were ever under way at once; `gets` are the pods asked for by Get.
    """

    def __init__(self, socket: Path, *, serves_get: bool = False) -> None:
        self.serves_get = serves_get
        self.gets: list[tuple[str, str]] = []
        self.before_get: Callable[[Context], Awaitable[None]] = _at_once
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
        methods: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            "List": unary(
                self._list, pb.ListPodResourcesRequest.FromString, pb.ListPodResourcesResponse.SerializeToString
            ),
            "GetAllocatableResources": unary(
                self._allocatable,
                pb.AllocatableResourcesRequest.FromString,
                pb.AllocatableResourcesResponse.SerializeToString,
            ),
        }
        if self.serves_get:
            methods["Get"] = unary(
                self._get, pb.GetPodResourcesRequest.FromString, pb.GetPodResourcesResponse.SerializeToString
            )
        handler = grpc.method_handlers_generic_handler(names.POD_RESOURCES_SERVICE, methods)
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
                _fill(answer.pod_resources.add(name=name, namespace=namespace), container, devices)
            await self.before(context)
            return answer
        finally:
            self._under_way -= 1

    async def _get(self, request: pb.GetPodResourcesRequest, context: Context) -> pb.GetPodResourcesResponse:
        wanted = request.pod_namespace, request.pod_name
        self.gets.append(wanted)
        await self.before_get(context)
        answer = pb.GetPodResourcesResponse()
        found = {key: devices for key, devices in self.pods.items() if key[:2] == wanted}
        if not found:
            details = f"pod {request.pod_name} in namespace {request.pod_namespace} not found"
            await context.abort(grpc.StatusCode.UNKNOWN, details)
        for (namespace, name, container), devices in found.items():
            answer.pod_resources.namespace, answer.pod_resources.name = namespace, name
            _fill(answer.pod_resources, container, devices)
        return answer

    async def _allocatable(
        self, _request: pb.AllocatableResourcesRequest, _context: Context
    ) -> pb.AllocatableResourcesResponse:
        answer = pb.AllocatableResourcesResponse()
        for resource, ids in self.allocatable.items():
            for id_ in ids:
                answer.devices.add(resource_name=resource, device_ids=[id_])
        return answer


def _fill(pod: pb.PodResources, container: str, devices: Mapping[str, Sequence[str]]) -> None:
    entry = pod.containers.add(name=container)
    for resource, ids in devices.items():
        for id_ in ids:
            entry.devices.add(resource_name=resource, device_ids=[id_])
