"""The two worlds, each with its own directory, and nothing left of them afterwards."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.devices.worlds import NvmlWorld, SimulatedWorld, World
from tests.fakes.nvml.library import build


@pytest.fixture(scope="session")
def nvml_library(gcc: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in library, built once."""
    return build(gcc, tmp_path_factory.mktemp("nvml"))


@pytest.fixture
async def nvml(nvml_library: Path, tmp_path: Path) -> AsyncIterator[NvmlWorld]:
    """GPUs behind NVML."""
    world = NvmlWorld(tmp_path, built=nvml_library)
    yield world
    await world.clean_up()


@pytest.fixture
async def simulated(tmp_path: Path) -> AsyncIterator[SimulatedWorld]:
    """GPUs of a simulation file."""
    world = SimulatedWorld(tmp_path)
    yield world
    await world.clean_up()


@pytest.fixture(params=["nvml", "simulated"])
def world(request: pytest.FixtureRequest) -> World:
    """Each of the two: what holds for one driver holds for the other."""
    found: World = request.getfixturevalue(request.param)
    return found
