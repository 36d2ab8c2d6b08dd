"""The MIG devices of a GPU, as NVML lists them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pynvml

from nodeagent.devices.nvml_errors import Handle, NVMLError, optional
from nodeagent.model.inventory import Gpu, MigAttributes, MigDevice

_GONE = frozenset({pynvml.NVML_ERROR_NOT_FOUND, pynvml.NVML_ERROR_INVALID_ARGUMENT})
"""What a position answers in which there is no MIG device, and a device that goes while it is asked."""

_EIGHTHS = 8
"""A profile's memory is told in gigabytes of what a GPU would have if it came in eighths."""

_MIB = 1 << 20
_GIB = 1 << 30


def mode(handle: Handle) -> tuple[bool, bool]:
    """Whether a GPU can be divided, which has no mode else, and whether MIG is in force on it, whatever mode it shall
    have after its next reset.
    """
    modes = optional(pynvml.nvmlDeviceGetMigMode, handle)
    return modes is not None, modes is not None and modes[0] == pynvml.NVML_DEVICE_MIG_ENABLE


def devices(handle: Handle, gpu: Gpu) -> Iterator[Gpu]:
    """The MIG devices of a GPU on which MIG is in force. Raises NVMLError."""
    for position in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        device = _at(handle, position, gpu)
        if device is not None:
            yield device


def _at(handle: Handle, position: int, gpu: Gpu, *, again: bool = True) -> Gpu | None:
    """The MIG device at a position, None where there is none. Only the position can tell that one was destroyed: where
    a device seems to go while it is asked, the position is asked `again`.
    """
    try:
        device = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, position)
    except NVMLError as error:
        if error.value in _GONE:
            return None
        raise
    try:
        return _read(device, gpu)
    except NVMLError as error:
        if error.value in _GONE and again:
            return _at(handle, position, gpu, again=False)
        raise


def _read(handle: Handle, gpu: Gpu) -> Gpu:
    """Everything about one MIG device: what is its own, and the rest as of its GPU."""
    memory = optional(pynvml.nvmlDeviceGetMemoryInfo, handle)
    return replace(
        gpu,
        uuid=pynvml.nvmlDeviceGetUUID(handle),
        memory=0 if memory is None else memory.total,
        mig_enabled=False,
        mig_capable=False,
        mig=MigDevice(
            parent=gpu.uuid,
            profile=_profile(handle, gpu.memory),
            gpu_instance=pynvml.nvmlDeviceGetGpuInstanceId(handle),
            compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(handle),
            attributes=_attributes(handle),
        ),
    )


def _attributes(handle: Handle) -> MigAttributes | None:
    """What a MIG device is made of. It is for labels only: whatever the answer is, the device is as well as before."""
    try:
        of = pynvml.nvmlDeviceGetAttributes_v2(handle)
    except NVMLError:
        return None
    return MigAttributes(
        memory=of.memorySizeMB,
        multiprocessors=of.multiprocessorCount,
        slices_gi=of.gpuInstanceSliceCount,
        slices_ci=of.computeInstanceSliceCount,
        engines_copy=of.sharedCopyEngineCount,
        engines_decoder=of.sharedDecoderCount,
        engines_encoder=of.sharedEncoderCount,
        engines_jpeg=of.sharedJpegCount,
        engines_ofa=of.sharedOfaCount,
    )


def _profile(handle: Handle, total: int) -> str:
    """`1g.5gb`: the end of the device's name, or, with drivers that name it as its GPU, what it is made of."""
    _, _, told = str(pynvml.nvmlDeviceGetName(handle)).partition(" MIG ")
    return told.strip() or _computed_profile(handle, total)


def _computed_profile(handle: Handle, total: int) -> str:
    """As NVIDIA's own libraries work it out, `total` being the memory of the GPU."""
    of = pynvml.nvmlDeviceGetAttributes_v2(handle)
    eighths = -(-of.memorySizeMB * _MIB * _EIGHTHS // total) if total else 0
    gigabytes = (eighths * -(-total // _GIB) + _EIGHTHS // 2) // _EIGHTHS
    slices, computing = of.gpuInstanceSliceCount, of.computeInstanceSliceCount
    compute = f"{computing}c." if computing != slices else ""
    return f"{compute}{slices}g.{gigabytes}gb"
