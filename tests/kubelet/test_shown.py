"""Which ids the kubelet shows, asked of the stand-in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from nodeagent.kubelet import names
from nodeagent.kubelet.shown import ShownIds
from nodeagent.kubelet.sockets import target
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pod_resources import Fault
from tests.kubelet.support import GPU, SHARED, running
from tests.waiting import eventually


@pytest.fixture
async def kubelet(tmp_path: Path) -> AsyncIterator[StandInKubelet]:
    """A stand-in kubelet at work."""
    async with StandInKubelet(tmp_path) as stand_in:
        yield stand_in


def asking(kubelet: StandInKubelet, deadline: float = 5.0) -> ShownIds:
    """Asks that kubelet."""
    return ShownIds(kubelet.pod_resources_dir / names.KUBELET_SOCKET, deadline=deadline)


async def test_the_ids_of_one_resource_are_shown(kubelet: StandInKubelet) -> None:
    """Healthy ids, whoever advertised them, and none of a resource that nobody has."""
    shown = asking(kubelet)
    assert await shown(GPU) == frozenset()
    async with running(kubelet.device_plugins) as agent:
        agent.desk.put(GPU, "GPU-0", "GPU-1", "GPU-2", unhealthy=["GPU-2"])
        await eventually(lambda: kubelet.allocatable(GPU) == 2)
        assert await shown(GPU) == frozenset({"GPU-0", "GPU-1"})
        assert await shown(SHARED) == frozenset()


async def test_asking_changes_nothing(kubelet: StandInKubelet) -> None:
    """It is one call each time, and no List, which may make the kubelet forget an allocation that is under way."""
    shown = asking(kubelet)
    await shown(GPU)
    await shown(GPU)
    assert kubelet.pod_resources_calls == 2


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.RATE_LIMITED])
async def test_a_refusal_is_no_answer(kubelet: StandInKubelet, fault: Fault) -> None:
    """Neither is it an empty one: nothing is known then. Nothing is raised."""
    kubelet.pod_resources_fault = fault
    assert await asking(kubelet)(GPU) is None
    kubelet.pod_resources_fault = None
    assert await asking(kubelet)(GPU) == frozenset()


async def test_a_kubelet_that_hangs_is_waited_for_no_longer_than_the_deadline(kubelet: StandInKubelet) -> None:
    """Whoever asks has no devices meanwhile."""
    kubelet.pod_resources_fault = Fault.HANG
    async with asyncio.timeout(10):
        assert await asking(kubelet, deadline=0.05)(GPU) is None
    kubelet.pod_resources_fault = None


async def test_no_kubelet_is_no_answer(tmp_path: Path) -> None:
    """Where there is no socket, nobody is asked."""
    assert await ShownIds(tmp_path / names.KUBELET_SOCKET)(GPU) is None


async def test_what_cannot_be_understood_is_no_answer(tmp_path: Path) -> None:
    """Bytes that are no message are taken for nothing said."""

    async def garbage(_request: bytes, _context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b"\xff\xff\xff"

    handler = grpc.method_handlers_generic_handler(
        names.POD_RESOURCES_SERVICE, {"GetAllocatableResources": grpc.unary_unary_rpc_method_handler(garbage)}
    )
    server = grpc.aio.server(handlers=[handler])
    server.add_insecure_port(target(tmp_path / names.KUBELET_SOCKET))
    await server.start()
    assert await ShownIds(tmp_path / names.KUBELET_SOCKET, deadline=10)(GPU) is None
    await server.stop(None)
