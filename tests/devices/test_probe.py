"""Calls with a deadline that nothing can interrupt."""

from __future__ import annotations

import threading

import pytest

from nodeagent.devices.looking import Fault, assemble
from nodeagent.devices.probe import Hangs, Probe
from nodeagent.model.inventory import GpuHealth, InventoryReason
from tests.devices.worlds import gpu
from tests.waiting import eventually

LONG = 10.0


async def test_answer() -> None:
    """A call that returns in time is answered with what it returns, and leaves the probe free."""
    probe = Probe("test", on_late=pytest.fail)
    assert await probe.ask(lambda: 7, LONG) == 7
    assert not probe.busy


@pytest.mark.parametrize("error", [ValueError("no"), TimeoutError("its own")])
async def test_error(error: Exception) -> None:
    """An error of the call is raised as it is; a timeout of its own is no hang."""

    def call() -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        await Probe("test", on_late=pytest.fail).ask(call, LONG)


async def test_hang() -> None:
    """A call is given up at its deadline, no other is made before it returns, and then the owner is told."""
    release, calls, late = threading.Event(), [], []

    def call() -> None:
        calls.append(1)
        release.wait()

    probe = Probe("test", on_late=lambda: late.append(1))
    for _ in range(3):
        with pytest.raises(Hangs):
            await probe.ask(call, 0.01)
    assert (len(calls), late, probe.busy) == (1, [], True)
    release.set()
    await eventually(lambda: late)
    assert not probe.busy
    await probe.ask(call, LONG)
    assert (len(calls), len(late)) == (2, 1)


def test_fault_of_a_known_gpu() -> None:
    """A fault is that of the GPU which had its index, unless that one answers under another."""
    fault = Fault(1, GpuHealth.LOST, "gone")
    known = [gpu(0), gpu(1)]
    inventory = assemble([gpu(0)], [fault], known=known)
    assert [(one.uuid, one.health) for one in inventory.gpus] == [
        (gpu(0).uuid, GpuHealth.OK),
        (gpu(1).uuid, GpuHealth.LOST),
    ]
    moved = assemble([gpu(0, "1")], [fault], known=known)
    assert [one.uuid for one in moved.gpus] == [gpu(1).uuid]
    assert (moved.reason, moved.message) == (InventoryReason.GPU_LOST, "GPU 1: gone")
