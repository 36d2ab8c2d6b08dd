"""Which GPUs a node has, and the index that each of them keeps."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.nodegpus import UNLISTED, node_gpus, unseen
from tests.state import make

NOWHERE = make.applied()


def indices(gpus: tuple[Gpu, ...]) -> dict[str, int]:
    """Index by uuid."""
    return {gpu.uuid: gpu.index for gpu in gpus}


def test_a_new_node_takes_the_drivers_indices() -> None:
    """Without anything remembered, the driver's word stands."""
    assert node_gpus(make.inventory(make.gpu(1), make.gpu(0)), NOWHERE) == (make.gpu(0), make.gpu(1))


def test_a_lost_gpu_shifts_nobody() -> None:
    """When a GPU drops out the driver numbers the others anew; here each keeps the index it had."""
    have = make.applied(make.entry(0), make.entry(1), make.entry(2))
    found = node_gpus(make.inventory(replace(make.gpu(1), index=0), replace(make.gpu(2), index=1)), have)
    assert indices(found) == {"GPU-0": 0, "GPU-1": 1, "GPU-2": 2}
    assert [gpu.health for gpu in found] == [GpuHealth.LOST, GpuHealth.OK, GpuHealth.OK]
    assert found[0].message == UNLISTED


def test_a_new_gpu_gets_a_free_index() -> None:
    """A replacement whose index is taken by a GPU that is lost gets the lowest that is free."""
    have = make.applied(make.entry(0), make.entry(1))
    new = replace(make.gpu(7), index=0)
    found = node_gpus(make.inventory(new, make.gpu(1)), have)
    assert indices(found) == {"GPU-0": 0, "GPU-1": 1, "GPU-7": 2}


def test_a_list_that_is_not_complete_loses_nobody() -> None:
    """A GPU that the driver has not listed yet is as it was."""
    have = make.applied(make.entry(0), make.entry(1))
    found = node_gpus(make.inventory(make.gpu(1), complete=False), have)
    assert [(gpu.uuid, gpu.health) for gpu in found] == [("GPU-0", GpuHealth.OK), ("GPU-1", GpuHealth.OK)]


def test_without_a_driver_every_gpu_is_lost() -> None:
    """Nobody can use a GPU whose driver is gone."""
    driver = Inventory(reason=InventoryReason.DRIVER_MISSING, message="no driver")
    found = node_gpus(driver, make.applied(make.entry(0)))
    assert [(gpu.health, gpu.message) for gpu in found] == [(GpuHealth.LOST, "no driver")]


def test_mig_devices_follow_their_gpu() -> None:
    """They have its index, also where that is not the driver's any more."""
    have = make.applied(make.entry(0), AppliedGpu(make.with_mig(1)), AppliedGpu(make.mig(1, 7)))
    driver = make.inventory(*(replace(gpu, index=0) for gpu in (make.with_mig(1), make.mig(1, 7), make.mig(1, 8))))
    found = node_gpus(driver, have)
    assert [gpu.name for gpu in found] == ["GPU 0", "GPU 1", "MIG device 1:7", "MIG device 1:8"]


def test_a_mig_device_that_its_gpu_no_longer_lists_is_no_more() -> None:
    """It was destroyed, and is nobody's fault; so it is when MIG was disabled."""
    have = make.applied(AppliedGpu(make.with_mig(0)), AppliedGpu(make.mig(0, 7)), AppliedGpu(make.mig(0, 8)))
    left = (make.with_mig(0), make.mig(0, 8))
    assert node_gpus(make.inventory(*left), have) == left
    assert node_gpus(make.inventory(make.gpu(0)), have) == (make.gpu(0),)


def test_mig_devices_that_cannot_be_seen_are_not_gone() -> None:
    """A GPU that says why its MIG devices are not known has not lost them: those that are remembered stay, unusable."""
    have = make.applied(AppliedGpu(make.with_mig(0)), AppliedGpu(make.mig(0, 7)))
    silent = replace(make.with_mig(0), message="it takes privilege")
    found = node_gpus(make.inventory(silent), have)
    assert [(gpu.uuid, gpu.health) for gpu in found] == [("GPU-0", GpuHealth.OK), ("MIG-0-7", GpuHealth.LOST)]


def test_the_mig_devices_of_a_lost_gpu_are_lost_with_it() -> None:
    """Nobody can say whether they are there: they stay, as the GPU does, which is listed as lost or not at all."""
    have = make.applied(AppliedGpu(make.with_mig(0)), AppliedGpu(make.mig(0, 7)))
    for driver in (make.inventory(make.with_mig(0, health=GpuHealth.LOST)), make.inventory()):
        found = node_gpus(driver, have)
        assert [(gpu.uuid, gpu.health) for gpu in found] == [("GPU-0", GpuHealth.LOST), ("MIG-0-7", GpuHealth.LOST)]


def test_what_was_in_a_gpu_that_is_gone_is_gone_with_it() -> None:
    """After a reboot without the GPU nothing of it is there."""
    have = unseen(make.applied(AppliedGpu(make.with_mig(0)), AppliedGpu(make.mig(0, 7)), make.entry(1)))
    assert node_gpus(make.inventory(make.gpu(1)), have) == (make.gpu(1),)


def test_a_gpu_that_did_not_come_through_a_reboot_is_gone() -> None:
    """What is remembered from an earlier boot and missing from a complete list was taken out; its index is free."""
    have = unseen(make.applied(make.entry(0), make.entry(1)))
    new = replace(make.gpu(7), index=0)
    found = node_gpus(make.inventory(new, make.gpu(1)), have)
    assert indices(found) == {"GPU-7": 0, "GPU-1": 1}
    unsure = node_gpus(make.inventory(make.gpu(1), complete=False), have)
    assert indices(unsure) == {"GPU-0": 0, "GPU-1": 1}


def test_a_gpu_that_cannot_be_named_after_a_reboot_is_lost_not_gone() -> None:
    """While the driver reports a fault of a GPU that it cannot identify, one that is missing may be that one."""
    have = unseen(make.applied(make.entry(0), make.entry(1)))
    driver = replace(make.inventory(make.gpu(1)), reason=InventoryReason.GPU_HANGS, message="index 0 does not answer")
    found = node_gpus(driver, have)
    assert [(gpu.uuid, gpu.index, gpu.health) for gpu in found] == [
        ("GPU-0", 0, GpuHealth.LOST),
        ("GPU-1", 1, GpuHealth.OK),
    ]


@given(st.permutations(range(5)), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)))
def test_indices_are_unique_and_stay(order: list[int], known: set[int], listed: set[int]) -> None:
    """Whatever is listed in whatever order, no two GPUs share an index, and none that was known changes its own."""
    have = Applied({make.uuid_of(one): AppliedGpu(replace(make.gpu(one), index=order[one])) for one in known})
    driver = make.inventory(*(replace(make.gpu(one), index=place) for place, one in enumerate(sorted(listed))))
    found = node_gpus(driver, have)
    assert len({gpu.index for gpu in found}) == len(found) == len(known | listed)
    assert all(gpu.index == order[one] for gpu in found for one in known if gpu.uuid == make.uuid_of(one))
    again = Applied({gpu.uuid: AppliedGpu(gpu) for gpu in found})
    assert indices(node_gpus(driver, again)) == indices(found)
