"""The pools that are shipped as overlays: which GPUs a node of each has, and what its config makes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import yaml

Gpus = Sequence[Mapping[str, Any]]


def _gpus(model: str, memory: str, capability: str, count: int, *profiles: str) -> dict[str, Any]:
    """An entry of a simulation file; with profiles each of these GPUs has MIG devices of them."""
    mig = {"mig": {"devices": list(profiles)}} if profiles else {}
    return {"model": model, "memory": memory, "computeCapability": capability, "count": count, **mig}


def simulated_node(gpus: Gpus) -> str:
    """A simulation file of these entries."""
    document = {
        "apiVersion": "nodeagent.io/v1alpha1",
        "kind": "SimulatedNode",
        "driverVersion": "550.163.01",
        "cudaVersion": "12.4",
        "gpus": [dict(entry) for entry in gpus],
    }
    return str(yaml.safe_dump(document, sort_keys=False))


GPUS: Final[dict[str, Gpus]] = {
    "a100-inference": [_gpus("NVIDIA A100-SXM4-40GB", "40Gi", "8.0", 8)],
    "a100-mig": [
        _gpus("NVIDIA A100-SXM4-40GB", "40Gi", "8.0", 4),
        _gpus("NVIDIA A100-SXM4-40GB", "40Gi", "8.0", 3, "3g.20gb", "2g.10gb", "1g.5gb", "1g.5gb"),
        _gpus("NVIDIA A100-SXM4-40GB", "40Gi", "8.0", 1, *["1g.5gb"] * 7),
    ],
    "h100-training": [_gpus("NVIDIA H100 80GB HBM3", "81559Mi", "9.0", 8)],
    "mixed": [
        _gpus("NVIDIA H100 PCIe", "81559Mi", "9.0", 2),
        _gpus("NVIDIA A100-PCIE-40GB", "40Gi", "8.0", 2),
        _gpus("NVIDIA A100 80GB PCIe", "81920Mi", "8.0", 1),
        _gpus("Tesla T4", "15360Mi", "7.5", 2),
    ],
    "t4-dev": [_gpus("Tesla T4", "15360Mi", "7.5", 4)],
}
"""The GPUs of a node of each pool."""

POOLS: Final = [*GPUS]

OFFERED: Final[dict[str, dict[str, int]]] = {
    "a100-inference": {"nvidia.com/gpu.mps": 24, "nvidia.com/gpu.shared": 16},
    "a100-mig": {
        "nvidia.com/gpu": 4,
        "nvidia.com/mig-3g.20gb": 3,
        "nvidia.com/mig-2g.10gb": 3,
        "nvidia.com/mig-1g.5gb": 3 * 2 + 7,
    },
    "h100-training": {"nvidia.com/gpu": 8},
    "mixed": {"nvidia.com/gpu": 3, "nvidia.com/gpu.mps": 8, "nvidia.com/gpu.shared": 8},
    "t4-dev": {"nvidia.com/gpu.shared": 32},
}
"""What its config makes of them: how many devices of each resource."""
