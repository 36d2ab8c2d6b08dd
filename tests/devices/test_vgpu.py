"""Whether the node has vGPUs: what a host's driver writes into the PCI config space, whole, in part or broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.devices.vgpu import VgpuLook, read
from nodeagent.model.inventory import Vgpu
from tests.devices.worlds import NvmlWorld, gpu
from tests.fakes.nvml.library import Controls, config_space, vgpu_capability

NVIDIA, OTHER = "0x10de", "0x8086"
HOST = b"460.16\0\0\0\0" + b"r460_00\0\0\0"
THERE = Vgpu(present=True, host_version="460.16", host_branch="r460_00")
NONE = Vgpu(present=False)
LOOP = bytearray(config_space(b"\x03\0"))
LOOP[0x61] = 0x60
OUTSIDE = bytearray(config_space())
OUTSIDE[0x34] = 0xFE
AT_THE_END = bytearray(config_space())
AT_THE_END[0x34] = 0xF8
AT_THE_END[0xF8:0x100] = bytes([0x09, 0, 0xFF, *b"VF", 0, 22, 0])


@pytest.fixture
def controls(tmp_path: Path) -> Controls:
    """What the kernel shows."""
    return Controls(tmp_path / "nvml.conf", tmp_path / "calls", tmp_path / "sys")


def devices(controls: Controls) -> Path:
    """Where it shows PCI functions."""
    return controls.sysfs / "bus/pci/devices"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        pytest.param(config_space(vgpu_capability((0, HOST))), THERE, id="vgpu"),
        pytest.param(config_space(vgpu_capability((7, b"abc"), (9, b""), (0, HOST))), THERE, id="third-record"),
        pytest.param(config_space(vgpu_capability((0, HOST)), b"\x04ab"), THERE, id="first-capability"),
        pytest.param(config_space(b"\x14" + bytes(18)), NONE, id="pass-through"),
        pytest.param(config_space(), NONE, id="none"),
        pytest.param(config_space(vgpu_capability((0, HOST)), listed=False), NONE, id="not-listed"),
        pytest.param(config_space(vgpu_capability()), Vgpu(present=True), id="no-record"),
        pytest.param(config_space(vgpu_capability((0, HOST[:12]))), Vgpu(present=True), id="cut-off"),
        pytest.param(config_space(b"\x07VF\x01\0\0"), Vgpu(present=True), id="record-without-length"),
        pytest.param(config_space(b"\x04V"), NONE, id="half-a-signature"),
        pytest.param(bytes(LOOP), NONE, id="loop"),
        pytest.param(bytes(OUTSIDE), NONE, id="outside"),
        pytest.param(bytes(AT_THE_END), Vgpu(present=True), id="at-the-end"),
        pytest.param(b"\xff" * 256, NONE, id="off-the-bus"),
        pytest.param(config_space(vgpu_capability((0, HOST))) + bytes(4096), THERE, id="extended"),
        pytest.param(config_space(vgpu_capability((0, HOST)))[:64], None, id="not-allowed"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_what_a_function_says(controls: Controls, config: bytes, told: Vgpu | None) -> None:
    """The record with id 0 has version and branch; what is broken says nothing, and what nobody may read whole makes
    the answer unknown.
    """
    controls.show_pci("0000:00:02.0", OTHER, b"")
    controls.show_pci("0000:1a:00.0", NVIDIA, config)
    assert read(devices(controls)) == told


def test_the_last_one_is_told(controls: Controls) -> None:
    """Of several vGPUs, as NVIDIA's labels have it; other vendors' functions are not read."""
    assert read(devices(controls)) is None
    controls.show_pci("0000:00:02.0", OTHER, config_space(vgpu_capability((0, HOST))))
    assert read(devices(controls)) == NONE
    controls.show_pci("0000:1a:00.0", NVIDIA, config_space(vgpu_capability((0, b"535.1\0\0\0\0\0r535_00\0\0\0"))))
    controls.show_pci("0000:1b:00.0", NVIDIA, config_space(vgpu_capability((0, HOST))))
    controls.show_pci("0000:1c:00.0", NVIDIA, config_space())
    assert read(devices(controls)) == THERE


async def test_it_is_looked_at_again_after_a_while(controls: Controls) -> None:
    """A machine that has moved to another host has another driver there; between two looks nothing is read."""
    controls.show_pci("0000:1a:00.0", NVIDIA, config_space())
    seldom, always = VgpuLook(controls.sysfs), VgpuLook(controls.sysfs, interval=0.0)
    assert [await one.find() for one in (seldom, always)] == [NONE, NONE]
    controls.show_pci("0000:1a:00.0", NVIDIA, config_space(vgpu_capability((0, HOST))))
    assert [await one.find() for one in (seldom, always)] == [NONE, THERE]


async def test_the_driver_tells_it(nvml: NvmlWorld) -> None:
    """It is part of every look, also of one that finds no driver."""
    nvml.controls.show_pci("0000:00:05.0", NVIDIA, config_space(vgpu_capability((0, HOST))))
    await nvml.start()
    assert (await nvml.inventory(lambda newest: newest.message.startswith("cannot "))).vgpu == THERE


async def test_what_cannot_be_read_costs_no_gpu(nvml: NvmlWorld) -> None:
    """A config space that nobody may read, or none at all, leaves the GPUs as they are."""
    nvml.has(gpu(0))
    await nvml.start()
    inventory = await nvml.inventory(lambda newest: newest.complete)
    assert inventory.vgpu is None
    assert inventory.gpus == (gpu(0),)
