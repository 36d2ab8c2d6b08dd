"""What others do to a GPU while its daemon runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from nodeagent.model.inventory import ComputeMode, DriverError, GpuProcess
from nodeagent.mps.disk import Disk
from nodeagent.mps.files import Layout
from nodeagent.mps.hunt import Hunt
from nodeagent.mps.lifecycle import Timing
from nodeagent.mps.occupancy import Occupancy
from tests.mps.support import UUID

# Each look is due at once.
TIMING = Timing(strays_every=0.0, look_again=0.0, answers_within=1.0)

PYTHON = GpuProcess(1234, "python", mps=False)
ENDING = GpuProcess(77, "trainer", mps=False)
CLIENT = GpuProcess(77, "trainer", mps=True)


class Driver:
    """A GPU with these processes at one look after the other; the last ones stay."""

    def __init__(self, *looks: Sequence[GpuProcess], mode: ComputeMode | None = ComputeMode.EXCLUSIVE_PROCESS) -> None:
        self.looks = list(looks)
        self.mode = mode
        self.set: list[ComputeMode] = []
        self.fault: Exception | None = None
        self.hangs = False

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        assert uuid == UUID
        if self.hangs:
            await asyncio.Event().wait()
        if self.fault is not None:
            raise self.fault
        return self.mode

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        assert uuid == UUID
        self.set.append(mode)
        self.mode = mode

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        assert uuid == UUID
        return tuple(self.looks.pop(0) if len(self.looks) > 1 else self.looks[0])


def occupancy(driver: Driver, root: Path, timing: Timing = TIMING) -> Occupancy:
    """What is known of the GPU of this driver: nothing yet."""
    layout = Layout(root)
    return Occupancy(UUID, driver, Hunt(UUID, layout, Disk(layout.directory(UUID), name="look"), timing), timing)


async def held(seen: Occupancy, looks: int) -> list[str]:
    """What is told after each of so many looks."""
    told = []
    for _ in range(looks):
        await seen.look()
        told.append(seen.held)
    return told


async def test_who_computes_without_mps_is_told(tmp_path: Path) -> None:
    """A process that two looks have seen holds the GPU, with the words of a start, until it has gone."""
    seen = occupancy(Driver([CLIENT], [CLIENT, PYTHON], [PYTHON], [PYTHON], []), tmp_path)
    by = "held by process 1234 (python)"
    assert await held(seen, 6) == ["", "", by, by, "", ""]


async def test_a_client_that_is_just_ending(tmp_path: Path) -> None:
    """What only one look has seen holds nothing: the driver forgets a client sooner as one than as a process."""
    seen = occupancy(Driver([CLIENT], [ENDING], [PYTHON], [ENDING], []), tmp_path)
    assert await held(seen, 5) == [""] * 5


@pytest.mark.parametrize("mode", [ComputeMode.DEFAULT, ComputeMode.PROHIBITED])
async def test_the_mode_is_set_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: ComputeMode) -> None:
    """A compute mode that somebody has changed is set again, once, and that is told."""
    driver = Driver([], mode=mode)
    await held(occupancy(driver, tmp_path), 3)
    assert driver.set == [ComputeMode.EXCLUSIVE_PROCESS]
    assert caplog.messages == [f"{UUID}: somebody has set its compute mode to {mode.value}: it is set again"]


async def test_a_gpu_without_modes(tmp_path: Path) -> None:
    """Where there is no compute mode none is set."""
    driver = Driver([], mode=None)
    await held(occupancy(driver, tmp_path), 2)
    assert driver.set == []


@pytest.mark.parametrize("way", ["fails", "hangs"])
async def test_a_driver_that_does_not_tell(tmp_path: Path, caplog: pytest.LogCaptureFixture, way: str) -> None:
    """While nothing can be known all stays as it was, which is told once."""
    driver = Driver([PYTHON])
    seen = occupancy(driver, tmp_path)
    assert (await held(seen, 2))[-1]
    driver.fault = DriverError("cannot read the compute mode") if way == "fails" else None
    driver.hangs = way == "hangs"
    assert await held(seen, 2) == ["held by process 1234 (python)"] * 2
    assert len(caplog.messages) == 1
    assert "cannot see whether others use it" in caplog.messages[0]
    driver.fault, driver.hangs, driver.looks = None, False, [[]]
    assert await held(seen, 1) == [""]


async def test_it_costs_little(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The driver is asked at its interval, and another daemon makes it due at once."""
    caplog.set_level(logging.WARNING)
    driver = Driver([])
    seen = occupancy(driver, tmp_path, Timing())
    for _ in range(2):
        driver.mode = ComputeMode.DEFAULT
        await held(seen, 3)
        driver.mode = ComputeMode.DEFAULT
        await held(seen, 3)
        seen.forget()
    assert len(driver.set) == 2
