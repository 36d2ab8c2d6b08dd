"""What holds for every driver, whatever it gets its GPUs from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from tests.devices.worlds import World, gpu

UNHEALTHY = [
    pytest.param(GpuHealth.LOST, InventoryReason.GPU_LOST, id="lost"),
    pytest.param(GpuHealth.HANG, InventoryReason.GPU_HANGS, id="hang"),
]


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


async def test_facts(world: World) -> None:
    """The inventory holds every GPU with all its facts, in the order of their indices, and the versions."""
    gpus = [gpu(0), gpu(1), replace(gpu(2), model="NVIDIA A100-SXM4-40GB", memory=40 << 30, compute_capability=(8, 0))]
    world.has(*gpus)
    await world.start()
    inventory = await world.inventory(found)
    assert inventory.gpus == tuple(world.expected(one) for one in gpus)
    assert (inventory.driver_version, inventory.cuda_version) == ("550.163.01", "12.4")
    assert inventory.complete
    assert inventory.message == ""


async def test_facts_that_are_not_told(world: World) -> None:
    """A fact that the driver does not tell is None, and costs no other."""
    bare = replace(gpu(0), compute_capability=None, minor=None, pci_bus_id=None, numa_node=None)
    world.has(bare, gpu(1))
    await world.start()
    inventory = await world.inventory(found)
    assert inventory.gpus == (world.expected(bare), world.expected(gpu(1)))


async def test_no_driver(world: World) -> None:
    """Without a driver there is a reason and no GPU; when it appears, its GPUs are picked up."""
    await world.start()
    inventory = await world.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_MISSING)
    assert inventory.message.startswith("cannot ")
    assert (inventory.gpus, inventory.complete) == ((), False)
    world.has(gpu(0))
    inventory = await world.inventory(found)
    assert inventory.gpus == (world.expected(gpu(0)),)


async def test_no_gpu(world: World) -> None:
    """A driver that lists no GPU is not missing: the inventory is empty and complete, and says so."""
    world.has()
    await world.start()
    inventory = await world.inventory(found)
    assert (inventory.gpus, inventory.complete, inventory.message) == ((), True, "the driver lists no GPU")


async def test_gpus_come_and_go(world: World) -> None:
    """GPUs that appear are listed, GPUs that vanish are not, while the driver runs."""
    world.has(gpu(0))
    await world.start()
    await world.inventory(lambda newest: len(newest.gpus) == 1)
    world.has(gpu(0), gpu(1), gpu(2))
    await world.inventory(lambda newest: len(newest.gpus) == 3)
    world.has(gpu(0), replace(gpu(1, "2"), minor=2))
    inventory = await world.inventory(lambda newest: len(newest.gpus) == 2)
    assert [(one.index, one.uuid) for one in inventory.gpus] == [(0, gpu(0).uuid), (1, gpu(2).uuid)]
    assert inventory.complete


@pytest.mark.parametrize(("health", "reason"), UNHEALTHY)
async def test_unhealthy(world: World, health: GpuHealth, reason: InventoryReason) -> None:
    """A GPU that is lost or hangs keeps the facts known of it, hides no other, is named, and can recover."""
    world.has(gpu(0), gpu(1), gpu(2))
    await world.start()
    await world.inventory(found)
    world.has(gpu(0), gpu(1, health=health), gpu(2))
    inventory = await world.inventory(lambda newest: newest.reason is reason)
    broken = inventory.gpus[1]
    assert (broken.health, bool(broken.message)) == (health, True)
    assert replace(broken, health=GpuHealth.OK, message="") == world.expected(gpu(1))
    assert (inventory.gpus[0], inventory.gpus[2]) == (world.expected(gpu(0)), world.expected(gpu(2)))
    assert gpu(1).uuid in inventory.message
    assert inventory.complete
    world.has(gpu(0), gpu(1), gpu(2))
    inventory = await world.inventory(found)
    assert inventory.gpus == tuple(world.expected(gpu(index)) for index in range(3))


async def test_two_faults(world: World) -> None:
    """Of two faults of different kinds each is told; a loss names the reason, as it does not pass by itself."""
    world.has(gpu(0), gpu(1))
    await world.start()
    await world.inventory(found)
    world.has(gpu(0, health=GpuHealth.HANG), gpu(1, health=GpuHealth.LOST))
    inventory = await world.inventory(lambda newest: all(one.health is not GpuHealth.OK for one in newest.gpus))
    assert [one.health for one in inventory.gpus] == [GpuHealth.HANG, GpuHealth.LOST]
    assert inventory.reason is InventoryReason.GPU_LOST
    assert gpu(0).uuid in inventory.message
    assert gpu(1).uuid in inventory.message


async def test_only_differences_wake(world: World) -> None:
    """A look that finds what was there before wakes nobody."""
    world.has(gpu(0))
    await world.start()
    await world.inventory(found)
    world.has(gpu(0))
    for _ in range(3):
        await world.refresh()
    world.has(gpu(0), gpu(1))
    await world.inventory(lambda newest: len(newest.gpus) == 2)
    assert [len(one.gpus) for one in world.seen] == [1, 2]


async def test_exit_with_a_hanging_gpu(world: World) -> None:
    """A call that never returns does not keep the process from ending."""
    world.has(gpu(0), gpu(1))
    await world.start()
    await world.inventory(found)
    world.has(gpu(0), gpu(1, health=GpuHealth.HANG))
    await world.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    assert await world.end() == 0
