"""What holds for real GPUs alone: the library's own life, and GPUs of which nothing is known yet."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nodeagent.model.inventory import ComputeMode, DriverError, GpuHealth, GpuProcess, Inventory, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import DRIVER_NOT_LOADED, build
from tests.waiting import eventually

HANDLE = "nvmlDeviceGetHandleByIndex_v2"
COUNT = "nvmlDeviceGetCount_v2"
UNKNOWN = 999
VERSION_MISMATCH = 18
NOT_SUPPORTED = 3
NO_PERMISSION = 4
EXCLUSIVE_THREAD = 1
GET_MODE = "nvmlDeviceGetComputeMode"
SET_MODE = "nvmlDeviceSetComputeMode"


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
        pytest.param(GpuHealth.LOST, InventoryReason.GPU_LOST, "GPU is lost", id="lost"),
        pytest.param(GpuHealth.HANG, InventoryReason.GPU_HANGS, "no answer within 0.2 s", id="hang"),
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
    assert (inventory.reason, inventory.message) == (reason, f"the driver's GPU 1: {words}")
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


async def test_started_anew_ever_more_seldom(nvml: NvmlWorld) -> None:
    """A library that starting anew does not cure is started anew after twice the time, and so on; once it is well it
    counts from the beginning.
    """
    nvml.reopen_after = 0.4
    nvml.has(gpu(0), gpu(1, health=GpuHealth.LOST))
    began = time.monotonic()
    await nvml.start()
    await eventually(lambda: nvml.controls.calls("nvmlShutdown", -1) == 4)
    assert time.monotonic() - began >= 0.4 + 0.8 + 1.6 + 3.2
    nvml.has(gpu(0), gpu(1))
    await nvml.inventory(found)
    await looks(nvml)
    nvml.has(gpu(0), gpu(1, health=GpuHealth.LOST))
    await eventually(lambda: nvml.controls.calls("nvmlShutdown", -1) == 5, within=6.0)


async def test_lost_and_not_listed_any_more(nvml: NvmlWorld) -> None:
    """A lost GPU that a fresh library does not list is looked for again, as long as the kernel has it bound."""
    one, lost, other = gpu(0), gpu(1), gpu(2)
    nvml.reopen_after = 0.3
    nvml.controls.bind(*(str(each.pci_bus_id) for each in (one, lost, other)))
    nvml.controls.answer((one, lost, other), snapshot=1)
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((one, replace(lost, health=GpuHealth.LOST), other), snapshot=1)
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    nvml.controls.answer((one, replace(other, index=1)), snapshot=1)
    await nvml.inventory(lambda newest: found(newest) and len(newest.gpus) == 2)
    nvml.controls.answer((one, lost, other), snapshot=1)
    await nvml.inventory(lambda newest: newest.gpus == (one, lost, other))


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
    """A function that the library does not have yet costs that one fact, and no client of MPS is known."""
    old = tmp_path / "old"
    old.mkdir()
    nvml.built = build(gcc, old, old=True)
    nvml.has(gpu(0), processes={gpu(0).uuid: [GpuProcess(12, "serve", mps=True)]})
    await nvml.start()
    assert (await nvml.inventory(found)).gpus == (replace(gpu(0), minor=None),)
    assert await nvml.processes(gpu(0).uuid) == (GpuProcess(12, "serve", mps=False),)


async def test_no_compute_mode(nvml: NvmlWorld) -> None:
    """A GPU without compute modes has none, and none can be set; nothing else of it suffers."""
    nvml.controls.answer(
        (gpu(0),), **{f"gpu__0__error__{function}": NOT_SUPPORTED for function in (GET_MODE, SET_MODE)}
    )
    nvml.install()
    await nvml.start()
    assert await nvml.compute_mode(gpu(0).uuid) is None
    with pytest.raises(DriverError, match=r"^cannot set the compute mode of GPU-0.* to default: this GPU does not"):
        await nvml.set_compute_mode(gpu(0).uuid, ComputeMode.DEFAULT)
    assert (await nvml.inventory(found)).gpus == (gpu(0),)


async def test_compute_mode_takes_privilege(nvml: NvmlWorld) -> None:
    """Who may not set the compute mode is told that it takes privilege, and the GPU is not asked twice."""
    nvml.controls.answer((gpu(0),), **{f"gpu__0__error__{SET_MODE}": NO_PERMISSION})
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    with pytest.raises(DriverError, match="to exclusive-process: it takes privilege"):
        await nvml.set_compute_mode(gpu(0).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    assert nvml.controls.calls(SET_MODE, 0) == 1


async def test_compute_mode_of_long_ago(nvml: NvmlWorld) -> None:
    """A compute mode that is none of ours is an error rather than taken for another: it could not be restored."""
    nvml.controls.answer((gpu(0),), gpu__0__mode=EXCLUSIVE_THREAD)
    nvml.install()
    await nvml.start()
    with pytest.raises(DriverError, match="cannot read the compute mode of GPU-0"):
        await nvml.compute_mode(gpu(0).uuid)


async def test_processes_are_not_told(nvml: NvmlWorld) -> None:
    """A driver that does not tell who computes on a GPU is an error: nobody can say that it is free."""
    nvml.controls.answer((gpu(0),), gpu__0__error__nvmlDeviceGetComputeRunningProcesses_v2=NOT_SUPPORTED)
    nvml.install()
    await nvml.start()
    with pytest.raises(DriverError, match=r"^cannot list the processes on GPU-0.*: this GPU does not support it$"):
        await nvml.processes(gpu(0).uuid)


async def test_names_of_processes(nvml: NvmlWorld) -> None:
    """A name is that of the program, whatever NVML tells of its path and arguments; else the kernel's; else empty."""
    ours = os.getpid()
    nobody = 1 << 30
    nvml.controls.answer(
        (gpu(0),),
        gpu__0__processes=f"11,12,13,{ours},{nobody}",
        process__11="/opt/conda/bin/python3.11 /data/train.py --out /data/out",
        process__12="python -m serve",
        process__13="ray::IDLE",
    )
    nvml.install()
    await nvml.start()
    kernel = Path(f"/proc/{ours}/comm").read_text(encoding="utf-8").strip()
    names = {one.pid: one.name for one in await nvml.processes(gpu(0).uuid)}
    assert names == {11: "python3.11", 12: "python", 13: "ray::IDLE", ours: kernel, nobody: ""}


