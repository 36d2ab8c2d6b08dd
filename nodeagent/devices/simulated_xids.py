"""XIDs of simulated GPUs: which ones a simulation file tells of, and which of them are news.

A real driver reports what happens while somebody listens, and nothing twice. A file has no such moment, so each XID in
it bears a number, and one is reported when its number is seen for the first time: but for what stands in the file when
it is first read, which is the past.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nodeagent.documents.tree import Path
from nodeagent.model.health import EventsReason, XidLog, XidSource, counted
from nodeagent.model.inventory import Gpu

MOST_KNOWN: Final = 100_000
"""So many seqs are remembered at least, of all GPUs."""


@dataclass(frozen=True, slots=True)
class SimulatedXid:
    """One event. `seq` tells it from the others of its GPU."""

    source: XidSource
    seq: int


def xids(gpu: Gpu, parts: Sequence[Gpu], entry: Mapping[str, Any]) -> Iterator[SimulatedXid]:
    """Those of one GPU of this entry, `parts` being its MIG devices in the order of the file."""
    for one in entry.get("xids", ()):
        part = parts[one["migDevice"]].mig if "migDevice" in one else None
        instances = (None, None) if part is None else (part.gpu_instance, part.compute_instance)
        yield SimulatedXid(XidSource(gpu.uuid, one["code"], *instances), one["seq"])


def reports(entry: Mapping[str, Any]) -> bool:
    """Whether the GPUs of this entry report XIDs at all."""
    return bool(entry.get("events", True))


def contradictions(entry: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """What a schema cannot say of an entry's XIDs: each thing with its place in the entry."""
    told = entry.get("xids", ())
    if told and not reports(entry):
        yield ("xids",), f"expected no XIDs of a GPU with `events: false`, got {len(told)}; remove them, or it"
    parts = len(entry.get("mig", {}).get("devices", ()))
    seqs: set[int] = set()
    for position, one in enumerate(told):
        if one["seq"] in seqs:
            yield ("xids", position, "seq"), f"expected each seq once, got {one['seq']} again"
        seqs.add(one["seq"])
        if one.get("migDevice", -1) >= parts:
            message = f"expected a position, from 0, in mig.devices, which has {parts}, got {one['migDevice']}"
            yield ("xids", position, "migDevice"), message


class XidNews:
    """Remembers which XIDs have been reported: all that are in the file, and the newest of those that were."""

    def __init__(self) -> None:
        self._told: Sequence[SimulatedXid] | None = None
        self._silent: Sequence[Gpu] = ()
        self._known: dict[tuple[str, int], None] | None = None

    def after(self, log: XidLog, told: Sequence[SimulatedXid], silent: Sequence[Gpu], now: float) -> XidLog:
        """`log` with what is new in the file, `log` itself where nothing is. `told` are all XIDs in it, `silent` the
        GPUs that report none, `now` is in monotonic seconds.
        """
        if told is self._told and silent is self._silent:  # the same file as at the last look
            return log
        self._told, self._silent = told, silent
        seen = dict.fromkeys((one.source.uuid, one.seq) for one in told)
        known = seen if self._known is None else self._known
        fresh = Counter(one.source for one in told if (one.source.uuid, one.seq) not in known)
        self._known = {key: None for key in known if key not in seen} | seen
        for key in list(self._known)[: -max(MOST_KNOWN, len(seen))]:
            del self._known[key]
        message = "; ".join(f"{gpu.uuid}: this GPU does not report XIDs" for gpu in silent)
        reason = EventsReason.NOT_SUPPORTED if silent else EventsReason.WATCHING
        newest = replace(log, reason=reason, message=message, tallies=counted(log.tallies, fresh, now))
        return log if newest == log else newest
