"""XIDs as NVML reports them: a set in which one GPU is registered, and which is waited for.

Each GPU has a set of its own. In a set of several the one that is lost fails all waits for the others, and an event is
known by a handle alone. NVML calls no operation on a set safe beside another one: whoever makes a set is the only one
to touch it, from then until it is freed.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter

import pynvml

from nodeagent.devices.nvml_calls import at
from nodeagent.devices.nvml_errors import Handle, NVMLError
from nodeagent.model.health import XidSource

_XID = pynvml.nvmlEventTypeXidCriticalError

_NO_INSTANCE = 0xFFFFFFFF

MOST_AT_ONCE = 1000
"""Events after which a wait is over though there are more, so that a burst leaves the processor to others."""


class EventSet:
    """A set of NVML's with the GPU at `index` in it, whose XIDs, and those of its MIG devices, come in from now on.

    Making it raises NVMLError, one that `is_not_told` where the driver or this GPU reports none; nothing is left then.
    """

    def __init__(self, index: int, uuid: str) -> None:
        self._uuid = uuid
        self._set = pynvml.nvmlEventSetCreate()
        try:
            at(index, uuid, self._register)
        except BaseException:
            self.free()
            raise

    def wait(self, seconds: float) -> Counter[XidSource]:
        """All XIDs that have come in, as soon as there is one; none after this time. Raises NVMLError."""
        found: Counter[XidSource] = Counter()
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
                found[self._source(event)] += 1
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
        with contextlib.suppress(NVMLError):
            pynvml.nvmlEventSetFree(self._set)

    def _register(self, handle: Handle) -> None:
        if not pynvml.nvmlDeviceGetSupportedEventTypes(handle) & _XID:
            raise NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        pynvml.nvmlDeviceRegisterEvents(handle, _XID, self._set)

    def _source(self, event: pynvml.c_nvmlEventData_t) -> XidSource:
        return XidSource(
            self._uuid,
            int(event.eventData),
            None if event.gpuInstanceId == _NO_INSTANCE else event.gpuInstanceId,
            None if event.computeInstanceId == _NO_INSTANCE else event.computeInstanceId,
        )
