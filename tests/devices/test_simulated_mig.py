"""What holds for the MIG devices of simulated GPUs."""

from __future__ import annotations

from collections import Counter
from dataclasses import astuple, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.devices.simulated import load_inventory
from nodeagent.devices.simulated_mig import attributes, mig_devices
from nodeagent.model.inventory import Gpu, GpuHealth, InventoryReason, MigDevice
from tests.devices.simulating import A100, HEAD, Looked, parsed

PROFILES = st.from_regex(
    r"\A([1-7]c\.)?[1-7]g\.[1-9][0-9]{0,2}gb(\+me|\+gfx|-me|\+me\.all)?\Z", fullmatch=True
) | st.sampled_from(["1g.5gb", "1g.5gb+me", "1g.10gb", "2g.10gb", "3g.20gb", "1c.3g.20gb", "4g.20gb", "7g.40gb"])
GPU = Gpu("GPU-0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9", 3, "NVIDIA A100-SXM4-40GB", 40 << 30)
KINDS = '["3g.20gb", "2g.10gb", "2g.10gb"]'


def of(*profiles: str) -> tuple[Gpu, ...]:
    """MIG devices of one and the same GPU."""
    return mig_devices(GPU, {"mig": {"devices": list(profiles)}})


def named(devices: tuple[Gpu, ...], profile: str) -> list[Gpu]:
    """Those of one profile."""
    return [one for one in devices if one.mig is not None and one.mig.profile == profile]


def test_facts() -> None:
    """A MIG device has the memory of its profile and its own place in the GPU; every other fact is the GPU's."""
    text = f'{A100}, computeCapability: "8.0", numaNode: 1'
    node = parsed(f"gpus:\n- {{{text}, mig: {{devices: {KINDS}}}}}\n- {{{text}}}\n")
    gpu, other = node.gpus
    assert (gpu.mig_enabled, other.mig_enabled, node.parts[other.uuid]) == (True, False, ())
    parts = node.parts[gpu.uuid]
    assert [one.mig for one in parts] == [
        MigDevice(gpu.uuid, "3g.20gb", 2030, 0, attributes("3g.20gb")),
        MigDevice(gpu.uuid, "2g.10gb", 1020, 0, attributes("2g.10gb")),
        MigDevice(gpu.uuid, "2g.10gb", 1021, 0, attributes("2g.10gb")),
    ]
    assert [one.memory for one in parts] == [20 << 30, 10 << 30, 10 << 30]
    assert len({one.uuid for one in node.everything}) == len(list(node.everything)) == 5
    for one in parts:
        assert replace(one, uuid=gpu.uuid, memory=gpu.memory, mig_enabled=True, mig_capable=True, mig=None) == gpu


@pytest.mark.parametrize(
    ("profile", "made_of"),
    [
        ("1g.5gb", (5120, 14, 1, 1, 1, 0, 0, 0, 0)),
        ("1c.3g.20gb", (20480, 14, 3, 1, 3, 2, 0, 0, 0)),
        ("1g.5gb+me", (5120, 14, 1, 1, 1, 1, 0, 1, 1)),
        ("7g.40gb", (40960, 98, 7, 7, 7, 5, 0, 1, 1)),
    ],
)
def test_what_it_is_made_of(profile: str, made_of: tuple[int, ...]) -> None:
    """Memory, multiprocessors, slices and engines are those of an A100's profile."""
    assert astuple(attributes(profile)) == made_of


def test_a_gpu_that_could_be_divided() -> None:
    """With MIG disabled it is capable of it; one without a word of MIG is not."""
    node = parsed(f"gpus:\n- {{{A100}, mig: {{enabled: false}}}}\n- {{{A100}}}\n")
    assert [(one.mig_capable, one.mig_enabled) for one in node.gpus] == [(True, False), (False, False)]


def test_uuids() -> None:
    """The uuid of a MIG device is pinned: held shares and configs name it."""
    assert [one.uuid for one in of("1g.5gb", "1g.5gb", "2g.10gb")] == [
        "MIG-25d1b6c7-cf76-5a2a-8a2d-604cac6fcda1",
        "MIG-74f177bc-c29c-5d41-a373-d2cab11134b8",
        "MIG-65379558-969d-50bc-ae0d-212ffa887dae",
    ]