async def test_server_of_a_daemon(nvml: NvmlWorld) -> None:
    """The server of an MPS daemon holds the GPU for its clients: it is told as one of MPS, whatever list names it, also
    when it has no clients and so would be taken for nobody.
    """
    nvml.controls.answer(
        (gpu(0),),
        gpu__0__processes="11,12,13",
        gpu__0__clients="11,13,14",  # whichever list names whom
        process__11="/usr/bin/nvidia-cuda-mps-server",
        process__12="nvidia-cuda-mps",  # what the kernel keeps of the name
        process__13="serve",
        process__14="infer",
    )
    nvml.install()
    await nvml.start()
    assert await nvml.processes(gpu(0).uuid) == (
        GpuProcess(11, "nvidia-cuda-mps-server", mps=True),
        GpuProcess(12, "nvidia-cuda-mps", mps=True),
        GpuProcess(13, "serve", mps=True),
        GpuProcess(14, "infer", mps=True),
    )


@pytest.mark.parametrize("function", ["nvmlDeviceGetComputeRunningProcesses_v2", SET_MODE])
async def test_no_second_question_while_one_hangs(nvml: NvmlWorld, function: str) -> None:
    """A GPU that does not answer what it was asked is not asked again before it has, by looks either."""
    nvml.controls.answer((gpu(0), gpu(1)), **{f"gpu__0__hang__{function}": 1})
    nvml.install()
    nvml.deadline = 0.2
    await nvml.start()
    for _ in range(2):
        setting = function == SET_MODE
        asked = nvml.set_compute_mode(gpu(0).uuid, ComputeMode.DEFAULT) if setting else nvml.processes(gpu(0).uuid)
        with pytest.raises(DriverError, match=r": no answer within 0\.2 s$"):
            await asked
        assert await nvml.processes(gpu(1).uuid) == ()
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    assert nvml.controls.calls(function, 0) == 1
    before = nvml.controls.calls(HANDLE, 0)
    await looks(nvml)
    assert nvml.controls.calls(HANDLE, 0) == before
    nvml.has(gpu(0), gpu(1))
    await nvml.inventory(found)
    assert await nvml.processes(gpu(0).uuid) == ()


async def test_question_waits_for_a_look(nvml: NvmlWorld) -> None:
    """What is asked of a GPU that is just being looked at waits for the look, rather than fail; others need not."""
    nvml.deadline = 20.0
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0), gpu(1)), gpu__0__hang__nvmlDeviceGetName=1)
    before = nvml.controls.calls("nvmlDeviceGetName", 0)
    await eventually(lambda: nvml.controls.calls("nvmlDeviceGetName", 0) > before)
    waiting = asyncio.create_task(nvml.compute_mode(gpu(0).uuid))
    await asyncio.sleep(0)  # it is asked first
    assert await nvml.compute_mode(gpu(1).uuid) is ComputeMode.DEFAULT
    assert not waiting.done()
    assert nvml.controls.calls(GET_MODE, 0) == 0
    nvml.has(gpu(0), gpu(1))
    assert await waiting is ComputeMode.DEFAULT


async def test_look_waits_for_a_question(nvml: NvmlWorld) -> None:
    """A look at a GPU that is just being asked something waits for that too: the GPU is not taken to hang."""
    nvml.deadline = 20.0
    nvml.controls.answer((gpu(0), gpu(1)), **{f"gpu__0__hang__{GET_MODE}": 1})
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    before = nvml.controls.calls(COUNT, -1)
    asked = asyncio.create_task(nvml.compute_mode(gpu(0).uuid))
    await eventually(lambda: nvml.controls.calls(GET_MODE, 0))
    await eventually(lambda: nvml.controls.calls(COUNT, -1) > before)
    assert not asked.done()
    nvml.has(gpu(0), gpu(1))
    assert await asked is ComputeMode.DEFAULT
    await looks(nvml)
    assert all(found(one) for one in nvml.seen)


