"""What holds for the MIG devices of real GPUs alone: how NVML tells of them, and how it does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.devices.nvml_calls import MIG_REFUSED
from nodeagent.model.inventory import GpuHealth, Inventory, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import NOT_SUPPORTED, UNKNOWN, partitioned
from tests.waiting import eventually

INVALID_ARGUMENT = 2
NO_PERMISSION = 4
NOT_FOUND = 6
MODE = "nvmlDeviceGetMigMode"
MEMORY = "nvmlDeviceGetMemoryInfo"
DEVICE = "nvmlDeviceGetMigDeviceHandleByIndex"
MIB, GIB = 1 << 20, 1 << 30


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


async def test_instances(nvml: NvmlWorld) -> None:
    """MIG devices have the driver's numbers of their instances, wherever in its list they are."""
    lines = partitioned(0, gpu(0), ["1g.10gb"])
    lines = {key.replace("mig__0", "mig__5"): value for key, value in lines.items()}
    nvml.controls.answer((gpu(0),), **{**lines, "gpu__0__mig__5__gi": 13, "gpu__0__mig__5__ci": 2})
    nvml.install()
    await nvml.start()
    _, part = (await nvml.inventory(found)).gpus
    assert part.mig is not None
    assert (part.mig.gpu_instance, part.mig.compute_instance, part.label) == (13, 2, "0:13:2")


@pytest.mark.parametrize(
    ("total", "memory", "slices", "computing", "profile"),
    [
        pytest.param(40536 * MIB, 4864 * MIB, 1, 1, "1g.5gb", id="A100 40GB"),
        pytest.param(40536 * MIB, 20096 * MIB, 3, 1, "1c.3g.20gb", id="a part of an instance"),
        pytest.param(40536 * MIB, 40192 * MIB, 7, 7, "7g.40gb", id="all of it"),
        pytest.param(81559 * MIB, 9984 * MIB, 1, 1, "1g.10gb", id="H100 80GB"),
        pytest.param(81559 * MIB, 20096 * MIB, 1, 1, "1g.20gb", id="twice the memory"),
        pytest.param(24 * GIB, 5952 * MIB, 1, 1, "1g.6gb", id="A30"),
        pytest.param(143771 * MIB, 16384 * MIB, 1, 1, "1g.18gb", id="H200"),
    ],
)
async def test_profile_is_not_told(
    nvml: NvmlWorld, total: int, memory: int, slices: int, computing: int, profile: str
) -> None:
    """Where the name of a MIG device is that of its GPU, its profile is worked out as NVIDIA does."""
    lines = {
        **partitioned(0, gpu(0), ["1g.10gb"]),
        "gpu__0__mig__0__name": gpu(0).model,
        "gpu__0__mig__0__memory": memory,
        "gpu__0__mig__0__slices": slices,
        "gpu__0__mig__0__computing": computing,
    }
    nvml.controls.answer((replace(gpu(0), memory=total),), **lines)
    nvml.install()
    await nvml.start()
    _, part = (await nvml.inventory(found)).gpus
    assert part.mig is not None
    assert part.mig.profile == profile


async def test_no_mig(nvml: NvmlWorld) -> None:
    """A GPU that has no MIG mode, or whose MIG mode is off, is a whole GPU."""
    nvml.controls.answer((gpu(0), gpu(1)), gpu__1__mig=0)
    nvml.install()
    await nvml.start()
    assert (await nvml.inventory(found)).gpus == (gpu(0), replace(gpu(1), mig_capable=True))


async def test_what_it_is_made_of_is_not_told(nvml: NvmlWorld) -> None:
    """A MIG device whose attributes the driver does not tell, for whatever reason, is as well as any other."""
    lines = partitioned(0, gpu(0), ["1g.10gb"])
    nvml.controls.answer((gpu(0),), **{**lines, "gpu__0__mig__0__error__nvmlDeviceGetAttributes_v2": UNKNOWN})
    nvml.install()
    await nvml.start()
    _, part = (await nvml.inventory(found)).gpus
    assert part.mig is not None
    assert (part.mig.attributes, part.health) == (None, GpuHealth.OK)


@pytest.mark.parametrize("function", ["nvmlDeviceGetUUID", "nvmlDeviceGetGpuInstanceId"])
async def test_device_goes_while_it_is_asked(nvml: NvmlWorld, function: str) -> None:
    """A MIG device that is destroyed during a look is not there; the others are, and the GPU is well."""
    lines = partitioned(0, gpu(0), ["1g.10gb", "2g.20gb"])
    nvml.controls.answer((gpu(0),), **{**lines, f"gpu__0__mig__0__goes__{function}": 1})
    nvml.install()
    await nvml.start()
    whole, part = (await nvml.inventory(found)).gpus
    assert part.mig is not None
    assert (whole.health, part.mig.profile) == (GpuHealth.OK, "2g.20gb")


@pytest.mark.parametrize("code", [INVALID_ARGUMENT, NOT_FOUND])
@pytest.mark.parametrize("function", ["nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMemoryInfo"])
async def test_a_fact_is_missing_of_a_device_that_is_there(nvml: NvmlWorld, function: str, code: int) -> None:
    """A MIG device is destroyed when its position says so; one that is there and does not answer is lost."""
    lines = partitioned(0, gpu(0), ["1g.10gb", "2g.20gb"])
    nvml.controls.answer((gpu(0),), **lines)
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), **{**lines, f"gpu__0__mig__0__error__{function}": code})
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert [one.health for one in inventory.gpus] == [GpuHealth.LOST] * 3


