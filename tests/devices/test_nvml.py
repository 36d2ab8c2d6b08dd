"""What holds for real GPUs alone: the library's own life, and GPUs of which nothing is known yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import DRIVER_NOT_LOADED, build
from tests.waiting import eventually

HANDLE = "nvmlDeviceGetHandleByIndex_v2"
COUNT = "nvmlDeviceGetCount_v2"
UNKNOWN = 999
VERSION_MISMATCH = 18
NOT_SUPPORTED = 3


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


async def looks(nvml: NvmlWorld, more: int = 3) -> None:
    """Wait until the driver has begun to look `more` times."""
    before = nvml.controls.calls(COUNT, -1)
    await eventually(lambda: nvml.controls.calls(COUNT, -1) >= before + more)


async def test_no_second_call_while_one_hangs(nvml: NvmlWorld) -> None:
    """A GPU whose call hangs gets no second one until that has returned, and is asked again at once when it has."""
    nvml.has(gpu(0), gpu(1, health=GpuHealth.HANG))
    nvml.deadline = 0.1
    await nvml.start()
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    await looks(nvml)
    assert nvml.controls.calls(HANDLE, 1) == 1
    nvml.has(gpu(0), gpu(1))
    await nvml.inventory(found)
    assert nvml.controls.calls(HANDLE, 1) >= 2


@pytest.mark.parametrize(
    ("health", "reason", "words"),
    [
        pytest.param(GpuHealth.LOST, InventoryReason.GPU_LOST, "GPU 1: GPU is lost", id="lost"),
        pytest.param(GpuHealth.HANG, InventoryReason.GPU_HANGS, "GPU 1: no answer within 0.2 s", id="hang"),
    ],
)
async def test_broken_before_it_was_seen(
    nvml: NvmlWorld, health: GpuHealth, reason: InventoryReason, words: str
) -> None:
    """A GPU that cannot even be identified is named by its index, and the others are listed."""
    nvml.has(gpu(0), gpu(1, health=health), gpu(2))
    nvml.deadline = 0.2
    await nvml.start()
    inventory = await nvml.inventory(lambda newest: newest.gpus == (gpu(0), gpu(2)))
    assert (inventory.reason, inventory.message) == (reason, words)
    assert inventory.complete
    nvml.has(gpu(0), gpu(1), gpu(2))
    assert (await nvml.inventory(found)).gpus == (gpu(0), gpu(1), gpu(2))


async def test_any_error_of_a_gpu_is_a_loss(nvml: NvmlWorld) -> None:
    """Drivers answer `Unknown Error` for GPUs that are off the bus: nobody can vouch for a GPU that does not answer."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0), gpu(1)), gpu__1__error=UNKNOWN)
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert [one.health for one in inventory.gpus] == [GpuHealth.OK, GpuHealth.LOST]


async def test_indices_shift_around_a_loss(nvml: NvmlWorld) -> None:
    """A lost GPU that the driver no longer counts is absent, whatever index the others get."""
    nvml.has(gpu(0), gpu(1), gpu(2))
    await nvml.start()
    await nvml.inventory(found)
    nvml.has(gpu(0), gpu(1, health=GpuHealth.LOST), gpu(2))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    nvml.has(gpu(0), gpu(2))
    inventory = await nvml.inventory(found)
    assert inventory.gpus == (gpu(0), replace(gpu(2), index=1))
    assert inventory.complete


async def test_driver_comes_up_after_the_library(nvml: NvmlWorld) -> None:
    """A library without its kernel driver is asked again until the driver is there."""
    nvml.controls.answer((gpu(0),), error__nvmlInitWithFlags=DRIVER_NOT_LOADED)
    nvml.install()
    await nvml.start()
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_MISSING)
    assert inventory.message == "cannot ask NVML: the NVIDIA kernel driver is not loaded"
    nvml.has(gpu(0))
    await nvml.inventory(found)


