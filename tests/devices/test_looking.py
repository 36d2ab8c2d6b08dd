"""How one look becomes an inventory."""

from __future__ import annotations

from nodeagent.devices.looking import Fault, assemble
from nodeagent.model.inventory import GpuHealth, InventoryReason
from tests.devices.worlds import gpu


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
