"""How one look becomes an inventory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace

from nodeagent.devices.looking import Fault, LookingDriver, assemble
from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason, MigDevice
from tests.devices.worlds import gpu
from tests.waiting import eventually


class SlowDriver(LookingDriver):
    """Finds one GPU more at each look, which ends when it is let."""

    def __init__(self) -> None:
        super().__init__(wake=lambda: None, interval=600.0)
        self.begun = 0
        self.may_end = asyncio.Semaphore(0)

    async def _look(self, last: Inventory) -> Inventory:
        self.begun += 1
        found = [gpu(index) for index in range(self.begun)]
        async with self.may_end:
            return assemble(found)

    async def asked(self) -> Inventory:
        """What a question does whose GPU is not known."""
        return await self._looked()


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
    assert (moved.reason, moved.message) == (InventoryReason.GPU_LOST, "the driver's GPU 1: gone")


def test_fault_of_a_gpu_with_mig_devices() -> None:
    """MIG devices follow their GPU: they have its fault as long as it does not answer, and are gone when it answers
    without them; those of another one that does not answer stay.
    """
    parts = [
        replace(gpu(index), uuid=f"MIG-{index}", mig=MigDevice(gpu(index).uuid, "1g.5gb", 7, 0)) for index in (0, 1)
    ]
    known = [gpu(0), parts[0], gpu(1), parts[1]]
    inventory = assemble([gpu(0)], [Fault(1, GpuHealth.LOST, "gone")], known=known)
    assert [(one.uuid, one.health) for one in inventory.gpus] == [
        (gpu(0).uuid, GpuHealth.OK),
        (gpu(1).uuid, GpuHealth.LOST),
        ("MIG-1", GpuHealth.LOST),
    ]
    assert inventory.message == f"{gpu(1).uuid}: gone"


def test_every_gpu_that_has_an_index_is_counted() -> None:
    """An inventory is whole when each GPU that the driver counts has answered: one that cannot be named counts, and one
    of which only the MIG devices are not told has answered.
    """
    assert assemble([gpu(0), gpu(1)]).whole
    fault = Fault(1, GpuHealth.HANG, "no answer")
    unnamed = assemble([gpu(0), gpu(2)], [fault])
    assert (unnamed.counted, unnamed.whole) == (3, False)
    named = assemble([gpu(0), gpu(2)], [fault], known=[gpu(1)])
    assert (named.counted, named.whole) == (3, False)
    secretive = replace(gpu(0), mig_enabled=True, message="it takes privilege")
    part = replace(gpu(0), uuid="MIG-0", mig=MigDevice(gpu(0).uuid, "1g.5gb", 7, 0))
    untold = assemble([secretive], known=[gpu(0), part])
    assert (untold.reason, untold.whole) == (InventoryReason.GPU_LOST, True)
    assert not assemble([gpu(0), replace(gpu(0), index=1)]).whole, "one GPU answers at two indices: they are changing"


def test_mig_devices_that_are_not_told_go_where_their_gpu_goes() -> None:
    """They have its index, also where that is another than when they were seen."""
    part = replace(gpu(1), uuid="MIG-1", mig=MigDevice(gpu(1).uuid, "1g.5gb", 7, 0))
    moved = replace(gpu(1), index=0, mig_enabled=True, message="it takes privilege")
    inventory = assemble([moved], known=[gpu(1), part])
    assert [(one.uuid, one.index) for one in inventory.gpus] == [(gpu(1).uuid, 0), ("MIG-1", 0)]


async def test_look_is_not_its_callers() -> None:
    """A look that somebody no longer waits for goes on for the others, and so does following."""
    driver = SlowDriver()
    following = asyncio.create_task(driver.run())
    await eventually(lambda: driver.begun)
    impatient = asyncio.create_task(driver.asked())
    patient = asyncio.create_task(driver.asked())
    await asyncio.sleep(0)  # both wait
    impatient.cancel()
    with suppress(asyncio.CancelledError):
        await impatient
    driver.may_end.release()
    assert (await patient).gpus == (gpu(0),)
    driver.refresh()
    await eventually(lambda: driver.inventory.gpus == (gpu(0), gpu(1)))
    following.cancel()
    with suppress(asyncio.CancelledError):
        await following


async def test_look_begins_after_it_was_asked_for() -> None:
    """Who wants a look to be made now does not get one that began before: that may have missed what has changed."""
    driver = SlowDriver()
    before = asyncio.create_task(driver.asked())
    await eventually(lambda: driver.begun)
    now = [asyncio.create_task(driver.look()) for _ in range(2)]
    await asyncio.sleep(0)  # both wait
    driver.may_end.release()
    assert (await before).gpus == (gpu(0),)
    assert all(gpu(1) in inventory.gpus for inventory in await asyncio.gather(*now))
