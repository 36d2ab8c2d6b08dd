"""What the kubelet waits for: Allocate and GetPreferredAllocation, against the round trip of a call that does nothing.

The three calls are made in turn, in random order, with a pause in which the agent's loop takes note of what it gave
away: what is compared has been measured at the same time on the same machine, so the ratio is worth more than the
microseconds. Requests are made beforehand and answers not looked at; the kubelet's own part is not the agent's.

Whole GPUs are chosen by the distances between them: each call names other GPUs as available, so that nothing that the
agent may remember of the call before is of use.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from benchmarks.node import RESOURCE, Node, node, serving
from benchmarks.table import Row, percentile
from nodeagent.kubelet import names
from nodeagent.kubelet.proto import deviceplugin_pb2 as api
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, target

REPLICAS = 10
_PAUSE = 0.02

_WHOLE = "nvidia.com/gpu"
_GPUS, _AVAILABLE, _CHOSEN = 24, 16, 4
_LINKED = """\
apiVersion: nodeagent.io/v1alpha1
kind: SimulatedNode
nvlink:
  - [0, 1, 2, 3, 4, 5, 6, 7]
  - [8, 9, 10, 11, 12, 13, 14, 15]
  - [16, 17, 18, 19, 20, 21, 22, 23]
gpus:
  - {model: NVIDIA H100 80GB HBM3, memory: 80Gi, count: 8, numaNode: 0}
  - {model: NVIDIA H100 80GB HBM3, memory: 80Gi, count: 8, numaNode: 1}
  - {model: NVIDIA H100 80GB HBM3, memory: 80Gi, count: 8, numaNode: 2}
"""
_EXCLUSIVE = b"""\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: measured}
spec:
  rules:
    - {name: every-gpu, exclusive: {}}
"""

Call = Callable[[bytes], Awaitable[object]]

_METHODS = (names.GET_OPTIONS, names.ALLOCATE, names.GET_PREFERRED_ALLOCATION)


async def measure(*, quick: bool) -> list[Row]:
    """Rows for each call, 1 share among 80, and for the choice of whole GPUs."""
    times = 100 if quick else 1000
    async with serving(REPLICAS) as (used, _):
        found = await _calls(used, times=times)
    p50 = {method: percentile(times, 50) * 1e6 for method, times in found.items()}
    bare = p50[names.GET_OPTIONS]
    rows = [Row("GetDevicePluginOptions, p50", bare, "us", None, f"{len(found[names.GET_OPTIONS])} of each call")]
    for method, name in ((names.ALLOCATE, "Allocate"), (names.GET_PREFERRED_ALLOCATION, "GetPreferredAllocation")):
        rows.append(Row(f"{name}, p50, against it", p50[method] / bare, "x", 1.3, f"{p50[method]:.0f} us"))
    return [*rows, await _choices(times)]


async def _choices(times: int) -> Row:
    """Four of sixteen GPUs that are free, in islands of which other parts are free each time."""
    chooses: list[float] = []
    does_nothing: list[float] = []
    async with node(gpus=_LINKED) as used:
        used.mount.write({"sharing.yaml": _EXCLUSIVE})
        agent = await used.start_agent()
        try:
            await used.until(lambda: len(used.kubelet.devices(_WHOLE)) == _GPUS)
            ids = sorted(used.kubelet.devices(_WHOLE))
            requests = [_prefer(random.sample(ids, _AVAILABLE), _CHOSEN) for _ in range(times)]
            async with _channel(used) as channel:
                choose, nothing = _call(channel, names.GET_PREFERRED_ALLOCATION), _call(channel, names.GET_OPTIONS)
                for request in requests:
                    for call, data, spent in ((nothing, b"", does_nothing), (choose, request, chooses)):
                        begun = time.perf_counter()
                        await call(data)
                        spent.append(time.perf_counter() - begun)
        finally:
            await agent.end(signal.SIGKILL)
    p50, bare = percentile(chooses, 50) * 1000, percentile(does_nothing, 50) * 1000
    what = f"GetPreferredAllocation, {_CHOSEN} of {_AVAILABLE} GPUs, p50"
    return Row(what, p50, "ms", 1.5, f"{times} calls; GetDevicePluginOptions beside it {bare:.2f} ms")


async def _calls(used: Node, *, times: int) -> dict[str, list[float]]:
    """Seconds of each call, by method."""
    ids = sorted(used.kubelet.devices(RESOURCE))
    one_each = itertools.cycle(_allocate(share) for share in ids)
    prefer = _prefer(ids, 1)
    found: dict[str, list[float]] = {method: [] for method in _METHODS}
    async with _channel(used) as channel:
        calls = {method: _call(channel, method) for method in _METHODS}
        for _ in range(times):
            requests = {names.GET_OPTIONS: b"", names.ALLOCATE: next(one_each), names.GET_PREFERRED_ALLOCATION: prefer}
            for method in random.sample(_METHODS, len(_METHODS)):
                begun = time.perf_counter()
                await calls[method](requests[method])
                found[method].append(time.perf_counter() - begun)
                await asyncio.sleep(_PAUSE)
    return found


@asynccontextmanager
async def _channel(used: Node) -> AsyncIterator[grpc.aio.Channel]:
    """The kubelet's way to the plugin that registered last."""
    socket = used.kubelet.device_plugins / used.kubelet.registrations[-1].endpoint
    async with grpc.aio.insecure_channel(target(socket), options=LOCAL_CHANNEL) as channel:
        yield channel


def _call(channel: grpc.aio.Channel, method: str) -> Call:
    call: Call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
    return call


def _prefer(ids: Sequence[str], size: int) -> bytes:
    request = api.ContainerPreferredAllocationRequest(available_deviceIDs=ids, allocation_size=size)
    return api.PreferredAllocationRequest(container_requests=[request]).SerializeToString()


def _allocate(share: str) -> bytes:
    request = api.ContainerAllocateRequest(devices_ids=[share])
    return api.AllocateRequest(container_requests=[request]).SerializeToString()
