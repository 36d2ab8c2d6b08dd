"""What holds for the topology of real GPUs alone: what NVML tells of it, when it is asked, and what may be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.topology import NVLINK, Distance, Topology
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import UNKNOWN, connected
from tests.waiting import eventually

ANCESTOR = "nvmlDeviceGetTopologyCommonAncestor"
LINK = "nvmlDeviceGetNvLinkState"
HANDLE = "nvmlDeviceGetHandleByIndex_v2"


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


async def topology(nvml: NvmlWorld, gpus: Sequence[Gpu], **lines: object) -> Topology:
    """What is found where the library answers this."""
    nvml.controls.answer(tuple(gpus), **lines)
    nvml.install()
    await nvml.start()
    return (await nvml.inventory(found)).topology


def links(position: int, *ends: str | None) -> dict[str, object]:
    """The NVLinks of the GPU at this position, by what is at their end."""
    lines: dict[str, object] = {f"gpu__{position}__links": len(ends)}
    return lines | {f"gpu__{position}__link__{link}": end for link, end in enumerate(ends) if end is not None}


def bus(index: int) -> str:
    """Where a GPU is."""
    return str(gpu(index).pci_bus_id)


@pytest.mark.parametrize(
    ("level", "distance"),
    [
        (0, Distance.BOARD),
        (10, Distance.SINGLE),
        (20, Distance.MULTIPLE),
        (30, Distance.HOST_BRIDGE),
        (40, Distance.NODE),
        (50, Distance.SYSTEM),
    ],
)
async def test_distance(nvml: NvmlWorld, level: int, distance: Distance) -> None:
    """Without NVLink two GPUs are as near as their common ancestor is."""
    told = await topology(nvml, [gpu(0), gpu(1)], ways__0__1=level)
    assert told.scores == {(gpu(0).uuid, gpu(1).uuid): distance}


async def test_links_are_counted(nvml: NvmlWorld) -> None:
    """Each NVLink that is up counts, however the two ends write where they are; a link that is down does not."""
    lines = {
        **links(0, bus(1), None, bus(1), bus(2)),
        **links(1, bus(0).lower(), bus(0).removeprefix("0000"), None),
        **links(2, bus(0), "00000000:FF:00.0"),  # and something that is no GPU
        "ways__0__1": 50,
    }
    told = await topology(nvml, [gpu(0), gpu(1), gpu(2)], **lines)
    assert told.between(gpu(0).uuid, gpu(1).uuid) == 2 * NVLINK + Distance.SYSTEM
    assert told.between(gpu(0).uuid, gpu(2).uuid) == NVLINK
    assert told.between(gpu(1).uuid, gpu(2).uuid) == 0


async def test_switches(nvml: NvmlWorld) -> None:
    """GPUs with links to switches reach one another by as many as both have."""
    lines = {
        **links(0, *["switch"] * 18),
        **links(1, *["switch"] * 18),
        **links(2, "switch", "switch", None),
        **links(3),
    }
    told = await topology(nvml, [gpu(index) for index in range(4)], **lines)
    assert told.between(gpu(0).uuid, gpu(1).uuid) == 18 * NVLINK
    assert told.between(gpu(1).uuid, gpu(2).uuid) == 2 * NVLINK
    assert told.between(gpu(2).uuid, gpu(3).uuid) == 0


async def test_asked_once(nvml: NvmlWorld) -> None:
    """Ways are asked for when the GPUs that answer are others, and not at every look."""
    gpus = [gpu(index) for index in range(3)]
    nvml.has(*gpus, islands=[[0, 1, 2]])
    await nvml.start()
    await nvml.inventory(found)
    await looked(nvml)
    assert [nvml.controls.calls(ANCESTOR, index) for index in range(3)] == [2, 1, 0]
    nvml.has(*gpus[:2], gpu(2, health=GpuHealth.LOST), islands=[[0, 1, 2]])
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert len(inventory.topology.scores) == 1
    nvml.has(*gpus, islands=[[0, 1, 2]])
    assert len((await nvml.inventory(found)).topology.scores) == 3
    await looked(nvml)
    assert [nvml.controls.calls(ANCESTOR, index) for index in range(3)] == [5, 2, 0]


async def test_asked_again_of_a_fresh_library(nvml: NvmlWorld) -> None:
    """What a library said before it was started anew does not count any more."""
    nvml.controls.bind()
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    assert len((await nvml.inventory(found)).topology.scores) == 1
    nvml.has(gpu(0), gpu(1), islands=[[0, 1]])
    nvml.controls.bind(bus(0), bus(1))
    await nvml.inventory(lambda newest: max(newest.topology.scores.values()) >= NVLINK)


async def test_a_pair_is_not_told(nvml: NvmlWorld) -> None:
    """A pair of which a GPU does not answer scores what is known of it, and nobody is lost."""
    gpus = [gpu(index) for index in range(3)]
    lines = {
        **connected(gpus, [[0, 1, 2]]),
        f"gpu__0__error__{ANCESTOR}": UNKNOWN,
        f"gpu__1__error__{LINK}": UNKNOWN,
        "gpu__2__error__nvmlDeviceGetNvLinkRemotePciInfo_v2": UNKNOWN,
    }
    told = await topology(nvml, gpus, **lines)
    assert told.between(gpu(0).uuid, gpu(1).uuid) == NVLINK
    assert told.between(gpu(0).uuid, gpu(2).uuid) == NVLINK
    assert told.between(gpu(1).uuid, gpu(2).uuid) == Distance.SYSTEM


async def test_links_behind_a_gap(nvml: NvmlWorld) -> None:
    """A place without an NVLink does not hide those behind it."""
    told = await topology(nvml, [gpu(0), gpu(1)], **links(0, bus(1), "absent", bus(1), bus(1)), **links(1))
    assert told.between(gpu(0).uuid, gpu(1).uuid) == 3 * NVLINK


async def test_one_hangs_while_the_others_are_asked_about_it(nvml: NvmlWorld) -> None:
    """A GPU that begins to hang while others are asked for their way to it hangs alone: a question about two condemns
    neither.
    """
    gpus = [gpu(index) for index in range(4)]
    nvml.deadline = 0.5
    slow = {f"gpu__{index}__hang__{LINK}": 1 for index in range(3)}
    nvml.controls.answer(tuple(gpus), **slow)
    nvml.install()
    await nvml.start()
    await eventually(lambda: all(nvml.controls.calls(LINK, index) for index in range(3)))
    nvml.has(*gpus[:3], gpu(3, health=GpuHealth.HANG))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    before = nvml.controls.calls(HANDLE, 0)
    await eventually(lambda: nvml.controls.calls(HANDLE, 0) >= before + 10)
    assert all(one.health is GpuHealth.OK for inventory in nvml.seen for one in inventory.gpus[:3])
    nvml.has(*gpus)
    await nvml.inventory(lambda newest: found(newest) and len(newest.topology.scores) == 6)


async def test_a_gpu_hangs(nvml: NvmlWorld) -> None:
    """A GPU that hangs when it is asked for its ways costs those alone; they are asked for again when it is well."""
    gpus = [gpu(index) for index in range(3)]
    nvml.deadline = 0.3
    lines = connected(gpus, [[0, 1, 2]])
    nvml.controls.answer(tuple(gpus), **{**lines, f"gpu__1__hang__{LINK}": 1})
    nvml.install()
    await nvml.start()
    inventory = await nvml.inventory(found)
    await looked(nvml)
    assert all(found(one) for one in nvml.seen)
    assert inventory.topology.between(gpu(0).uuid, gpu(2).uuid) == NVLINK + Distance.NODE
    assert nvml.controls.calls(LINK, 1) == 1
    nvml.has(*gpus, islands=[[0, 1, 2]])
    await nvml.inventory(lambda newest: len(newest.topology.scores) == 3 and found(newest))


async def test_hang_that_ends_before_the_next_look(nvml: NvmlWorld) -> None:
    """Ways that were left out are asked for again, also where no look has seen the GPU hang."""
    gpus = [gpu(index) for index in range(2)]
    nvml.deadline = 0.3
    nvml.interval = 600.0
    lines = connected(gpus, [[0, 1]])
    nvml.controls.answer(tuple(gpus), **{**lines, f"gpu__0__hang__{LINK}": 1, f"gpu__1__hang__{LINK}": 1})
    nvml.install()
    await nvml.start()
    assert not (await nvml.inventory(found)).topology.scores
    nvml.has(*gpus, islands=[[0, 1]])
    await nvml.inventory(lambda newest: newest.topology.scores)


async def test_a_gpu_without_an_address(nvml: NvmlWorld) -> None:
    """A GPU of which no bus id is known is linked with nobody."""
    told = await topology(nvml, [gpu(0), replace(gpu(1), pci_bus_id=None)], **links(0, bus(1)), ways__0__1=10)
    assert told.scores == {(gpu(0).uuid, gpu(1).uuid): Distance.SINGLE}


async def looked(nvml: NvmlWorld) -> None:
    """Wait until the driver has looked some more times."""
    before = nvml.controls.calls(HANDLE, 0)
    await eventually(lambda: nvml.controls.calls(HANDLE, 0) >= before + 4)