@pytest.mark.parametrize(("function", "code"), [(MODE, NOT_SUPPORTED), (DEVICE, INVALID_ARGUMENT)])
async def test_all_devices_vanish_for_one_look(nvml: NvmlWorld, tmp_path: Path, function: str, code: int) -> None:
    """That all MIG devices of a GPU are gone is believed at the second look in a row, which follows at once."""
    once = tmp_path / "once"
    nvml.interval = 600.0
    lines = {**partitioned(0, gpu(0), ["1g.10gb"]), f"gpu__0__once__{function}": once}
    nvml.controls.answer((gpu(0),), **lines)
    nvml.install()
    await nvml.start()
    whole = (await nvml.inventory(found)).gpus
    once.write_text(str(code), encoding="ascii")
    before = nvml.controls.calls(MODE, 0)
    await nvml.refresh()
    await eventually(lambda: nvml.controls.calls(MODE, 0) == before + 2)
    assert not once.exists()
    assert await nvml.processes(gpu(0).uuid) == ()
    assert {one.gpus for one in nvml.seen} == {whole}
    nvml.has(gpu(0), mig={gpu(0).uuid: []})
    await nvml.refresh()
    await nvml.inventory(lambda newest: [one.mig for one in newest.gpus] == [None])
    assert nvml.controls.calls(MODE, 0) == before + 4


async def test_without_privilege(nvml: NvmlWorld) -> None:
    """A GPU of whose MIG devices the driver does not tell us is well, says what it takes, and is no reason to start the
    library anew.
    """
    nvml.reopen_after = 0.0
    lines = {**partitioned(1, gpu(1), []), f"gpu__1__error__{MEMORY}": NO_PERMISSION}
    nvml.controls.answer((gpu(0), gpu(1)), **lines)
    nvml.install()
    await nvml.start()
    inventory = await nvml.inventory(found)
    assert inventory.gpus == (
        gpu(0),
        replace(gpu(1), memory=0, mig_enabled=True, mig_capable=True, message=MIG_REFUSED),
    )
    before = nvml.controls.calls(MODE, 0)
    await eventually(lambda: nvml.controls.calls(MODE, 0) >= before + 5)
    assert nvml.controls.calls("nvmlInitWithFlags", -1) == 1


@pytest.mark.parametrize("code", [NOT_FOUND, NO_PERMISSION])
async def test_privilege_is_taken_away(nvml: NvmlWorld, code: int) -> None:
    """MIG devices that are known, and not listed for want of privilege, are not taken for destroyed: they are lost."""
    lines = partitioned(0, gpu(0), ["1g.10gb", "2g.20gb"])
    nvml.controls.answer((gpu(0),), **lines)
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    refused = {f"gpu__0__error__{MEMORY}": NO_PERMISSION, f"gpu__0__error__{DEVICE}": code}
    nvml.controls.answer((gpu(0),), **{**lines, **refused})
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert [(one.health, one.message) for one in inventory.gpus] == [
        (GpuHealth.OK, MIG_REFUSED),
        (GpuHealth.LOST, MIG_REFUSED),
        (GpuHealth.LOST, MIG_REFUSED),
    ]
    assert inventory.message == f"{gpu(0).uuid}: {MIG_REFUSED}"
    nvml.controls.answer((gpu(0),), **lines)
    assert len((await nvml.inventory(found)).gpus) == 3


async def test_whole_gpu_without_privilege(nvml: NvmlWorld) -> None:
    """A GPU that tells us nothing for want of privilege is lost; a fresh library would not be told either."""
    nvml.reopen_after = 0.0
    nvml.controls.answer((gpu(0), gpu(1)), gpu__1__error__nvmlDeviceGetUUID=NO_PERMISSION)
    nvml.install()
    await nvml.start()
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    before = nvml.controls.calls(MODE, 0)
    await eventually(lambda: nvml.controls.calls(MODE, 0) >= before + 5)
    assert nvml.controls.calls("nvmlInitWithFlags", -1) == 1


async def test_memory_is_not_told(nvml: NvmlWorld) -> None:
    """A MIG device whose memory is not told has none, and is listed."""
    lines = partitioned(0, gpu(0), ["1g.10gb"])
    nvml.controls.answer((gpu(0),), **{**lines, "gpu__0__mig__0__error__nvmlDeviceGetMemoryInfo": NOT_SUPPORTED})
    nvml.install()
    await nvml.start()
    assert [one.memory for one in (await nvml.inventory(found)).gpus] == [gpu(0).memory, 0]


async def test_any_other_error_is_a_loss(nvml: NvmlWorld) -> None:
    """A GPU that does not answer for its MIG devices is lost, and they with it."""
    lines = partitioned(0, gpu(0), ["1g.10gb"])
    nvml.controls.answer((gpu(0),), **lines)
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), **{**lines, "gpu__0__mig__0__error__nvmlDeviceGetUUID": UNKNOWN})
    inventory = await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    assert [one.health for one in inventory.gpus] == [GpuHealth.LOST] * 2
