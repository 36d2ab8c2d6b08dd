"""What holds for the XIDs of real GPUs alone: sets, registrations and waits that fail, hang or storm."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from nodeagent.devices.nvml_events import MOST_AT_ONCE
from nodeagent.devices.xid_listener import FIRST_PAUSE, LONGEST_PAUSE, PACE, pause_after
from nodeagent.devices.xid_watch import MOST_SOURCES
from nodeagent.model.health import EventsReason, XidLog, XidSource
from nodeagent.model.inventory import GpuHealth, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import DRIVER_NOT_LOADED, GPU_IS_LOST, NOT_SUPPORTED, UNKNOWN, build
from tests.waiting import eventually

WAIT = "nvmlEventSetWait_v2"
CREATE = "nvmlEventSetCreate"
FREE = "nvmlEventSetFree"
REGISTER = "nvmlDeviceRegisterEvents"
SHUTDOWN = "nvmlShutdown"
TIMEOUT = 10
FUNCTION_NOT_FOUND = 13
NO_INSTANCE = 0xFFFFFFFF


def misuse(nvml: NvmlWorld) -> set[str]:
    """What was done with event sets that must not be."""
    if not nvml.controls.log.exists():
        return set()
    lines = set(nvml.controls.log.read_text(encoding="ascii").splitlines())
    return {line for line in lines if " for a set that is " in line or "with event sets" in line}


def watching(log: XidLog) -> bool:
    """All GPUs are heard of."""
    return log.reason is EventsReason.WATCHING


def failed(log: XidLog) -> bool:
    """XIDs may be missed."""
    return log.reason is EventsReason.FAILED


def counted(log: XidLog) -> int:
    """How many XIDs have come in."""
    return sum(tally.count for tally in log.tallies.values())


async def hears(nvml: NvmlWorld, index: int, xid: int) -> None:
    """Wait until an XID has come in that is reported now."""
    source = XidSource(gpu(index).uuid, xid)
    before = nvml.logs[-1].tallies.get(source)
    nvml.controls.report(index, xid)
    await nvml.xids(lambda log: log.tallies.get(source) not in {None, before})


async def test_burst(nvml: NvmlWorld) -> None:
    """Ten thousand XIDs are all counted, and told of in a few batches."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    before = len(nvml.logs)
    nvml.controls.report_all([f"{number % 2} {31 + 48 * (number % 3 == 0)}\n" for number in range(10_000)])
    await nvml.xids(lambda log: counted(log) == 10_000)
    assert len(nvml.logs[-1].tallies) == 4
    assert len(nvml.logs) - before <= 2 * 10_000 // MOST_AT_ONCE


@pytest.mark.parametrize(
    ("device", "whose"),
    [(1, gpu(0).uuid), (2, gpu(1).uuid), (0, gpu(0).uuid), (40, gpu(0).uuid), (0x101, "MIG-")],
    ids=["its own", "another GPU's", "none", "of nobody", "a MIG device's"],
)
async def test_the_event_says_whose_it_is(nvml: NvmlWorld, device: int, whose: str) -> None:
    """In whichever set it comes in; where its handle names nobody it is of the GPU that was registered."""
    nvml.has(gpu(0), gpu(1), mig={gpu(0).uuid: ["1g.10gb"]})
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.report(0, 79, NO_INSTANCE, NO_INSTANCE, device)
    log = await nvml.xids(lambda log: counted(log) == 1)
    (source,) = log.tallies
    assert source.uuid.startswith(whose)
    assert source[1:] == (79, None, None)


