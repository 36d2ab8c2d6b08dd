"""GPUs and MIG devices of a status document as people call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from nodeagent.commands.client import Status
from nodeagent.model.inventory import Gpu, GpuHealth, MigDevice

_HEALTH: Final = {health.value: health for health in GpuHealth}


def named(gpu: Mapping[str, Any]) -> Gpu:
    """Enough of a GPU to be called by its name. An agent without a word of MIG has whole GPUs only."""
    told = gpu.get("mig")
    mig = told and MigDevice(told["parent"], told["profile"], told["gpuInstance"], told["computeInstance"])
    health = _HEALTH.get(gpu["health"], GpuHealth.HANG)
    return Gpu(gpu["uuid"], gpu["index"], gpu["model"], gpu["memoryBytes"], health=health, mig=mig)


def by_name(status: Status) -> dict[str, Gpu]:
    """Those that the node has, by how its drift and its plan call them."""
    return {gpu.name: gpu for gpu in map(named, status["gpus"])}