def test_count() -> None:
    """With a count each of the GPUs has MIG devices of its own."""
    node = parsed(f"gpus:\n- {{{A100}, count: 2, mig: {{devices: {KINDS}}}}}\n")
    assert [len(node.parts[gpu.uuid]) for gpu in node.gpus] == [3, 3]
    assert len({one.uuid for one in node.everything}) == 8
    for gpu in node.gpus:
        assert {(one.index, one.mig.parent) for one in node.parts[gpu.uuid] if one.mig is not None} == {
            (gpu.index, gpu.uuid)
        }


def test_enabled() -> None:
    """MIG is enabled where `mig` is given, with or without devices, unless it says that it is not."""
    node = parsed(
        f"gpus:\n- {{{A100}, mig: {{}}}}\n- {{{A100}, mig: {{enabled: true}}}}\n"
        f"- {{{A100}, mig: {{enabled: false}}}}\n- {{{A100}, mig: {{enabled: false, devices: []}}}}\n"
    )
    assert [gpu.mig_enabled for gpu in node.gpus] == [True, True, False, False]
    assert list(node.everything) == list(node.gpus)


@given(st.lists(PROFILES, max_size=7))
def test_one_stays_when_others_change(profiles: list[str]) -> None:
    """No two MIG devices share a uuid or an instance, and neither depends on what other profiles there are."""
    devices = of(*profiles)
    assert len({one.uuid for one in devices}) == len(devices)
    assert len({one.mig.gpu_instance for one in devices if one.mig is not None}) == len(devices)
    for profile, count in Counter(profiles).items():
        assert named(devices, profile) == list(of(*[profile] * count))
        assert named(devices, profile)[:-1] == list(of(*[profile] * (count - 1)))


async def test_repartitioned(tmp_path: Path) -> None:
    """While the driver runs, MIG devices come and go with an edit, and those that stay are the same; each follows its
    GPU in the inventory.
    """
    looked = Looked(tmp_path / "node.yaml")
    before = await looked.look(f"gpus:\n- {{{A100}}}\n- {{{A100}, mig: {{devices: {KINDS}}}}}\n- {{{A100}}}\n")
    assert [one.label for one in before.gpus] == ["0", "1", "1:1020", "1:1021", "1:2030", "2"]
    after = await looked.look(
        f'gpus:\n- {{{A100}}}\n- {{{A100}, mig: {{devices: ["1g.5gb", "2g.10gb", "3g.20gb"]}}}}\n- {{{A100}}}\n'
    )
    assert [one.label for one in after.gpus] == ["0", "1", "1:510", "1:1020", "1:2030", "2"]
    stay = [one for one in before.gpus if one.label in {"1:1020", "1:2030"}]
    assert [one for one in after.gpus if one.label in {"1:1020", "1:2030"}] == stay
    assert (looked.wakes, after.reason) == (2, InventoryReason.FOUND)


async def test_fault(tmp_path: Path) -> None:
    """A GPU that is lost or hangs takes its MIG devices with it, and is named once for all of them."""
    looked = Looked(tmp_path / "node.yaml")
    well = await looked.look(f"gpus:\n- {{{A100}, mig: {{devices: {KINDS}}}}}\n- {{{A100}}}\n")
    for health in (GpuHealth.LOST, GpuHealth.HANG):
        text = f"gpus:\n- {{{A100}, health: {health.value}, mig: {{devices: {KINDS}}}}}\n- {{{A100}}}\n"
        ill = await looked.look(text)
        assert [one.health for one in ill.gpus] == [health] * 4 + [GpuHealth.OK]
        assert [replace(one, health=GpuHealth.OK, message="") for one in ill.gpus] == list(well.gpus)
        assert ill.message.count(well.gpus[0].uuid) == 1
        assert "MIG" not in ill.message
    await looked.look(f"gpus:\n- {{{A100}}}\n")


def test_offline(tmp_path: Path) -> None:
    """A single reading has the MIG devices as well, those of a GPU that is lost included."""
    file = tmp_path / "node.yaml"
    file.write_text(
        f"{HEAD}gpus:\n- {{{A100}, health: lost, mig: {{devices: {KINDS}}}}}\n"
        f'- {{{A100}, mig: {{devices: ["7g.40gb"]}}}}\n',
        encoding="utf-8",
    )
    found = load_inventory(file, "node").gpus
    assert [one.label for one in found] == ["0", "0:1020", "0:1021", "0:2030", "1", "1:4070"]
    assert [one.health for one in found] == [GpuHealth.LOST] * 4 + [GpuHealth.OK] * 2
