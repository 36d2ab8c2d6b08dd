"""What holds for every driver, whatever it gets its GPUs from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.health import EventsReason, XidSource, XidTally
from nodeagent.model.inventory import (
    ComputeMode,
    DriverError,
    Gpu,
    GpuHealth,
    GpuProcess,
    Inventory,
    InventoryReason,
    MigAttributes,
)
from nodeagent.model.topology import NVLINK, Distance
from tests.devices.worlds import World, gpu
from tests.waiting import eventually

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


async def test_fabric(world: World) -> None:
    """The clique of the fabric that a GPU is attached to is among its facts, of each GPU by itself."""
    attached = replace(gpu(0), clique="b1028956-cfa2-0990-bf4a-5da9abb51763.4294967295")
    world.has(attached, gpu(1))
    await world.start()
    inventory = await world.inventory(found)
    assert [one.clique for one in inventory.gpus] == [attached.clique, None]


async def test_facts_that_are_not_told(world: World) -> None:
    """A fact that the driver does not tell is None, and costs no other."""
    bare = replace(gpu(0), compute_capability=None, minor=None, pci_bus_id=None, numa_node=None, pci_class=None)
    classless = replace(gpu(1), pci_class=None)
    world.has(bare, classless, gpu(2))
    await world.start()
    inventory = await world.inventory(found)
    assert inventory.gpus == tuple(world.expected(one) for one in (bare, classless, gpu(2)))


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
    await world.xids(lambda log: log.reason is EventsReason.WATCHING)
    before = len(world.seen)
    world.has(gpu(0))
    for _ in range(3):
        await world.refresh()
    world.has(gpu(0), gpu(1))
    await world.inventory(lambda newest: len(newest.gpus) == 2)
    assert [len(one.gpus) for one in world.seen[before:]] == [2]


async def test_exit_with_a_hanging_gpu(world: World) -> None:
    """A call that never returns does not keep the process from ending."""
    world.has(gpu(0), gpu(1))
    await world.start()
    await world.inventory(found)
    world.has(gpu(0), gpu(1, health=GpuHealth.HANG))
    await world.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    assert await world.end() == 0


async def unanswered(world: World, uuid: str) -> list[str]:
    """What the driver says when it is asked for everything that it can be asked of a GPU, and can do nothing of it."""
    told = []
    for asked in (
        world.compute_mode(uuid),
        world.set_compute_mode(uuid, ComputeMode.PROHIBITED),
        world.processes(uuid),
    ):
        with pytest.raises(DriverError) as caught:
            await asked
        told.append(str(caught.value))
    assert [one.partition(":")[0] for one in told] == [
        f"cannot read the compute mode of {uuid}",
        f"cannot set the compute mode of {uuid} to prohibited",
        f"cannot list the processes on {uuid}",
    ]
    return told


async def test_compute_mode(world: World) -> None:
    """The compute mode is the one that the GPU came with until it is set, of this GPU and no other."""
    world.has(gpu(0), gpu(1), gpu(2), modes={gpu(2).uuid: ComputeMode.PROHIBITED})
    await world.start()
    await world.set_compute_mode(gpu(0).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    assert [await world.compute_mode(gpu(index).uuid) for index in range(3)] == [
        ComputeMode.EXCLUSIVE_PROCESS,
        ComputeMode.DEFAULT,
        ComputeMode.PROHIBITED,
    ]
    for mode in ComputeMode:
        await world.set_compute_mode(gpu(2).uuid, mode)
        assert await world.compute_mode(gpu(2).uuid) is mode
    assert await world.compute_mode(gpu(0).uuid) is ComputeMode.EXCLUSIVE_PROCESS


async def test_compute_mode_outlives_the_process(world: World) -> None:
    """A compute mode that was set is the GPU's, not the driver's: another process finds it."""
    world.has(gpu(0))
    await world.start()
    await world.set_compute_mode(gpu(0).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    assert await world.end() == 0
    await world.start()
    assert await world.compute_mode(gpu(0).uuid) is ComputeMode.EXCLUSIVE_PROCESS


async def test_processes(world: World) -> None:
    """The processes of a GPU are told by pid, with the name of their program and whether they are clients of MPS."""
    training, client, other = (
        GpuProcess(400, "train", mps=False),
        GpuProcess(20, "serve", mps=True),
        GpuProcess(3, "infer", mps=False),
    )
    world.has(gpu(0), gpu(1), gpu(2), processes={gpu(0).uuid: [training, client], gpu(1).uuid: [other, training]})
    await world.start()
    assert await world.processes(gpu(0).uuid) == (client, training)
    assert await world.processes(gpu(1).uuid) == (other, training)
    assert await world.processes(gpu(2).uuid) == ()
    world.has(gpu(0), gpu(1), gpu(2))
    assert await world.processes(gpu(0).uuid) == ()


async def test_asked_without_following(world: World) -> None:
    """A driver that does not look by itself can be asked all the same, and finds GPUs that are new to it."""
    world.follows = False
    world.has(gpu(0))
    await world.start()
    assert await world.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
    world.has(gpu(0), gpu(1), modes={gpu(1).uuid: ComputeMode.PROHIBITED})
    assert await world.compute_mode(gpu(1).uuid) is ComputeMode.PROHIBITED


@pytest.mark.parametrize("health", [GpuHealth.LOST, GpuHealth.HANG])
@pytest.mark.parametrize("follows", [True, False])
async def test_unhealthy_gpu_is_asked(world: World, health: GpuHealth, follows: bool) -> None:
    """What a GPU is asked that is lost or hangs is an error; others answer, and so does this one when it is well."""
    world.follows = follows
    world.has(gpu(0), gpu(1))
    await world.start()
    assert await world.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
    world.has(gpu(0, health=health), gpu(1))
    for _ in range(2):
        await unanswered(world, gpu(0).uuid)
        await world.set_compute_mode(gpu(1).uuid, ComputeMode.EXCLUSIVE_PROCESS)
        assert await world.processes(gpu(1).uuid) == ()
    world.has(gpu(0), gpu(1))

    async def well() -> bool:
        """It may take until the call that hung has returned."""
        try:
            return await world.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
        except DriverError:
            return False

    await eventually(well)


async def test_no_such_gpu(world: World) -> None:
    """A uuid that no GPU has is an error that says so."""
    world.has(gpu(0))
    await world.start()
    for told in await unanswered(world, gpu(1).uuid):
        assert "no such GPU" in told


async def test_asked_without_a_driver(world: World) -> None:
    """While there is no driver everything that is asked is an error; when it appears, its GPUs answer."""
    world.follows = False
    await world.start()
    await unanswered(world, gpu(0).uuid)
    world.has(gpu(0))
    assert await world.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT


def parts_of(inventory: Inventory, whole: Gpu) -> dict[str, Gpu]:
    """The MIG devices of a GPU by profile, of which it has no two."""
    return {one.mig.profile: one for one in inventory.gpus if one.mig is not None and one.mig.parent == whole.uuid}


async def test_mig_devices_come_and_go(world: World) -> None:
    """A GPU with MIG enabled is followed by its MIG devices, which have its facts but for their own; one stays what it
    is while others come and go.
    """
    world.has(gpu(0), gpu(1), gpu(2), mig={gpu(1).uuid: ["1g.10gb", "3g.40gb"]})
    await world.start()
    inventory = await world.inventory(found)
    assert [one.physical for one in inventory.gpus] == [gpu(index).uuid for index in (0, 1, 1, 1, 2)]
    assert inventory.gpus[1] == replace(world.expected(gpu(1)), mig_enabled=True, mig_capable=True)
    assert not inventory.gpus[0].mig_enabled
    parts = parts_of(inventory, gpu(1))
    small = parts["1g.10gb"]
    assert small.mig is not None
    assert small == replace(world.expected(gpu(1)), uuid=small.uuid, memory=10 << 30, mig=small.mig)
    assert len({one.uuid for one in inventory.gpus}) == 5
    assert small.mig.attributes == MigAttributes(
        memory=10240, multiprocessors=14, slices_gi=1, slices_ci=1,
        engines_copy=1, engines_decoder=0, engines_encoder=0, engines_jpeg=0, engines_ofa=0,
    )  # fmt: skip

    world.has(gpu(0), gpu(1), gpu(2), mig={gpu(1).uuid: ["1g.10gb", "2g.20gb"]})
    inventory = await world.inventory(lambda newest: "2g.20gb" in parts_of(newest, gpu(1)))
    assert parts_of(inventory, gpu(1)).keys() == {"1g.10gb", "2g.20gb"}
    assert parts_of(inventory, gpu(1))["1g.10gb"] == small

    world.has(gpu(0), gpu(1), gpu(2), mig={gpu(1).uuid: []})
    inventory = await world.inventory(lambda newest: len(newest.gpus) == 3)
    assert inventory.gpus[1].mig_enabled
    world.has(gpu(0), gpu(1), gpu(2))
    await world.inventory(lambda newest: not newest.gpus[1].mig_enabled)


@pytest.mark.parametrize(("health", "reason"), UNHEALTHY)
async def test_unhealthy_with_mig_devices(world: World, health: GpuHealth, reason: InventoryReason) -> None:
    """A GPU that is lost or hangs takes its MIG devices along, with what is known of them, and is named once."""
    mig = {gpu(index).uuid: ["1g.10gb", "2g.20gb"] for index in (0, 1)}
    world.has(gpu(0), gpu(1), mig=mig)
    await world.start()
    before = await world.inventory(found)
    world.has(gpu(0), gpu(1, health=health), mig=mig)
    inventory = await world.inventory(lambda newest: newest.reason is reason)
    assert inventory.gpus[:3] == before.gpus[:3]
    broken = inventory.gpus[3:]
    assert {(one.health, one.message) for one in broken} == {(health, broken[0].message)}
    assert tuple(replace(one, health=GpuHealth.OK, message="") for one in broken) == before.gpus[3:]
    assert inventory.message.count(broken[0].message) == 1
    world.has(gpu(0), gpu(1), mig=mig)
    assert (await world.inventory(found)).gpus == before.gpus


async def test_xids(world: World) -> None:
    """Each XID is told once, of its GPU or of its MIG device, and counted from then on."""
    mig = {gpu(1).uuid: ["1g.10gb", "2g.20gb"]}
    world.has(gpu(0), gpu(1), mig=mig)
    await world.start()
    part = parts_of(await world.inventory(found), gpu(1))["2g.20gb"].mig
    assert part is not None
    watching = await world.xids(lambda log: log.reason is EventsReason.WATCHING)
    assert (watching.message, watching.tallies) == ("", {})

    whole = XidSource(gpu(0).uuid, 79)
    world.report(gpu(0), 79)
    first = (await world.xids(lambda log: log.tallies)).tallies
    assert first == {whole: XidTally(1, first[whole].last)}
    of_part = XidSource(gpu(1).uuid, 94, part.gpu_instance, part.compute_instance)
    world.report(gpu(1), 94, part=1)
    second = (await world.xids(lambda log: len(log.tallies) == 2)).tallies
    assert second == {**first, of_part: XidTally(1, second[of_part].last)}
    world.report(gpu(0), 79)
    world.report(gpu(0), 13)
    third = (await world.xids(lambda log: XidSource(gpu(0).uuid, 13) in log.tallies)).tallies
    assert (third[whole].count, third[of_part]) == (2, second[of_part])
    assert third[whole].last >= first[whole].last
    world.has(gpu(0), gpu(1), gpu(2), mig=mig)
    await world.inventory(lambda newest: gpu(2).uuid in newest.by_uuid())
    assert world.logs[-1].tallies == third


async def test_xids_of_a_gpu_that_is_new(world: World) -> None:
    """A GPU that appears, or that was lost and is back, is heard of like those that were there from the start."""
    world.has(gpu(0))
    await world.start()
    await world.inventory(found)
    world.has(gpu(0), gpu(1))
    await world.inventory(lambda newest: len(newest.gpus) == 2)
    world.report(gpu(1), 48)
    await world.xids(lambda log: XidSource(gpu(1).uuid, 48) in log.tallies)
    world.has(gpu(0), gpu(1, health=GpuHealth.LOST))
    await world.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    world.has(gpu(0), gpu(1))
    await world.inventory(found)
    world.report(gpu(1), 95)
    await world.xids(lambda log: XidSource(gpu(1).uuid, 95) in log.tallies)


async def test_a_gpu_without_xids(world: World) -> None:
    """A GPU that does not report XIDs is named, and the others are heard of."""
    world.has(gpu(0), gpu(1), gpu(2), silent=[gpu(1).uuid, gpu(2).uuid])
    await world.start()
    await world.inventory(found)
    log = await world.xids(lambda log: log.reason is EventsReason.NOT_SUPPORTED)
    assert log.message == "; ".join(f"{one.uuid}: this GPU does not report XIDs" for one in (gpu(1), gpu(2)))
    world.report(gpu(0), 79)
    await world.xids(lambda log: XidSource(gpu(0).uuid, 79) in log.tallies)


async def test_topology(world: World) -> None:
    """GPUs that NVLink connects are nearer than any others; beyond that those of one NUMA node are."""
    gpus = [replace(gpu(index), numa_node=index // 4) for index in range(8)]
    world.has(*gpus, islands=[[0, 1, 4, 5], [2, 3]])
    await world.start()
    topology = (await world.inventory(found)).topology

    def score(one: int, other: int) -> int:
        assert topology.between(gpus[one].uuid, gpus[other].uuid) == topology.between(gpus[other].uuid, gpus[one].uuid)
        return topology.between(gpus[one].uuid, gpus[other].uuid)

    assert score(0, 1) == score(2, 3) == NVLINK + Distance.NODE
    assert score(1, 4) == NVLINK + Distance.SYSTEM
    assert score(0, 2) == score(6, 7) == Distance.NODE
    assert score(0, 7) == Distance.SYSTEM
    assert len(topology.scores) == 28
    unknown = [replace(one, numa_node=None) for one in gpus]
    world.has(*unknown[:3], islands=[[0, 1]])
    topology = (await world.inventory(lambda newest: len(newest.gpus) == 3)).topology
    assert topology.scores == {(gpus[0].uuid, gpus[1].uuid): NVLINK}


async def test_driver_reload(world: World) -> None:
    """A reload of the driver is told from the loading before, though GPUs and versions are the same."""
    world.has(gpu(0))
    await world.start()
    before = await world.inventory(found)
    assert before.driver_load is not None
    world.reload()
    after = await world.inventory(lambda newest: newest.driver_load != before.driver_load)
    assert after == replace(before, driver_load=after.driver_load)
    world.has(gpu(0), gpu(1))
    assert (await world.inventory(lambda newest: len(newest.gpus) == 2)).driver_load == after.driver_load


async def test_one_of_eight_hangs(world: World) -> None:
    """A GPU that hangs leaves seven, with their MIG devices, XIDs and ways to one another; the process can end."""
    mig = {gpu(index).uuid: ["1g.10gb", "3g.40gb"] for index in (2, 3, 4)}
    gpus = [gpu(index) for index in range(8)]
    world.has(*gpus, mig=mig, islands=[[0, 1, 2, 3], [4, 5, 6, 7]])
    await world.start()
    before = await world.inventory(found)
    gpus[3] = gpu(3, health=GpuHealth.HANG)
    world.has(*gpus, gpu(8), mig=mig, islands=[[0, 1, 2, 3], [4, 5, 6, 7]])
    inventory = await world.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    assert {one.index for one in inventory.gpus if one.health is GpuHealth.HANG} == {3}
    assert [one for one in inventory.gpus if one.index not in {3, 8}] == [one for one in before.gpus if one.index != 3]
    assert len(parts_of(inventory, gpu(3))) == 2
    await world.inventory(lambda newest: newest.topology.between(gpu(0).uuid, gpu(1).uuid) >= NVLINK)
    world.report(gpu(2), 79)
    world.report(gpu(8), 79)
    both = {XidSource(gpu(index).uuid, 79) for index in (2, 8)}
    await world.xids(lambda log: both <= log.tallies.keys())
    assert await world.end(within=5.0) == 0
