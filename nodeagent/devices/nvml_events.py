"""XIDs as NVML reports them: a set in which one GPU is registered, and which is waited for.

Each GPU has a set of its own. In a set of several the one that is lost fails all waits for the others. NVML calls no
operation on a set safe beside another one: whoever makes a set is the only one to touch it, from then until it is
freed.

Whose an event is it says by a handle. That is the GPU's of the set, or what a library that mixes sets up says: then
the event is of that device. A handle that names nobody is of the GPU that was registered: what has fallen off the bus
cannot be asked for its uuid, and this is the very event that must not be lost.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections import Counter
from typing import Final

import pynvml

from nodeagent.devices.nvml_calls import at
from nodeagent.devices.nvml_errors import Handle, NVMLError
from nodeagent.model.health import XidSource

_XID = pynvml.nvmlEventTypeXidCriticalError

_NO_INSTANCE = 0xFFFFFFFF

_LISTENED_TO: Final[dict[int, str]] = {}
"""The uuids of the GPUs that are in a set, by their handles: no other GPU, which may hang, is asked who it is."""

MOST_AT_ONCE = 1000
"""Events after which a wait is over though there are more, so that a burst leaves the processor to others."""


class EventSet:
    """A set of NVML's with the GPU at `index` in it, whose XIDs, and those of its MIG devices, come in from now on.

    Making it raises NVMLError, one that `is_not_told` where the driver or this GPU reports none; nothing is left then.
    """

    def __init__(self, index: int, uuid: str) -> None:
        self._uuid = uuid
        self._handle: int | None = None
        self._set = pynvml.nvmlEventSetCreate()
        try:
            at(index, uuid, self._register)
        except BaseException:
            self.free()
            raise

    def wait(self, seconds: float) -> Counter[XidSource]:
        """All XIDs that have come in, as soon as there is one; none after this time. Raises NVMLError."""
        found: Counter[XidSource] = Counter()
        asked: dict[int, str] = {}
        milliseconds = int(seconds * 1000)
        for _ in range(MOST_AT_ONCE):
            try:
                event = pynvml.nvmlEventSetWait_v2(self._set, milliseconds)
            except NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT and not found:  # else the next wait tells of it
                    raise
                break
            milliseconds = 0
            if event.eventType == _XID:
                found[self._source(event, asked)] += 1
        return found

    def drain(self, seconds: float) -> Counter[XidSource]:
        """The XIDs that have come in already, as far as they can be had in this time."""
        found: Counter[XidSource] = Counter()
        until = time.monotonic() + seconds
        with contextlib.suppress(NVMLError):
            while more := self.wait(0):
                found += more
                if time.monotonic() >= until:
                    break
        return found

    def free(self) -> None:
        """Give it back. It must not be used any more."""
        if self._handle is not None and _LISTENED_TO.get(self._handle) == self._uuid:
            del _LISTENED_TO[self._handle]
        with contextlib.suppress(NVMLError):
            pynvml.nvmlEventSetFree(self._set)

    def _register(self, handle: Handle) -> None:
        if not pynvml.nvmlDeviceGetSupportedEventTypes(handle) & _XID:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        pynvml.nvmlDeviceRegisterEvents(handle, _XID, self._set)
        self._handle = _number(handle)
        if self._handle is not None:
            _LISTENED_TO[self._handle] = self._uuid

    def _source(self, event: pynvml.c_nvmlEventData_t, asked: dict[int, str]) -> XidSource:
        """`asked` are the uuids of handles that nobody listens to, each of which is asked once."""
        number = _number(event.device)
        if number is None or number == self._handle:
            uuid = self._uuid
        elif number in _LISTENED_TO:
            uuid = _LISTENED_TO[number]
        else:
            uuid = asked[number] = asked.get(number) or self._ask(event.device)
        return XidSource(
            uuid,
            int(event.eventData),
            None if event.gpuInstanceId == _NO_INSTANCE else event.gpuInstanceId,
            None if event.computeInstanceId == _NO_INSTANCE else event.computeInstanceId,
        )

    def _ask(self, device: Handle) -> str:
        try:
            return str(pynvml.nvmlDeviceGetUUID(device))
        except (NVMLError, UnicodeError):
            return self._uuid


def _number(handle: Handle) -> int | None:
    """What tells a handle from others, None for one that names nothing."""
    return ctypes.cast(handle, ctypes.c_void_p).value
