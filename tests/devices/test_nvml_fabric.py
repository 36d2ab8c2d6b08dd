"""The fabric of a GPU, from every state that NVML has for it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.inventory import Inventory, InventoryReason
from tests.devices.worlds import NvmlWorld, gpu

CLIQUE = "b1028956-cfa2-0990-bf4a-5da9abb51763.7"


def found(inventory: Inventory) -> bool:
    """Everything asked was answered."""
    return inventory.reason is InventoryReason.FOUND


@pytest.mark.parametrize(
    "answers",
    [
        {"gpu__0__fabric": 0},
        {"gpu__0__fabric": 1},
        {"gpu__0__fabric": 2},
        {"gpu__0__status": 999},
        {"gpu__0__cluster": "00000000-0000-0000-0000-000000000000"},
        {"gpu__0__error__nvmlDeviceGetGpuFabricInfo": 3},
        {"gpu__0__error__nvmlDeviceGetGpuFabricInfo": 13},
        {"gpu__0__error__nvmlDeviceGetGpuFabricInfo": 999},
        {"gpu__0__error__nvmlDeviceGetGpuFabricInfo": 4},
    ],
    ids=str,
)
async def test_none_unless_it_is_completed(nvml: NvmlWorld, answers: dict[str, object]) -> None:
    """Only a GPU whose fabric manager is done with it has a clique; what it answers until then is no fault of the GPU,
    and the clique is there when it is done.
    """
    attached = replace(gpu(0), clique=CLIQUE)
    nvml.controls.answer((attached, gpu(1)), **answers)
    nvml.install()
    await nvml.start()
    assert (await nvml.inventory(found)).gpus == (gpu(0), gpu(1))
    nvml.has(attached, gpu(1))
    assert (await nvml.inventory(lambda newest: newest.gpus[0].clique is not None)).gpus == (attached, gpu(1))
