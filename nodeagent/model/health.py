"""XIDs: what the driver reports of a GPU's faults, and the policy that says which of them make it unhealthy.

The meaning of a code is that of NVIDIA's "XID Errors" document. Application errors say something of a program, not of
the GPU; those that NVIDIA's plugin ignores are ignored here by default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

APPLICATION_XIDS = frozenset({13, 31, 43, 45, 68, 109})
"""What a program alone can cause: ignored by NVIDIA's plugin (FACTS), and by ours unless the config says otherwise."""

_MEANINGS: Mapping[int, str] = {
    13: "graphics engine exception",
    31: "GPU memory page fault",
    43: "GPU stopped processing",
    45: "preemptive cleanup, due to previous errors",
    48: "double-bit ECC error",
    61: "internal micro-controller breakpoint",
    62: "internal micro-controller halt",
    63: "memory page retirement or row remapping",
    64: "memory page retirement or row remapping failed",
    68: "video processor exception",
    69: "graphics engine class error",
    74: "NVLink error",
    79: "GPU has fallen off the bus",
    92: "high single-bit ECC error rate",
    94: "contained ECC error",
    95: "uncontained ECC error",
    109: "context switch timeout",
    119: "GSP RPC timeout",
    120: "GSP error",
}


def meaning(xid: int) -> str | None:
    """What a code means, None where it is not known here."""
    return _MEANINGS.get(xid)


def describe_xids(xids: Iterable[int]) -> str:
    """`XID 79 (GPU has fallen off the bus)`, several joined by `, `, in ascending order."""
    return ", ".join(f"XID {xid} ({_MEANINGS[xid]})" if xid in _MEANINGS else f"XID {xid}" for xid in sorted(set(xids)))


class XidSource(NamedTuple):
    """What an XID was reported of: a GPU by its uuid, or one MIG device of it by its instances. Of a GPU without MIG
    instances mean nothing.
    """

    uuid: str
    xid: int
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True, slots=True)
class XidTally:
    """How often it was reported since the agent started, and when last (monotonic seconds)."""

    count: int
    last: float


def counted(
    tallies: Mapping[XidSource, XidTally], found: Mapping[XidSource, int], now: float
) -> dict[XidSource, XidTally]:
    """The tallies with what was found besides; whatever came now (monotonic seconds) stands last."""
    counts = dict(tallies)
    for source, count in found.items():
        before = counts.pop(source, XidTally(0, now))
        counts[source] = XidTally(before.count + count, now)
    return counts


class EventsReason(Enum):
    """Reasons of the condition HealthWatched."""

    PENDING = "Pending"
    WATCHING = "Watching"
    NOT_SUPPORTED = "NotSupported"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class XidLog:
    """All XIDs since the agent started, as counts: a burst of them is as large as one. `reason` says whether the driver
    reports them at all, `message` of which GPUs it does not and why. `unplaced` counts those, by the uuid that was
    named, that turned out to be nobody's: of a GPU that is not known, or of instances that no MIG device has.
    """

    reason: EventsReason = EventsReason.PENDING
    message: str = "no GPU has been asked for its events yet"
    tallies: Mapping[XidSource, XidTally] = field(default_factory=dict)
    unplaced: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """Which XIDs make a GPU unhealthy, and which of those it may recover from by itself.

    `critical` None: all but `ignored`. Otherwise those alone; `ignored` then means nothing. `recover_after` is in
    seconds, None for never; it concerns GPUs with no XID but those of `recoverable`.
    """

    ignored: frozenset[int] = APPLICATION_XIDS
    critical: frozenset[int] | None = None
    recover_after: float | None = None
    recoverable: frozenset[int] = frozenset()

    def is_critical(self, xid: int) -> bool:
        return xid not in self.ignored if self.critical is None else xid in self.critical

    def recovers_at(self, xids: Mapping[int, float]) -> float | None:
        """When a GPU with these XIDs, by when each came last, is healthy again by itself; None for never. In the
        seconds of `xids`.
        """
        if self.recover_after is None or not xids or not xids.keys() <= self.recoverable:
            return None
        return max(xids.values()) + self.recover_after
