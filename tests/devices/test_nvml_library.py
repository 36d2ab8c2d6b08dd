"""Where the driver's library may be, and what becomes of one that cannot be loaded."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from nodeagent.model.inventory import Inventory, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import SONAME


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


def missing(inventory: Inventory) -> bool:
    """There is no driver."""
    return inventory.reason is InventoryReason.DRIVER_MISSING


def place(nvml: NvmlWorld, path: Path) -> None:
    """Put the library there, whole at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name("fresh")
    shutil.copy(nvml.built, fresh)
    fresh.replace(path)


@pytest.mark.parametrize(
    "directory",
    [
        "usr/lib64",
        "usr/lib/x86_64-linux-gnu",
        "usr/lib/aarch64-linux-gnu",
        "usr/lib/x86_64-linux-gnu/nvidia/current",
        "lib64",
        "lib/x86_64-linux-gnu",
        "lib",
    ],
)
async def test_driver_root(nvml: NvmlWorld, tmp_path: Path, directory: str) -> None:
    """Below the root directory of the driver the library is found wherever distributions have it."""
    nvml.driver_root = tmp_path / "run/nvidia/driver"
    nvml.controls.answer((gpu(0),))
    place(nvml, nvml.driver_root / directory / SONAME)
    await nvml.start()
    assert (await nvml.inventory(found)).gpus == (gpu(0),)


async def test_nothing_below_the_root(nvml: NvmlWorld, tmp_path: Path) -> None:
    """A root without a library is told, whatever the loader would find elsewhere; a library that appears is taken."""
    nvml.driver_root = tmp_path / "driver"
    nvml.has(gpu(0))
    await nvml.start()
    inventory = await nvml.inventory(missing)
    assert inventory.message == f"cannot load {SONAME}: no directory of libraries below {nvml.driver_root} has it"
    place(nvml, nvml.driver_root / "usr/lib64" / SONAME)
    await nvml.inventory(found)


async def test_root_that_cannot_be_looked_into(nvml: NvmlWorld, tmp_path: Path) -> None:
    """A root that the file system does not let us look into is told with why, and nothing else suffers."""
    nvml.driver_root = tmp_path / ("driver" * 100)
    nvml.has(gpu(0))
    await nvml.start()
    inventory = await nvml.inventory(missing)
    assert inventory.message == f"cannot load {nvml.driver_root}/usr/lib64/{SONAME}: File name too long"


async def test_every_way_to_write_the_root(nvml: NvmlWorld) -> None:
    """However many slashes the root of the file system is written with, the loader finds the library."""
    nvml.driver_root = Path("//")
    nvml.has(gpu(0))
    await nvml.start()
    inventory = await nvml.inventory(missing)
    assert inventory.message == f"cannot load {SONAME}: it is not there, or not loadable"


async def test_no_library_for_this_machine(nvml: NvmlWorld, tmp_path: Path) -> None:
    """What is not loadable is passed over where there is another one, and else told with why."""
    nvml.driver_root = tmp_path
    broken = tmp_path / "usr/lib64" / SONAME
    broken.parent.mkdir(parents=True)
    broken.write_bytes(b"not a library")
    nvml.controls.answer((gpu(0),))
    await nvml.start()
    inventory = await nvml.inventory(missing)
    assert inventory.message.startswith(f"cannot load {broken}: ")
    assert inventory.message.count(str(broken)) == 1
    place(nvml, tmp_path / "lib64" / SONAME)
    await nvml.inventory(found)


async def test_the_library_itself(nvml: NvmlWorld, tmp_path: Path) -> None:
    """A library that is named is taken from there, whatever its file is called, and looked for while it is missing."""
    nvml.nvml_library = tmp_path / "nvml/libnvidia-ml.so.550.163.01"
    nvml.controls.answer((gpu(0),))
    await nvml.start()
    inventory = await nvml.inventory(missing)
    assert (
        inventory.message
        == f"cannot load {nvml.nvml_library}: cannot open shared object file: No such file or directory"
    )
    place(nvml, nvml.nvml_library)
    await nvml.inventory(found)


async def test_another_library(nvml: NvmlWorld, gcc: Path, tmp_path: Path) -> None:
    """A library that is none of the driver's is refused, rather than another one asked in its place."""
    nvml.nvml_library = tmp_path / "libother.so"
    command = [
        str(gcc),
        "-shared",
        "-fPIC",
        "-Wl,-soname,libother.so",
        "-o",
        str(nvml.nvml_library),
        "-xc",
        "/dev/null",
    ]
    subprocess.run(command, check=True)
    nvml.controls.answer((gpu(0),))
    await nvml.start()
    inventory = await nvml.inventory(missing)
    assert inventory.message.startswith(f"cannot load {nvml.nvml_library}: it is no {SONAME}")


async def test_kernel_does_not_show_the_driver(nvml: NvmlWorld) -> None:
    """Where the kernel shows no module of the driver its loadings are not told apart."""
    (nvml.controls.sysfs / "module/nvidia").rmdir()
    nvml.has(gpu(0))
    await nvml.start()
    assert (await nvml.inventory(found)).driver_load is None
