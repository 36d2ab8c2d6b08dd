"""A driver that cannot be asked any more: what has probably happened, and that nothing is known against its GPUs."""

from __future__ import annotations

import os
from functools import partial

import pytest

from nodeagent.model.inventory import ComputeMode, DriverChange, GpuHealth, Inventory, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN

VERSION_MISMATCH, OPERATING_SYSTEM = 18, 17
INIT, COUNT = "error__nvmlInitWithFlags", "error__nvmlDeviceGetCount_v2"
CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Mar  5 22:23:56 UTC 2024"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build  (dvs-builder@U22)"
ARM = "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  {}  Release Build"


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


def taken_away(inventory: Inventory) -> bool:
    """The driver cannot be asked, and it is said why."""
    return inventory.change is DriverChange.TAKEN_AWAY


def has_lost(ill: set[int], inventory: Inventory) -> bool:
    """These are lost, and no others."""
    return {one.index for one in inventory.gpus if one.health is GpuHealth.LOST} == ill


@pytest.mark.parametrize("code", [UNKNOWN, OPERATING_SYSTEM])
@pytest.mark.parametrize("where", ["GPUs", "GPUs and library", "library"])
async def test_all_calls_fail(nvml: NvmlWorld, code: int, where: str) -> None:
    """Where every call fails, with the library that is there as with one begun anew, the GPUs stay as they are and are
    withdrawn from nobody; it is said what has probably happened. When the calls work again all is as before.
    """
    gpus = gpu(0), gpu(1), gpu(2)
    nvml.has(*gpus)
    await nvml.start()
    await nvml.inventory(found)
    errors: dict[str, object] = {}
    if "GPUs" in where:
        errors |= {f"gpu__{index}__error": code for index in range(3)}
    if "library" in where:
        errors |= {INIT: code, COUNT: code}
    nvml.controls.answer(gpus, **errors)
    inventory = await nvml.inventory(taken_away)
    assert (inventory.reason, inventory.gpus) == (InventoryReason.DRIVER_ERROR, gpus)
    assert "systemctl daemon-reload" in inventory.message
    assert "a new container has them again" in inventory.message
    await nvml.refresh()
    nvml.has(*gpus)
    inventory = await nvml.inventory(found)
    assert (inventory.gpus, inventory.change) == (gpus, None)
    assert all(one.health is GpuHealth.OK for seen in nvml.seen for one in seen.gpus)


@pytest.mark.parametrize("code", [UNKNOWN, OPERATING_SYSTEM, VERSION_MISMATCH])
@pytest.mark.parametrize("where", ["GPUs", "library"])
async def test_it_has_never_answered(nvml: NvmlWorld, code: int, where: str) -> None:
    """What fails from the first call on has not changed under this process, and a new one would find the same; what
    fails after an answer has.
    """
    gpus = gpu(0), gpu(1)
    nvml.has(*gpus)
    nvml.kernel(CLOSED.format("570.86.15"))
    errors: dict[str, object] = {INIT: code, COUNT: code}
    if where == "GPUs":
        errors = {"gpu__0__error": code, "gpu__1__error": code}
    nvml.controls.answer(gpus, **errors)
    await nvml.start()
    await nvml.inventory(lambda newest: newest.reason is not InventoryReason.PENDING)
    await nvml.refresh()
    await nvml.refresh()
    nvml.has(*gpus)
    await nvml.inventory(found)
    assert all(seen.change is None for seen in nvml.seen)
    for message in [seen.message for seen in nvml.seen if seen.reason is InventoryReason.DRIVER_ERROR]:
        assert "while this container ran" not in message
        assert "taken away" not in message
        assert "has not answered since" in message or "of this node differ in version (the kernel has 5" in message
    nvml.controls.answer(gpus, **{INIT: code, COUNT: code})
    await nvml.inventory(lambda newest: newest.change is not None)


async def test_a_node_whose_driver_and_library_always_differed(nvml: NvmlWorld) -> None:
    """Nothing was replaced under this process until the kernel had the library's version and then another one."""
    nvml.has(gpu(0))
    nvml.kernel(CLOSED.format("570.86.15"))
    await nvml.start()
    inventory = await nvml.inventory(found)
    assert inventory.change is None
    assert inventory.message == (
        "kernel driver and library of this node differ in version (the kernel has 570.86.15, the library was "
        "550.163.01): a reboot, or reloading the kernel module, makes them one"
    )
    nvml.kernel(CLOSED.format("550.163.01"))
    assert (await nvml.inventory(lambda newest: not newest.message)).change is None
    nvml.kernel(CLOSED.format("570.86.15"))
    await nvml.inventory(lambda newest: newest.change is DriverChange.REPLACED)


async def test_one_of_several_is_not_all(nvml: NvmlWorld) -> None:
    """The same error of one GPU is that GPU's, and of all but one theirs: somebody could be asked."""
    gpus = gpu(0), gpu(1), gpu(2)
    nvml.has(*gpus)
    await nvml.start()
    await nvml.inventory(found)
    for ill in ({1}, {0, 2}):
        nvml.controls.answer(gpus, **{f"gpu__{index}__error": UNKNOWN for index in ill})
        inventory = await nvml.inventory(partial(has_lost, ill))
        assert inventory.reason is InventoryReason.GPU_LOST
    assert all(seen.change is None for seen in nvml.seen)


