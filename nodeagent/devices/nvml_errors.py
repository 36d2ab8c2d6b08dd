"""What NVML's errors mean: of a fact that is not told, of a GPU, and of the driver as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

from nodeagent.model.inventory import GpuHealth, InventoryReason

T = TypeVar("T")

Handle = Any
"""Of a GPU or a MIG device, valid until GPUs come or go. `pynvml` has no types."""

NVMLError = pynvml.NVMLError

_UNLOADED = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})

_NOT_TOLD = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})


class CannotLoad(Exception):
    """There is no NVML library where it should be, or it is not loadable. The message begins with `cannot load`."""


def optional(call: Callable[..., T], *arguments: object) -> T | None:
    """What `call` returns; None where this driver or GPU does not tell."""
    try:
        return call(*arguments)
    except NVMLError as error:
        if is_not_told(error):
            return None
        raise


def is_not_told(error: Any) -> bool:  # noqa: ANN401  # pynvml has no types
    """Whether this driver, or this GPU, does not do what it was asked for, and never will."""
    return error.value in _NOT_TOLD


def who_lacks(error: Any) -> str:  # noqa: ANN401
    """Whose fault it is that something is not told."""
    return "this GPU" if error.value == pynvml.NVML_ERROR_NOT_SUPPORTED else "the installed driver"


def is_refused(error: Any) -> bool:  # noqa: ANN401
    """Whether it is told to others, who have more privilege."""
    return bool(error.value == pynvml.NVML_ERROR_NO_PERMISSION)


def is_unloaded(error: Any) -> bool:  # noqa: ANN401
    """Whether it is the driver that is gone, not a GPU: any call answers so then."""
    return error.value in _UNLOADED


def refusal(error: Any) -> str | None:  # noqa: ANN401
    """Why a GPU that is well does not do what it was asked for; None where it may not be well."""
    if is_refused(error):
        return f"it takes privilege ({error})"
    return f"{who_lacks(error)} does not support it" if is_not_told(error) else None


def library_fault(error: Any) -> tuple[InventoryReason, str, GpuHealth | None]:  # noqa: ANN401
    """What an error of the driver as a whole means: reason, words, and the health of its GPUs if it tells that."""
    if isinstance(error, CannotLoad):
        return InventoryReason.DRIVER_MISSING, str(error), GpuHealth.LOST
    match error.value:
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            message = "cannot load libnvidia-ml.so.1: it is not there, or not loadable"
            return InventoryReason.DRIVER_MISSING, message, GpuHealth.LOST
        case pynvml.NVML_ERROR_DRIVER_NOT_LOADED | pynvml.NVML_ERROR_UNINITIALIZED:
            message = "cannot ask NVML: the NVIDIA kernel driver is not loaded"
            return InventoryReason.DRIVER_MISSING, message, GpuHealth.LOST
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            message = "kernel driver and library differ in version; restart the agent to load the right one"
        case _:
            message = str(error)
    return InventoryReason.DRIVER_ERROR, f"cannot ask NVML: {message}", None