async def test_never_shut_down_under_a_question(nvml: NvmlWorld) -> None:
    """While a GPU is asked something the library is not shut down; it is as soon as the answer is there."""
    one = gpu(0)
    assert one.pci_bus_id is not None
    nvml.deadline = 20.0
    nvml.controls.bind()
    nvml.controls.answer((one, gpu(1)), **{f"gpu__0__hang__{GET_MODE}": 1})
    nvml.install()
    await nvml.start()
    await nvml.inventory(found)
    before = nvml.controls.calls(COUNT, -1)
    asked = asyncio.create_task(nvml.compute_mode(one.uuid))
    await eventually(lambda: nvml.controls.calls(GET_MODE, 0))
    nvml.controls.bind(one.pci_bus_id)
    await eventually(lambda: nvml.controls.calls(COUNT, -1) > before)
    assert nvml.controls.calls("nvmlShutdown", -1) == 0
    nvml.has(one, gpu(1))
    assert await asked is ComputeMode.DEFAULT
    await eventually(lambda: nvml.controls.calls("nvmlShutdown", -1))


async def test_gpu_that_moved_is_asked(nvml: NvmlWorld) -> None:
    """What is asked of a GPU reaches that GPU, whatever index it has got since the last look, and never another one."""
    nvml.follows = False
    nvml.has(gpu(0), gpu(1), gpu(2))
    await nvml.start()
    await nvml.set_compute_mode(gpu(2).uuid, ComputeMode.PROHIBITED)
    nvml.has(gpu(0), gpu(2), replace(gpu(1), index=2))
    await nvml.set_compute_mode(gpu(1).uuid, ComputeMode.EXCLUSIVE_PROCESS)
    assert [await nvml.compute_mode(gpu(index).uuid) for index in range(3)] == [
        ComputeMode.DEFAULT,
        ComputeMode.EXCLUSIVE_PROCESS,
        ComputeMode.PROHIBITED,
    ]


async def test_driver_is_unloaded_while_nobody_looks(nvml: NvmlWorld) -> None:
    """A kernel driver that is gone is an error to whoever asks; when it is back the library is started anew."""
    nvml.follows = False
    nvml.has(gpu(0))
    await nvml.start()
    assert await nvml.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
    nvml.controls.answer(
        (gpu(0),),
        gpu__0__error=DRIVER_NOT_LOADED,
        error__nvmlInitWithFlags=DRIVER_NOT_LOADED,
    )
    for _ in range(2):
        with pytest.raises(DriverError, match="the NVIDIA kernel driver is not loaded"):
            await nvml.compute_mode(gpu(0).uuid)
    nvml.has(gpu(0))
    assert await nvml.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
    assert nvml.controls.calls("nvmlShutdown", -1) == 1


async def test_library_hangs_when_asked(nvml: NvmlWorld) -> None:
    """Whoever asks while the library does not answer is told so at the deadline."""
    nvml.deadline = 0.2
    nvml.follows = False
    nvml.controls.answer((gpu(0),), hang__nvmlInitWithFlags=1)
    nvml.install()
    await nvml.start()
    for _ in range(2):
        with pytest.raises(DriverError, match=r": no answer within 0\.2 s$"):
            await nvml.compute_mode(gpu(0).uuid)
    nvml.has(gpu(0))

    async def well() -> bool:
        """It may take until the call that hung has returned."""
        try:
            return await nvml.compute_mode(gpu(0).uuid) is ComputeMode.DEFAULT
        except DriverError:
            return False

    await eventually(well)


async def test_no_gpu_is_asked_while_the_library_is(nvml: NvmlWorld) -> None:
    """While the library is asked, and may be started anew, no GPU is; who waited for it is told so at the deadline."""
    nvml.deadline = 1.0
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.answer((gpu(0),), **{f"hang__{COUNT}": 1})
    await looks(nvml, 1)
    with pytest.raises(DriverError, match=r"^cannot read the compute mode of GPU-0.*: no answer within 1 s$"):
        await nvml.compute_mode(gpu(0).uuid)
    assert nvml.controls.calls(GET_MODE, 0) == 0


async def test_question_finds_a_new_gpu(nvml: NvmlWorld) -> None:
    """What is found because somebody asked is published like anything that a look finds."""
    nvml.interval = 600.0
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.has(gpu(0), gpu(1))
    assert await nvml.processes(gpu(1).uuid) == ()
    await nvml.inventory(lambda newest: newest.gpus == (gpu(0), gpu(1)))


async def test_garbage(nvml: NvmlWorld) -> None:
    """A GPU that answers garbage is an error to whoever asks it, not to the driver."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.inventory(found)
    nvml.controls.path.write_bytes(nvml.controls.path.read_bytes().replace(b"uuid=GPU-0", b"uuid=GPU-\xff"))
    with pytest.raises(DriverError, match="cannot list the processes on GPU-0"):
        await nvml.processes(gpu(0).uuid)
    nvml.has(gpu(0))
    assert await nvml.processes(gpu(0).uuid) == ()