async def test_another_error_is_a_loss(nvml: NvmlWorld) -> None:
    """GPUs of which the driver itself says that they are lost are, were it all of them; one among those that fail is
    evidence that the driver can be asked.
    """
    gpus = gpu(0), gpu(1)
    nvml.has(*gpus)
    await nvml.start()
    await nvml.inventory(found)
    for codes in ((GPU_IS_LOST, GPU_IS_LOST), (GPU_IS_LOST, UNKNOWN)):
        nvml.controls.answer(gpus, **{f"gpu__{index}__error": code for index, code in enumerate(codes)})
        inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
        assert [one.health for one in inventory.gpus] == [GpuHealth.LOST, GpuHealth.LOST]
        nvml.has(*gpus)
        await nvml.inventory(found)
    assert all(seen.change is None for seen in nvml.seen)


async def test_one_that_is_alone_is_asked_by_a_fresh_library(nvml: NvmlWorld) -> None:
    """A node with one GPU: where the library can be begun anew it is the GPU, where it cannot it is the access."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), gpu__0__error=UNKNOWN, **{INIT: UNKNOWN})
    inventory = await nvml.inventory(taken_away)
    assert [one.health for one in inventory.gpus] == [GpuHealth.OK]
    nvml.has(gpu(0))
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), gpu__0__error=UNKNOWN)
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert inventory.change is None


async def test_a_hang_is_no_answer(nvml: NvmlWorld) -> None:
    """Beside one that hangs, a single one that fails may be as ill: it is not believed that all are well."""
    gpus = gpu(0), gpu(1)
    nvml.has(*gpus)
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer(gpus, gpu__0__hang=1, gpu__1__error=UNKNOWN)
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert [one.health for one in inventory.gpus] == [GpuHealth.HANG, GpuHealth.LOST]


async def test_a_driver_of_another_version(nvml: NvmlWorld) -> None:
    """It is said which versions kernel and library have, and the GPUs stay as they are."""
    nvml.has(gpu(0))
    nvml.kernel(CLOSED.format("550.163.01"))
    await nvml.start()
    assert (await nvml.inventory(found)).kernel_version == "550.163.01"
    nvml.kernel(OPEN.format("570.86.15"))
    nvml.controls.answer((gpu(0),), **{INIT: VERSION_MISMATCH, COUNT: VERSION_MISMATCH})
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_ERROR)
    assert (inventory.change, inventory.gpus) == (DriverChange.REPLACED, (gpu(0),))
    assert "differ in version (the kernel has 570.86.15, the library was 550.163.01)" in inventory.message
    assert "replaced while this container ran; restart the agent" in inventory.message
    assert inventory.kernel_version == "570.86.15"


async def test_a_driver_of_another_version_that_answers(nvml: NvmlWorld) -> None:
    """As long as it answers everything is as it says; that it is to be loaded anew is said beside."""
    nvml.has(gpu(0))
    nvml.kernel(CLOSED.format("550.163.01"))
    await nvml.start()
    assert (await nvml.inventory(found)).change is None
    nvml.kernel(CLOSED.format("570.86.15"))
    inventory = await nvml.inventory(lambda newest: newest.change is DriverChange.REPLACED)
    assert (inventory.reason, inventory.gpus) == (InventoryReason.FOUND, (gpu(0),))
    assert inventory.message == (
        "the driver was replaced while this container ran (the kernel has 570.86.15, the library was 550.163.01); "
        "restart the agent"
    )


@pytest.mark.parametrize(
    ("line", "version"),
    [
        (CLOSED.format("470.256.02"), "470.256.02"),
        (CLOSED.format("535.183"), "535.183"),
        (OPEN.format("580.65.06"), "580.65.06"),
        (ARM.format("570.124.06"), "570.124.06"),
        ("NVRM version: something new", None),
        ("", None),
        (None, None),
    ],
)
async def test_what_the_kernel_says(nvml: NvmlWorld, line: str | None, version: str | None) -> None:
    """Both kinds of kernel module write their version in a line of their own; what else stands there says nothing."""
    nvml.kernel(line)
    nvml.has(gpu(0))
    await nvml.start()
    inventory = await nvml.inventory(found)
    assert inventory.kernel_version == version
    assert inventory.change is None
    assert ("differ" in inventory.message) is (version is not None)


async def test_a_kernel_that_does_not_answer(nvml: NvmlWorld) -> None:
    """Reading its version may hang as all else of a driver that does: nobody else waits for it, whatever NVML says."""
    nvml.has(gpu(0))
    nvml.kernel(CLOSED.format("550.163.01"))
    await nvml.start()
    await nvml.inventory(found)
    file = nvml.directory / "proc/driver/nvidia/version"
    file.unlink()
    os.mkfifo(file)
    await nvml.refresh()
    assert await nvml.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
    nvml.controls.answer((gpu(0),), **{INIT: VERSION_MISMATCH, COUNT: VERSION_MISMATCH})
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_ERROR)
    assert "differ in version" in inventory.message
    nvml.has(gpu(0))
    await nvml.inventory(found)


async def test_a_kernel_that_says_much(nvml: NvmlWorld) -> None:
    """What stands far behind the beginning is not read."""
    nvml.kernel("x" * 5000 + "\n" + CLOSED.format("550.163.01"))
    nvml.has(gpu(0))
    await nvml.start()
    assert (await nvml.inventory(found)).kernel_version is None


async def test_a_driver_that_was_unloaded(nvml: NvmlWorld) -> None:
    """A new process would find none either: it is waited for, and said that it was there."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), gpu__0__error=DRIVER_NOT_LOADED, **{INIT: DRIVER_NOT_LOADED})
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.DRIVER_MISSING)
    assert "is not loaded any more: it was unloaded, as an upgrade does, and is waited for" in inventory.message
    assert inventory.change is None