async def test_driver_is_unloaded(nvml: NvmlWorld) -> None:
    """When the kernel driver goes its GPUs are lost, with their facts; when it is back so are they."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer(
        (gpu(0),),
        gpu__0__error=DRIVER_NOT_LOADED,
        error__nvmlInitWithFlags=DRIVER_NOT_LOADED,
    )
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_MISSING)
    assert [(one.uuid, one.health) for one in inventory.gpus] == [(gpu(0).uuid, GpuHealth.LOST)]
    assert not inventory.complete
    nvml.has(gpu(0))
    assert (await nvml.inventory(found)).gpus == (gpu(0),)


@pytest.mark.parametrize(
    ("code", "words"),
    [pytest.param(UNKNOWN, "Unknown Error", id="unknown"), pytest.param(VERSION_MISMATCH, "restart", id="mismatch")],
)
async def test_access_fails(nvml: NvmlWorld, code: int, words: str) -> None:
    """An error of the library itself is told, and is no evidence against GPUs that were well."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), error__nvmlDeviceGetCount_v2=code, error__nvmlInitWithFlags=code)
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_ERROR)
    assert inventory.gpus == (gpu(0),)
    assert words in inventory.message
    assert not inventory.complete
    nvml.has(gpu(0))
    await nvml.inventory(found)


async def test_library_hangs(nvml: NvmlWorld) -> None:
    """A library that does not answer takes its GPUs along, until it does; meanwhile the process can end."""
    nvml.has(gpu(0))
    nvml.deadline = 0.2
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), hang__nvmlDeviceGetCount_v2=1)
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_ERROR)
    assert inventory.message == "cannot ask NVML: no answer within 0.2 s"
    assert [one.health for one in inventory.gpus] == [GpuHealth.HANG]
    nvml.has(gpu(0))
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), hang__nvmlDeviceGetCount_v2=1)
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_ERROR)
    assert await nvml.end() == 0


async def test_start_hangs(nvml: NvmlWorld) -> None:
    """A library that does not even start is told as an error, and used as soon as it has started."""
    nvml.controls.answer((gpu(0),), hang__nvmlInitWithFlags=1)
    nvml.install()
    nvml.deadline = 0.2
    await nvml.start()
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_ERROR)
    assert inventory.gpus == ()
    nvml.has(gpu(0))
    await nvml.inventory(found)
    assert nvml.controls.calls("nvmlInitWithFlags", -1) == 1


async def test_hot_plug(nvml: NvmlWorld) -> None:
    """A library that counts its GPUs only when it starts is started anew when the kernel binds another device."""
    one, other = gpu(0), gpu(1)
    assert one.pci_bus_id is not None
    assert other.pci_bus_id is not None
    nvml.controls.bind(one.pci_bus_id)
    nvml.controls.answer((one,), snapshot=1)
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((one, other), snapshot=1)
    await looks(nvml)
    assert nvml.controls.calls("nvmlShutdown", -1) == 0
    nvml.controls.bind(one.pci_bus_id, other.pci_bus_id)
    await nvml.inventory(lambda newest: newest.gpus == (one, other))
    assert nvml.controls.calls("nvmlInitWithFlags", -1) == 2


async def test_started_anew_while_a_gpu_is_lost(nvml: NvmlWorld) -> None:
    """While a GPU is lost the library is started anew now and then, so that the GPU can be reset and is seen again."""
    nvml.reopen_after = 0.0
    nvml.has(gpu(0), gpu(1, health=GpuHealth.LOST))
    await nvml.start()
    await eventually(lambda: nvml.controls.calls("nvmlShutdown", -1) >= 2)


async def test_never_shut_down_under_a_call(nvml: NvmlWorld) -> None:
    """While a call hangs the library is not shut down, whatever else would ask for it."""
    nvml.reopen_after = 0.0
    nvml.deadline = 0.1
    nvml.has(gpu(0), gpu(1, health=GpuHealth.HANG))
    await nvml.start()
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    nvml.has(gpu(0, health=GpuHealth.LOST), gpu(1, health=GpuHealth.HANG))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    await looks(nvml)
    assert nvml.controls.calls("nvmlShutdown", -1) == 0


async def test_memory_of_the_host(nvml: NvmlWorld) -> None:
    """A GPU without memory of its own is listed with none."""
    nvml.controls.answer((gpu(0),), gpu__0__error__nvmlDeviceGetMemoryInfo=NOT_SUPPORTED)
    nvml.install()
    await nvml.start()
    assert (await nvml.inventory(found)).gpus == (replace(gpu(0), memory=0),)


async def test_old_library(nvml: NvmlWorld, gcc: Path, tmp_path: Path) -> None:
    """A function that the library does not have yet costs that one fact."""
    old = tmp_path / "old"
    old.mkdir()
    nvml.built = build(gcc, old, old=True)
    nvml.has(gpu(0))
    await nvml.start()
    assert (await nvml.inventory(found)).gpus == (replace(gpu(0), minor=None),)