async def test_a_gpu_that_hangs_is_not_asked_whether_an_event_is_its(nvml: NvmlWorld) -> None:
    """An event of it that comes in elsewhere costs no other GPU its own."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    nvml.has(gpu(0), gpu(1, health=GpuHealth.HANG))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    asked = nvml.controls.calls("nvmlDeviceGetUUID", 1)
    nvml.controls.report(0, 79, NO_INSTANCE, NO_INSTANCE, 2)
    await nvml.xids(lambda log: XidSource(gpu(1).uuid, 79) in log.tallies)
    await hears(nvml, 0, 48)
    assert watching(nvml.logs[-1])
    assert nvml.controls.calls("nvmlDeviceGetUUID", 1) == asked


@pytest.mark.parametrize("instances", [(0, 0), (0, NO_INSTANCE), (7, 1), (NO_INSTANCE, 0), (NO_INSTANCE, NO_INSTANCE)])
async def test_instances_are_told_as_they_are(nvml: NvmlWorld, instances: tuple[int, int]) -> None:
    """What they mean depends on whether there is MIG: 0 is an instance, and all ones are none."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.report(0, 79, *instances)
    log = await nvml.xids(lambda log: counted(log) == 1)
    told = (None if number == NO_INSTANCE else number for number in instances)
    assert list(log.tallies) == [XidSource(gpu(0).uuid, 79, *told)]


async def test_garbage_of_one_gpu_pushes_out_nothing_of_another(nvml: NvmlWorld) -> None:
    """However many sources there are of it before anybody is told of them."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.report(1, 79)
    await nvml.xids(lambda log: counted(log) == 1)
    last = 1000 + MOST_SOURCES + 500
    nvml.controls.report_all(f"0 {xid}\n" for xid in range(1000, last + 1))
    log = await nvml.xids(lambda log: XidSource(gpu(0).uuid, last) in log.tallies)
    assert XidSource(gpu(1).uuid, 79) in log.tallies
    assert len(log.tallies) == MOST_SOURCES + 1


async def test_sources_are_bounded(nvml: NvmlWorld) -> None:
    """Of ever more sources the newest are kept: garbage from a GPU does not fill the memory."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.xids(watching)
    last = 1000 + MOST_SOURCES + 500
    nvml.controls.report_all(f"0 {xid}\n" for xid in range(1000, last + 1))
    log = await nvml.xids(lambda log: XidSource(gpu(0).uuid, last) in log.tallies)
    assert len(log.tallies) == MOST_SOURCES
    assert XidSource(gpu(0).uuid, 1000) not in log.tallies


async def test_started_anew(nvml: NvmlWorld) -> None:
    """Before the library is shut down nobody waits any more and the set is given back; afterwards all GPUs are heard of
    again, and what was counted stays.
    """
    one, other = gpu(0), gpu(1)
    assert one.pci_bus_id is not None
    assert other.pci_bus_id is not None
    nvml.controls.bind(one.pci_bus_id)
    nvml.has(one)
    await nvml.start()
    await nvml.xids(watching)
    await hears(nvml, 0, 79)
    nvml.controls.bind(one.pci_bus_id, other.pci_bus_id)
    nvml.has(one, other)
    await eventually(lambda: nvml.controls.calls("nvmlInitWithFlags", -1) == 2)
    await eventually(lambda: nvml.controls.calls(REGISTER, 1))
    await eventually(lambda: nvml.controls.calls(REGISTER, 0) == 2)
    await nvml.inventory(lambda newest: len(newest.gpus) == 2)
    await hears(nvml, 0, 79)
    await hears(nvml, 1, 48)
    assert nvml.logs[-1].tallies[XidSource(one.uuid, 79)].count == 2
    assert nvml.controls.calls(FREE, -1) == 1
    assert not misuse(nvml)


async def test_nothing_is_lost_with_a_set(nvml: NvmlWorld) -> None:
    """What has come in when the library is started anew is counted, however much it is."""
    one, other = gpu(0), gpu(1)
    nvml.controls.bind(str(one.pci_bus_id))
    nvml.has(one)
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.report(0, 31, times=2 * MOST_AT_ONCE)
    nvml.controls.bind(str(one.pci_bus_id), str(other.pci_bus_id))
    nvml.has(one, other)
    await eventually(lambda: nvml.controls.calls("nvmlInitWithFlags", -1) == 2)
    await nvml.xids(lambda log: counted(log) == 2 * MOST_AT_ONCE)


