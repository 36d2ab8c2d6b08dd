"""What the kubelet waits for: Allocate and GetPreferredAllocation, against the round trip of a call that does nothing.

The three calls are made in turn, in random order, with a pause in which the agent's loop takes note of what it gave
away: what is compared has been measured at the same time on the same machine, so the ratio is worth more than the
microseconds. Requests are made beforehand and answers not looked at; the kubelet's own part is not the agent's.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from benchmarks.node import RESOURCE, Node, serving
from benchmarks.table import Row, percentile
from nodeagent.kubelet import names
from nodeagent.kubelet.proto import deviceplugin_pb2 as api
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, target

REPLICAS = 10
_PAUSE = 0.02

Call = Callable[[bytes], Awaitable[object]]

_METHODS = (names.GET_OPTIONS, names.ALLOCATE, names.GET_PREFERRED_ALLOCATION)


async def measure(*, quick: bool) -> list[Row]:
    """Rows for each call, 1 share among 80."""
    async with serving(REPLICAS) as (node, _):
        found = await _calls(node, times=100 if quick else 1000)
    p50 = {method: percentile(times, 50) * 1e6 for method, times in found.items()}
    bare = p50[names.GET_OPTIONS]
    rows = [Row("GetDevicePluginOptions, p50", bare, "us", None, f"{len(found[names.GET_OPTIONS])} of each call")]
    for method, name in ((names.ALLOCATE, "Allocate"), (names.GET_PREFERRED_ALLOCATION, "GetPreferredAllocation")):
        rows.append(Row(f"{name}, p50, against it", p50[method] / bare, "x", 1.3, f"{p50[method]:.0f} us"))
    return rows


async def _calls(node: Node, *, times: int) -> dict[str, list[float]]:
    """Seconds of each call, by method."""
    ids = sorted(node.kubelet.devices(RESOURCE))
    one_each = itertools.cycle(_allocate(share) for share in ids)
    prefer = api.PreferredAllocationRequest(
        container_requests=[api.ContainerPreferredAllocationRequest(available_deviceIDs=ids, allocation_size=1)]
    ).SerializeToString()
    found: dict[str, list[float]] = {method: [] for method in _METHODS}
    socket = node.kubelet.device_plugins / node.kubelet.registrations[-1].endpoint
    async with grpc.aio.insecure_channel(target(socket), options=LOCAL_CHANNEL) as channel:
        calls: dict[str, Call] = {
            method: channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
            for method in _METHODS
        }
        for _ in range(times):
            requests = {names.GET_OPTIONS: b"", names.ALLOCATE: next(one_each), names.GET_PREFERRED_ALLOCATION: prefer}
            for method in random.sample(_METHODS, len(_METHODS)):
                begun = time.perf_counter()
                await calls[method](requests[method])
                found[method].append(time.perf_counter() - begun)
                await asyncio.sleep(_PAUSE)
    return found


def _allocate(share: str) -> bytes:
    request = api.ContainerAllocateRequest(devices_ids=[share])
    return api.AllocateRequest(container_requests=[request]).SerializeToString()
