"""The compute mode that a GPU had before MPS comes back, whoever was killed in between."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from nodeagent.devices.simulated import SimulatedDriver
from nodeagent.model.inventory import ComputeMode, DriverError, GpuProcess
from nodeagent.mps.compute_modes import ComputeModes
from nodeagent.mps.files import decode_compute_modes
from tests.mps.hosting import OTHER, UUID, Node

EXCLUSIVE, DEFAULT, PROHIBITED = ComputeMode.EXCLUSIVE_PROCESS, ComputeMode.DEFAULT, ComputeMode.PROHIBITED


class Gpus:
    """Two GPUs whose modes are kept here. A stand-in for a driver, to be stopped or asked at any moment."""

    def __init__(self, path: Path, mode: ComputeMode | None = DEFAULT) -> None:
        self._path = path
        self.modes: dict[str, ComputeMode | None] = {UUID: mode, OTHER: mode}
        self.refuses = False
        self.remembered: list[dict[str, ComputeMode]] = []

    async def compute_mode(self, uuid: str) -> ComputeMode | None:
        """What it is."""
        return self.modes[uuid]

    async def set_compute_mode(self, uuid: str, mode: ComputeMode) -> None:
        """Change it, and note what is on the disk at that moment."""
        self.remembered.append(decode_compute_modes(self._path.read_bytes()))
        if self.refuses:
            raise DriverError("cannot set the compute mode: no permission")
        self.modes[uuid] = mode

    async def processes(self, uuid: str) -> tuple[GpuProcess, ...]:
        """None."""
        return ()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where modes are remembered."""
    return tmp_path / "compute-modes.json"


@pytest.fixture
def gpus(path: Path) -> Gpus:
    """GPUs that any process may use."""
    return Gpus(path)


async def loaded(path: Path, gpus: Gpus) -> ComputeModes:
    """As a host knows them that has just started."""
    modes = ComputeModes(path, gpus)
    await modes.load()
    return modes


@pytest.mark.parametrize("before", [DEFAULT, PROHIBITED])
async def test_the_mode_that_was_found_comes_back(path: Path, before: ComputeMode) -> None:
    """It is on the disk before it is changed, until it is restored, and then no more; other GPUs stay as they are."""
    gpus = Gpus(path, before)
    modes = await loaded(path, gpus)
    await modes.take(UUID)
    assert gpus.modes == {UUID: EXCLUSIVE, OTHER: before}
    assert modes.uuids == {UUID}
    await modes.give_back(UUID)
    assert gpus.modes == {UUID: before, OTHER: before}
    assert gpus.remembered == [{UUID: before}, {UUID: before}]
    assert modes.uuids == set()
    assert decode_compute_modes(path.read_bytes()) == {}


async def test_the_next_host_restores_it(path: Path, gpus: Gpus) -> None:
    """Who has not set it himself knows what it was, also when it takes the GPU once more before it gives it back."""
    await (await loaded(path, gpus)).take(UUID)
    modes = await loaded(path, gpus)
    assert modes.uuids == {UUID}
    await modes.take(UUID)
    await modes.give_back(UUID)
    assert gpus.modes[UUID] is DEFAULT


async def test_a_host_that_is_killed_before_the_change(path: Path, gpus: Gpus) -> None:
    """What was remembered and not changed yet is changed by the next host, or forgotten by one that has no need to."""
    gpus.refuses = True
    with pytest.raises(DriverError):
        await (await loaded(path, gpus)).take(UUID)
    gpus.refuses = False
    modes = await loaded(path, gpus)
    await modes.take(UUID)
    assert gpus.modes[UUID] is EXCLUSIVE
    gpus.modes[UUID] = DEFAULT
    await modes.give_back(UUID)
    assert (await loaded(path, gpus)).uuids == set()


async def test_a_gpu_that_was_exclusive_stays_so(path: Path, gpus: Gpus) -> None:
    """There is nothing to change, to remember or to restore where an administrator wants it as MPS does."""
    gpus.modes[UUID] = EXCLUSIVE
    modes = await loaded(path, gpus)
    await modes.take(UUID)
    await modes.give_back(UUID)
    assert gpus.modes[UUID] is EXCLUSIVE
    assert gpus.remembered == []


async def test_what_somebody_else_has_set_since_is_theirs(path: Path, gpus: Gpus) -> None:
    """A mode that was changed while MPS was there is not changed back to what was there before."""
    modes = await loaded(path, gpus)
    await modes.take(UUID)
    gpus.modes[UUID] = PROHIBITED
    await modes.give_back(UUID)
    assert gpus.modes[UUID] is PROHIBITED
    assert modes.uuids == set()


async def test_a_gpu_without_compute_mode(path: Path) -> None:
    """Where there is no such thing nothing is asked of it."""
    gpus = Gpus(path, None)
    modes = await loaded(path, gpus)
    await modes.take(UUID)
    await modes.give_back(UUID)
    assert gpus.remembered == []


async def test_one_that_cannot_be_restored_stays_remembered(path: Path, gpus: Gpus) -> None:
    """A driver that refuses is asked again, by this host or the next."""
    modes = await loaded(path, gpus)
    await modes.take(UUID)
    gpus.refuses = True
    with pytest.raises(DriverError):
        await modes.give_back(UUID)
    gpus.refuses = False
    await (await loaded(path, gpus)).give_back(UUID)
    assert gpus.modes[UUID] is DEFAULT


async def test_what_cannot_be_remembered_is_not_changed(tmp_path: Path) -> None:
    """A disk that cannot be written leaves the GPU as it is."""
    gpus = Gpus(tmp_path / "gone" / "modes")
    modes = await loaded(tmp_path / "gone" / "modes", gpus)
    with pytest.raises(OSError, match="cannot remember its compute mode: cannot write file"):
        await modes.take(UUID)
    assert gpus.modes[UUID] is DEFAULT


async def test_many_at_once(path: Path) -> None:
    """GPUs that come under MPS at the same time are all remembered."""
    gpus = Gpus(path)
    uuids = [f"GPU-{number}" for number in range(20)]
    gpus.modes = dict.fromkeys(uuids, DEFAULT)
    modes = await loaded(path, gpus)
    await asyncio.gather(*(modes.take(uuid) for uuid in uuids))
    assert (await loaded(path, gpus)).uuids == set(uuids)
    await asyncio.gather(*(modes.give_back(uuid) for uuid in uuids))
    assert set(gpus.modes.values()) == {DEFAULT}
    assert (await loaded(path, gpus)).uuids == set()


async def test_a_damaged_file_is_set_aside_and_told(path: Path, gpus: Gpus, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is guessed from a file that is not as it was written: it is kept, and the log says what is lost."""
    await (await loaded(path, gpus)).take(UUID)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with caplog.at_level(logging.ERROR):
        modes = await loaded(path, gpus)
    assert modes.uuids == set()
    assert path.with_name("compute-modes.json.corrupt-1").exists()
    assert "the compute modes that GPUs had before MPS are not restored" in caplog.text


async def test_the_drivers_are_what_it_needs(mps_control: Path) -> None:
    """The simulated driver can be asked as it is."""
    async with Node(mps_control) as node:
        driver = SimulatedDriver(
            node.simulation, node_name="node", subscribe=lambda directory, wake: None, wake=lambda: None
        )
        modes = ComputeModes(node.directory / "modes", driver)
        await modes.take(UUID)
        assert node.modes() == {UUID: "exclusive-process"}
        await modes.give_back(UUID)
        assert node.modes() == {}
