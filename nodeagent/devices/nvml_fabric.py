"""Which NVLink fabric a GPU is attached to, as NVIDIA's gpu-feature-discovery tells it.

(Plugin 0.20: internal/lm/imex.go, and IsFabricAttached of go-nvlib.) Everything here blocks, for ever where the driver
does.
"""

from __future__ import annotations

import ctypes
import uuid
from typing import Final

import pynvml

from nodeagent.devices.nvml_errors import Handle, NVMLError

_COMPLETED: Final = 3
"""NVML_GPU_FABRIC_STATE_COMPLETED: the fabric manager has set this GPU up."""


class _FabricInfo(ctypes.Structure):
    """`nvmlGpuFabricInfo_t`: that of some releases of pynvml has not the size of the library's."""

    _fields_ = (
        ("cluster", ctypes.c_ubyte * 16),
        ("status", ctypes.c_uint),
        ("clique", ctypes.c_uint),
        ("state", ctypes.c_ubyte),
    )


def clique(handle: Handle) -> str | None:
    """Cluster and clique, as in `b1028956-cfa2-0990-bf4a-5da9abb51763.32766`; None where the GPU is attached to no
    fabric, is not yet, or the driver does not say. What the fabric does is no fault of the GPU.
    """
    info = _FabricInfo()
    try:
        pynvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info))
    except (NVMLError, AttributeError):
        return None
    cluster = bytes(info.cluster)
    if info.state != _COMPLETED or info.status != pynvml.NVML_SUCCESS or not any(cluster):
        return None
    return f"{uuid.UUID(bytes=cluster)}.{info.clique}"
