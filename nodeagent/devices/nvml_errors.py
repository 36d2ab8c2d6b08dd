"""What NVML's errors mean: of a fact that is not told, of a GPU, and of the driver as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from nodeagent.model.inventory import DriverChange, GpuHealth, InventoryReason

T = TypeVar("T")

Handle = Any
"""Of a GPU or a MIG device, valid until GPUs come or go. `pynvml` has no types."""

NVMLError = pynvml.NVMLError

_UNLOADED = frozenset({pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED})

_BLOCKED = frozenset({pynvml.NVML_ERROR_UNKNOWN, pynvml.NVML_ERROR_OPERATING_SYSTEM})

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


def is_taken_away(error: Any) -> bool:  # noqa: ANN401
    """Whether it is how NVML answers where it may not open its device nodes. A GPU that is ill may answer so too."""
    return error.value in _BLOCKED


def refusal(error: Any) -> str | None:  # noqa: ANN401
    """Why a GPU that is well does not do what it was asked for; None where it may not be well."""
    if is_refused(error):
        return f"it takes privilege ({error})"
    return f"{who_lacks(error)} does not support it" if is_not_told(error) else None


@dataclass(frozen=True, slots=True)
class LibraryFault:
    """What an error of the driver as a whole means: reason, words, the health of its GPUs if it tells that, and whether
    it is that the driver is another one by now.
    """

    reason: InventoryReason
    message: str
    health: GpuHealth | None = None
    change: DriverChange | None = None


TAKEN_AWAY = (
    "usually the device nodes were taken away from this container, as `systemctl daemon-reload` does with the cgroup "
    "driver systemd; a new container has them again"
)

NEVER_GIVEN = (
    "it has not answered since this process began: usually the container may not open the device nodes, or the driver "
    "of this node is ill"
)

DIFFER = "kernel driver and library of this node differ in version"

MAKES_ONE = "a reboot, or reloading the kernel module, makes them one"


def taken_away(message: str, *, known: bool) -> LibraryFault:
    """Nothing can be asked, and nothing is known to be wrong with the GPUs: they stay as they are. Only where it has
    answered before (`known`) something has changed.
    """
    found = f"cannot ask NVML: {message}: {TAKEN_AWAY if known else NEVER_GIVEN}"
    return LibraryFault(InventoryReason.DRIVER_ERROR, found, change=DriverChange.TAKEN_AWAY if known else None)


def library_fault(error: Any, versions: str = "", *, known: bool = False) -> LibraryFault:  # noqa: ANN401
    """What it means. `versions` are those of kernel driver and library, where they are known; `known`: it has answered
    before.
    """
    if isinstance(error, CannotLoad):
        return LibraryFault(InventoryReason.DRIVER_MISSING, str(error), GpuHealth.LOST)
    match error.value:
        case pynvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            message = "cannot load libnvidia-ml.so.1: it is not there, or not loadable"
            return LibraryFault(InventoryReason.DRIVER_MISSING, message, GpuHealth.LOST)
        case pynvml.NVML_ERROR_DRIVER_NOT_LOADED | pynvml.NVML_ERROR_UNINITIALIZED:
            message = "cannot ask NVML: the NVIDIA kernel driver is not loaded"
            if known:
                message += " any more: it was unloaded, as an upgrade does, and is waited for"
            return LibraryFault(InventoryReason.DRIVER_MISSING, message, GpuHealth.LOST)
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH if not known:
            return LibraryFault(InventoryReason.DRIVER_ERROR, f"cannot ask NVML: {DIFFER}{versions}: {MAKES_ONE}")
        case pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH:
            message = (
                f"cannot ask NVML: kernel driver and library differ in version{versions}: usually the driver was "
                "replaced while this container ran; restart the agent to load the right library"
            )
            return LibraryFault(InventoryReason.DRIVER_ERROR, message, change=DriverChange.REPLACED)
    if is_taken_away(error):
        return taken_away(str(error), known=known)
    return LibraryFault(InventoryReason.DRIVER_ERROR, f"cannot ask NVML: {error}")