async def test_nothing_is_lost_when_it_is_run_anew(nvml: NvmlWorld) -> None:
    """What comes in while the part that follows the driver is begun anew is counted, once."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.xids(watching)
    for count in range(1, 11):
        await nvml.restart()
        nvml.controls.report(0, 31)
        await eventually(lambda: counted(nvml.logs[-1]) >= count)  # noqa: B023
        assert counted(nvml.logs[-1]) == count
    assert nvml.controls.calls(CREATE, -1) == 1


async def test_started_anew_again_and_again(nvml: NvmlWorld) -> None:
    """However often the library is started anew, no set is used by two at once, given back while it is used, or used
    after that.
    """
    nvml.reopen_after = 0.0
    nvml.has(*map(gpu, range(7)), gpu(7, health=GpuHealth.LOST))
    await nvml.start()
    await eventually(lambda: nvml.controls.calls(SHUTDOWN, -1) >= 5)
    assert not misuse(nvml)
    nvml.has(gpu(0), gpu(1))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.FOUND)
    await hears(nvml, 0, 79)


async def test_not_shut_down_under_a_wait(nvml: NvmlWorld) -> None:
    """While a wait hangs that is told, the library is not shut down whatever else asks for it, GPUs are looked at all
    the same, and what the wait returns with at last counts.
    """
    one, other = gpu(0), gpu(1)
    assert one.pci_bus_id is not None
    nvml.controls.bind()
    nvml.has(one)
    await nvml.start()
    await nvml.xids(watching)
    hang = {f"hang__{WAIT}": 1}
    nvml.controls.answer((one, other), **hang)
    log = await nvml.xids(failed)
    assert "cannot wait for its XIDs: no answer within 2 s" in log.message
    nvml.controls.bind(one.pci_bus_id)
    await nvml.inventory(lambda newest: len(newest.gpus) == 2)
    before = nvml.controls.calls("nvmlDeviceGetCount_v2", -1)
    await eventually(lambda: nvml.controls.calls("nvmlDeviceGetCount_v2", -1) >= before + 3)
    assert nvml.controls.calls(SHUTDOWN, -1) == 0
    waits = nvml.controls.calls(WAIT, -1)
    nvml.controls.report(0, 119)
    nvml.controls.answer((one, other))
    await nvml.xids(lambda log: XidSource(one.uuid, 119) in log.tallies)
    await eventually(lambda: nvml.controls.calls(SHUTDOWN, -1) == 1)
    await nvml.xids(watching)
    assert nvml.controls.calls(WAIT, -1) > waits


async def test_everything_hangs(nvml: NvmlWorld) -> None:
    """Neither a wait nor a GPU that hangs keeps the process from ending."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.answer((gpu(0), gpu(1, health=GpuHealth.HANG)), **{f"hang__{WAIT}": 1})
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    await nvml.xids(failed)
    assert await nvml.end(within=5.0) == 0


async def test_one_is_lost_and_hangs(nvml: NvmlWorld) -> None:
    """A GPU whose set cannot be waited for, and whose call hangs besides, leaves the others heard of."""
    nvml.has(gpu(0), gpu(1), gpu(2))
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.answer((gpu(0), gpu(1, health=GpuHealth.HANG), gpu(2)), gpu__1__error=GPU_IS_LOST)
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    for _ in range(3):
        await hears(nvml, 0, 79)
        await hears(nvml, 2, 48)
    assert watching(nvml.logs[-1])


def test_pauses() -> None:
    """Pauses grow to a bound, however often something has failed."""
    pauses = [pause_after(failures) for failures in range(1, 3000)]
    assert pauses[0] == FIRST_PAUSE
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE


@pytest.mark.parametrize("code", [FUNCTION_NOT_FOUND, NOT_SUPPORTED])
async def test_no_waits(nvml: NvmlWorld, code: int) -> None:
    """Where events can be registered and not waited for there are none, and nobody tries again."""
    nvml.controls.answer((gpu(0),), **{f"error__{WAIT}": code})
    nvml.install()
    await nvml.start()
    log = await nvml.xids(lambda log: log.reason is EventsReason.NOT_SUPPORTED)
    assert log.message.endswith(" does not report XIDs")
    before = nvml.controls.calls("nvmlDeviceGetName", 0)
    await eventually(lambda: nvml.controls.calls("nvmlDeviceGetName", 0) >= before + 5)
    assert [nvml.controls.calls(function, -1) for function in (CREATE, WAIT, FREE)] == [1, 2, 1]  # a wait to empty it


