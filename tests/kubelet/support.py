"""What the kubelet's tests share: a desk that answers from a table, the kubelet's side of a socket, plugins at work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.plugins import Plugins
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.registration import Timing
from nodeagent.kubelet.rival import RivalTiming, Shown
from nodeagent.kubelet.shown import ShownIds
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, target
from nodeagent.model.allocation import ContainerGrant, PreferenceRequest, RefusalReason, Refused
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.shares import Device, Listing
from tests.waiting import eventually, longer

GPU = "nvidia.com/gpu"
SHARED = "nvidia.com/gpu.shared"

HASTY = Timing(
    connect=1.0,
    register=1.0,
    stream=0.5,
    backoff=(0.02, 0.2),
    soon=0.2,
    grace=0.2,
    rival=RivalTiming(waits=(60.0,), look=0.05, unanswered=0.3),
)
"""Short waits, so that what would take minutes is seen in a test."""


class TableDesk:
    """Stands for the agent's desk: what the test puts in is the newest list; grants and refusals follow from it."""

    def __init__(self) -> None:
        self._listings: dict[str, Listing] = {}
        self.granted: list[tuple[str, ...]] = []
        self.broken: dict[str, Exception] = {}

    def put(self, resource: str, *ids: str, unhealthy: Sequence[str] = ()) -> Listing:
        """The list of the resource from now on."""
        devices = tuple(Device(id_, id_ not in unhealthy) for id_ in ids)
        self._listings[resource] = Listing(resource, self.listing(resource).revision + 1, devices)
        return self._listings[resource]

    def listing(self, resource: str) -> Listing:
        if resource in self.broken:
            raise self.broken[resource]
        return self._listings.get(resource, Listing(resource, 0, ()))

    def allocate(self, resource: str, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]:
        healthy = {device.id: device.healthy for device in self.listing(resource).devices}
        for id_ in (id_ for ids in requests for id_ in ids):
            if id_ not in healthy:
                raise Refused(RefusalReason.UNKNOWN_SHARE, f"cannot allocate {id_}: no such share")
            if not healthy[id_]:
                raise Refused(RefusalReason.UNHEALTHY, f"cannot allocate {id_}: its GPU is lost")
        if any(len(ids) > 2 for ids in requests):
            raise Refused(RefusalReason.TOO_MANY, "cannot allocate more than 2 shares to one container")
        self.granted.extend(tuple(ids) for ids in requests)
        return [ContainerGrant({"NVIDIA_VISIBLE_DEVICES": ",".join(ids)}) for ids in requests]

    async def choosing(self) -> None:
        """Nobody is in the way of a choice."""

    def prefer(self, resource: str, requests: Sequence[PreferenceRequest]) -> list[list[str]]:
        self.listing(resource)
        if any(request.size > len(request.available) for request in requests):
            raise Refused(RefusalReason.INVALID, "cannot choose more shares than are available")
        rest = [[id_ for id_ in request.available if id_ not in request.must_include] for request in requests]
        return [
            [*request.must_include, *others][: request.size] for request, others in zip(requests, rest, strict=True)
        ]


class Client:
    """The kubelet's side of one plugin socket."""

    def __init__(self, socket: Path) -> None:
        self.channel = grpc.aio.insecure_channel(target(socket), options=LOCAL_CHANNEL)
        self.options = self.channel.unary_unary(
            names.GET_OPTIONS,
            request_serializer=pb.Empty.SerializeToString,
            response_deserializer=pb.DevicePluginOptions.FromString,
        )
        self.watch = self.channel.unary_stream(
            names.LIST_AND_WATCH,
            request_serializer=pb.Empty.SerializeToString,
            response_deserializer=pb.ListAndWatchResponse.FromString,
        )
        self.pre_start = self.channel.unary_unary(
            names.PRE_START_CONTAINER,
            request_serializer=pb.PreStartContainerRequest.SerializeToString,
            response_deserializer=pb.PreStartContainerResponse.FromString,
        )
        self._allocate = self.channel.unary_unary(
            names.ALLOCATE,
            request_serializer=pb.AllocateRequest.SerializeToString,
            response_deserializer=pb.AllocateResponse.FromString,
        )
        self._prefer = self.channel.unary_unary(
            names.GET_PREFERRED_ALLOCATION,
            request_serializer=pb.PreferredAllocationRequest.SerializeToString,
            response_deserializer=pb.PreferredAllocationResponse.FromString,
        )

    async def allocate(self, *containers: Sequence[str]) -> list[dict[str, str]]:
        """The environment of each container. Raises AioRpcError."""
        asked = [pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
        answer = await self._allocate(pb.AllocateRequest(container_requests=asked), timeout=longer(5))
        return [dict(container.envs) for container in answer.container_responses]

    async def prefer(self, available: Sequence[str], must_include: Sequence[str], size: int) -> list[str]:
        """The ids chosen for one container. Raises AioRpcError."""
        asked = pb.ContainerPreferredAllocationRequest(
            available_deviceIDs=available, must_include_deviceIDs=must_include, allocation_size=size
        )
        answer = await self._prefer(pb.PreferredAllocationRequest(container_requests=[asked]), timeout=longer(5))
        return list(answer.container_responses[0].deviceIDs)

    async def lists(self) -> AsyncIterator[dict[str, str]]:
        """Every list of one stream, as id -> health."""
        async for message in self.watch(pb.Empty()):
            yield {device.ID: device.health for device in message.devices}


class Events:
    """Stands for the agent's watch where a test makes the events itself, or none at all."""

    def __init__(self) -> None:
        self._wakes: list[Callable[[], None]] = []

    def subscribe(self, _directory: Path, wake: Callable[[], None]) -> None:
        self._wakes.append(wake)

    def happen(self) -> None:
        for wake in self._wakes:
            wake()


@dataclass
class Running:
    """Plugins at work in one directory, and what they have told."""

    plugins: Plugins
    desk: TableDesk
    events: Events
    directory: Path
    counted: list[tuple[str, str]] = field(default_factory=list)
    woken: int = 0

    def status(self, resource: str = GPU) -> RegistrationStatus:
        return next(status for status in self.plugins.statuses() if status.resource == resource)

    def sockets(self) -> list[Path]:
        """Our sockets in the directory."""
        return sorted(self.directory.glob("nodeagent-*.sock"))

    async def reaches(self, state: RegistrationState, resource: str = GPU, *, registrations: int | None = None) -> None:
        """Wait for the resource's state, and for so many registrations if given."""

        def reached() -> bool:
            status = self.status(resource)
            assert status.state is state, status
            assert registrations in (None, status.registrations), status
            return True

        await eventually(reached)


@asynccontextmanager
async def running(directory: Path, *, timing: Timing = HASTY, shown: Shown | None = None) -> AsyncIterator[Running]:
    """Plugins that serve GPU and work until the end of the block. They ask the PodResources beside the directory, or
    `shown`.
    """
    desk, events = TableDesk(), Events()
    desk.put(GPU, "GPU-0", "GPU-1")
    counted: list[tuple[str, str]] = []

    def wake() -> None:
        world.woken += 1

    plugins = Plugins(
        directory,
        desk,
        subscribe=events.subscribe,
        wake=wake,
        on_allocate=lambda resource, result, _seconds: counted.append((resource, result)),
        shown=shown or ShownIds(directory.parent / "pod-resources" / names.KUBELET_SOCKET),
        timing=timing,
    )
    world = Running(plugins, desk, events, directory, counted)
    plugins.register(GPU)
    task = asyncio.create_task(plugins.run())
    try:
        yield world
    finally:
        await plugins.stop(1.0)
        await task
