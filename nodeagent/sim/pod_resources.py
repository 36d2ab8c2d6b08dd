"""PodResources v1 as the kubelet serves it, and the ways in which it fails.

`List` shows the containers of active pods, without init containers, and `Get` those of one pod, for some kubelets also
of one that has finished; `GetAllocatableResources` the healthy devices. All answer with one entry per device. `List`
alone frees what finished pods held, and with it whatever is being allocated at that moment; `Get` frees nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.proto import podresources_pb2 as api
from nodeagent.sim.devices import Devices
from nodeagent.sim.pods import Pod

CALLS_PER_SECOND = 100.0
BURST = 10.0


class Fault(Enum):
    """How PodResources misbehaves."""

    HANG = "hang"
    UNAVAILABLE = "unavailable"
    RATE_LIMITED = "rate-limited"


class PodResourcesService:
    """Answers from the books; `books` and `pods` (the active ones) are asked anew at every call.

    `found` are the pods that `Get` finds, the active ones if not given. `collect` frees what finished pods held.
    `calls_per_second` None means no limit. `calls` counts the answered and the refused, of each method. `serves_get`
    False: as before 1.34, where `Get` is behind a gate.
    """

    def __init__(
        self,
        books: Callable[[], Devices],
        pods: Callable[[], Iterable[Pod]],
        collect: Callable[[], None],
        *,
        calls_per_second: float | None = CALLS_PER_SECOND,
        serves_get: bool = True,
        found: Callable[[], Iterable[Pod]] | None = None,
    ) -> None:
        self._serves_get = serves_get
        self._found = found or pods
        self._books = books
        self._pods = pods
        self._collect = collect
        self._rate = calls_per_second
        self._tokens = BURST
        self._refilled = time.monotonic()
        self._fault: Fault | None = None
        self._mended = asyncio.Event()
        self._allocatable: tuple[Devices, int, bytes] | None = None
        self.calls: Counter[str] = Counter()

    @property
    def fault(self) -> Fault | None:
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        """Misbehave from now on, or (None) no longer; calls that hang are answered then."""
        self._fault = fault
        if fault is Fault.HANG:
            self._mended.clear()
        else:
            self._mended.set()

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            names.POD_RESOURCES_SERVICE,
            {
                "List": grpc.unary_unary_rpc_method_handler(
                    self._list, api.ListPodResourcesRequest.FromString, api.ListPodResourcesResponse.SerializeToString
                ),
                "Get": grpc.unary_unary_rpc_method_handler(
                    self._get, api.GetPodResourcesRequest.FromString, api.GetPodResourcesResponse.SerializeToString
                ),
                "GetAllocatableResources": grpc.unary_unary_rpc_method_handler(
                    self._get_allocatable, api.AllocatableResourcesRequest.FromString
                ),
            },
        )

    async def _list(
        self,
        request: api.ListPodResourcesRequest,
        context: grpc.aio.ServicerContext[api.ListPodResourcesRequest, api.ListPodResourcesResponse],
    ) -> api.ListPodResourcesResponse:
        del request
        await self._misbehave(context, "List")
        self._collect()
        return api.ListPodResourcesResponse(pod_resources=[self._resources(pod) for pod in self._pods()])

    async def _get(
        self,
        request: api.GetPodResourcesRequest,
        context: grpc.aio.ServicerContext[api.GetPodResourcesRequest, api.GetPodResourcesResponse],
    ) -> api.GetPodResourcesResponse:
        await self._misbehave(context, "Get")
        if not self._serves_get:
            await context.abort(grpc.StatusCode.UNKNOWN, "PodResources API Get method disabled")
        wanted = request.pod_namespace, request.pod_name
        for pod in self._found():
            if (pod.namespace, pod.name) == wanted:
                return api.GetPodResourcesResponse(pod_resources=self._resources(pod))
        name, namespace = request.pod_name, request.pod_namespace
        return await context.abort(grpc.StatusCode.UNKNOWN, f"pod {name} in namespace {namespace} not found")

    def _resources(self, pod: Pod) -> api.PodResources:
        books = self._books()
        return api.PodResources(
            name=pod.name,
            namespace=pod.namespace,
            containers=[
                api.ContainerResources(name=container, devices=_devices_of(books, pod, container))
                for container in pod.containers
            ],
        )

    async def _get_allocatable(
        self,
        request: api.AllocatableResourcesRequest,
        context: grpc.aio.ServicerContext[api.AllocatableResourcesRequest, bytes],
    ) -> bytes:
        """Answer in serialised form: with 40,000 ids, making the message costs more than all the rest."""
        del request
        await self._misbehave(context, "GetAllocatableResources")
        books = self._books()
        if self._allocatable is None or self._allocatable[:2] != (books, books.version):
            message = api.AllocatableResourcesResponse(
                devices=[
                    api.ContainerDevices(resource_name=resource, device_ids=[id_])
                    for resource, ids in books.healthy.items()
                    for id_ in ids
                ]
            )
            self._allocatable = (books, books.version, message.SerializeToString())
        return self._allocatable[2]

    async def _misbehave(self, context: grpc.aio.ServicerContext[Any, Any], method: str) -> None:
        self.calls[method] += 1
        if self._fault is Fault.HANG:
            await self._mended.wait()
        if self._fault is Fault.UNAVAILABLE:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the kubelet is not ready")
        if self._fault is Fault.RATE_LIMITED or not self._token():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "rejected by rate limit")

    def _token(self) -> bool:
        if self._rate is None:
            return True
        now = time.monotonic()
        self._tokens = min(BURST, self._tokens + (now - self._refilled) * self._rate)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


def _devices_of(books: Devices, pod: Pod, container: str) -> list[api.ContainerDevices]:
    return [
        api.ContainerDevices(resource_name=entry.resource, device_ids=[id_])
        for entry in books.of_container(pod.uid, container)
        for id_ in sorted(entry.ids)
    ]