@pytest.mark.parametrize("code", [GPU_IS_LOST, UNKNOWN])
async def test_wait_fails(nvml: NvmlWorld, code: int) -> None:
    """A wait that fails is told, has the GPUs looked at, and is made again at a bounded pace; at last with a new set.
    A GPU that is lost is not told of besides.
    """
    nvml.has(gpu(0), gpu(1))
    nvml.interval = 600.0
    await nvml.start()
    await nvml.xids(watching)
    waits = nvml.controls.calls(WAIT, -1)
    nvml.controls.answer((gpu(0), gpu(1, health=GpuHealth.LOST)), **{f"error__{WAIT}": code})
    assert ": cannot wait for its XIDs: " in (await nvml.xids(failed)).message
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    await eventually(lambda: nvml.controls.calls(REGISTER, 0) >= 2)
    assert nvml.controls.calls(CREATE, -1) <= nvml.controls.calls(FREE, -1) + 2
    assert nvml.controls.calls(WAIT, -1) <= waits + 15
    nvml.controls.answer((gpu(0), gpu(1, health=GpuHealth.LOST)))
    await nvml.xids(watching)
    await hears(nvml, 0, 48)
    assert nvml.controls.calls(REGISTER, 1) == 1


async def test_wait_that_does_not_wait(nvml: NvmlWorld) -> None:
    """A library that says at once that the time is over is not asked without end."""
    begun = time.monotonic()
    nvml.controls.answer((gpu(0),), **{f"error__{WAIT}": TIMEOUT})
    nvml.install()
    await nvml.start()
    await eventually(lambda: nvml.controls.calls(WAIT, -1) >= 10)
    waits = nvml.controls.calls(WAIT, -1)
    assert waits <= (time.monotonic() - begun) / PACE + 1


async def test_registered_once(nvml: NvmlWorld) -> None:
    """Looks do not register GPUs again, nor one that did not answer the last time."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    nvml.has(gpu(0), gpu(1, health=GpuHealth.HANG))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_HANGS)
    nvml.has(gpu(0), gpu(1))
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.FOUND)
    await hears(nvml, 1, 48)
    assert [nvml.controls.calls(REGISTER, index) for index in range(2)] == [1, 1]


async def test_heard_of_as_soon_as_it_is_well(nvml: NvmlWorld) -> None:
    """A GPU that was lost is listened to when it answers again, however long the pause would be."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    nvml.has(gpu(0), gpu(1, health=GpuHealth.LOST))
    await eventually(lambda: nvml.controls.calls(FREE, -1) >= 3)
    nvml.has(gpu(0), gpu(1))
    await eventually(lambda: nvml.controls.calls(REGISTER, 1) == 2, within=pause_after(4) / 2)
    await hears(nvml, 1, 48)


async def test_cannot_register(nvml: NvmlWorld) -> None:
    """A GPU that cannot be registered is well but for that, is named, and is tried again, each time with a set that
    nothing has failed in.
    """
    nvml.controls.answer((gpu(0), gpu(1)), **{f"gpu__1__error__{REGISTER}": UNKNOWN})
    nvml.install()
    await nvml.start()
    log = await nvml.xids(failed)
    assert log.message.startswith(f"{gpu(1).uuid}: cannot listen for its XIDs: ")
    assert nvml.seen[-1].reason is InventoryReason.FOUND
    nvml.has(gpu(0), gpu(1))
    await nvml.xids(watching)
    await hears(nvml, 1, 79)
    assert nvml.controls.calls(CREATE, -1) == nvml.controls.calls(FREE, -1) + 2
    assert not misuse(nvml)


async def test_no_sets(nvml: NvmlWorld) -> None:
    """Where no set can be had that is told, and tried again; no GPU suffers."""
    nvml.controls.answer((gpu(0),), **{f"error__{CREATE}": UNKNOWN})
    nvml.install()
    await nvml.start()
    assert (await nvml.xids(failed)).message.startswith(f"{gpu(0).uuid}: cannot listen for its XIDs: ")
    assert nvml.seen[-1].gpus == (gpu(0),)
    nvml.has(gpu(0))
    await nvml.xids(watching)
    await hears(nvml, 0, 79)


async def test_types_are_not_told(nvml: NvmlWorld) -> None:
    """A GPU that does not say what it reports reports nothing."""
    nvml.controls.answer((gpu(0),), gpu__0__error__nvmlDeviceGetSupportedEventTypes=NOT_SUPPORTED)
    nvml.install()
    await nvml.start()
    log = await nvml.xids(lambda log: log.reason is EventsReason.NOT_SUPPORTED)
    assert log.message == f"{gpu(0).uuid}: this GPU does not report XIDs"
    assert nvml.controls.calls(WAIT, -1) == 0


async def test_old_library(nvml: NvmlWorld, gcc: Path, tmp_path: Path) -> None:
    """A library without events is no fault of any GPU, and has no MIG devices either."""
    old = tmp_path / "old"
    old.mkdir()
    nvml.built = build(gcc, old, old=True)
    nvml.has(gpu(0), mig={gpu(0).uuid: ["1g.10gb"]})
    await nvml.start()
    log = await nvml.xids(lambda log: log.reason is EventsReason.NOT_SUPPORTED)
    assert log.message == f"{gpu(0).uuid}: the installed driver does not report XIDs"
    assert len(nvml.seen[-1].gpus) == 1


async def test_driver_is_unloaded(nvml: NvmlWorld) -> None:
    """Without a driver nobody waits, and that is told; when it is back its GPUs are heard of."""
    nvml.has(gpu(0))
    await nvml.start()
    await nvml.xids(watching)
    gone = {"gpu__0__error": DRIVER_NOT_LOADED, "error__nvmlInitWithFlags": DRIVER_NOT_LOADED}
    nvml.controls.answer((gpu(0),), **gone)
    log = await nvml.xids(failed)
    assert log.message.startswith("cannot ask NVML: the NVIDIA kernel driver is not loaded any more")
    nvml.has(gpu(0))
    await nvml.xids(watching)
    await hears(nvml, 0, 79)


async def test_event_with_another_handle(nvml: NvmlWorld) -> None:
    """A handle that no set knows is asked whose it is."""
    nvml.controls.answer((gpu(0), gpu(1)), anonymous=1)
    nvml.install()
    await nvml.start()
    await nvml.xids(watching)
    await hears(nvml, 1, 79)


async def test_event_of_a_gpu_that_does_not_answer(nvml: NvmlWorld) -> None:
    """An event of a GPU that cannot be asked who it is is counted, and so are all that come in with it."""
    nvml.has(gpu(0), gpu(1))
    await nvml.start()
    await nvml.xids(watching)
    nvml.controls.answer((gpu(0), gpu(1)), anonymous=1, gpu__1__error__nvmlDeviceGetUUID=GPU_IS_LOST)
    await nvml.inventory(lambda newest: newest.reason is InventoryReason.GPU_LOST)
    nvml.controls.report_all(["0 79\n"] * 50 + ["1 79\n"] + ["0 48\n"] * 10)
    log = await nvml.xids(lambda log: counted(log) == 61)
    assert log.tallies[XidSource(gpu(1).uuid, 79)].count == 1


async def test_nobody_listens_who_does_not_follow(nvml: NvmlWorld) -> None:
    """A driver that is asked once registers nothing."""
    nvml.follows = False
    nvml.has(gpu(0))
    await nvml.start()
    assert await nvml.processes(gpu(0).uuid) == ()
    await nvml.refresh()
    assert nvml.controls.calls(CREATE, -1) == 0
