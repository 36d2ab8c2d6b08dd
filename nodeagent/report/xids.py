"""XIDs by what has them: the whole GPU, or the MIG device that their instances are.

The driver numbers instances, and a number is given to another MIG device when a GPU is partitioned anew. So each XID is
put down to whoever had its instances when it was counted, and stays there: a series never takes over what another one
had, and it goes with its GPU or MIG device.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

from nodeagent.model.health import XidSource
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import Snapshot


class XidCounts:
    """How often each XID came, by uuid and code. Several threads may ask at once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._taken: dict[XidSource, int] = {}
        self._counts: dict[tuple[str, int], int] = {}

    def of(self, snapshot: Snapshot) -> Mapping[tuple[str, int], int]:
        """All counts, with what this snapshot has more than the one before."""
        tallies, known = snapshot.xids.tallies, snapshot.applied.gpus
        with self._lock:
            news = {
                source: tally.count
                for source, tally in tallies.items()
                if source.uuid in known and tally.count > self._taken.get(source, 0)
            }
            if news:
                owners = _owners(snapshot.applied)
                for source, count in news.items():
                    key = (_owner(source, owners), source.xid)
                    self._counts[key] = self._counts.get(key, 0) + count - self._taken.get(source, 0)
                    self._taken[source] = count
            self._counts = {key: count for key, count in self._counts.items() if key[0] in known}
            return dict(sorted(self._counts.items()))


Instances = tuple[str, int, int | None]
"""A GPU, and the numbers of a GPU instance and of a compute instance of it; None stands for any."""


def _owners(applied: Applied) -> dict[Instances, str]:
    """Which MIG device has which instances. One that was destroyed has them no more, unless nobody has."""
    owners: dict[Instances, str] = {}
    parts = [entry.gpu for entry in applied.ordered() if entry.gpu.mig is not None]
    for gpu in sorted(parts, key=lambda gpu: gpu.health is GpuHealth.LOST):
        if gpu.mig is not None:
            owners.setdefault((gpu.mig.parent, gpu.mig.gpu_instance, gpu.mig.compute_instance), gpu.uuid)
            owners.setdefault((gpu.mig.parent, gpu.mig.gpu_instance, None), gpu.uuid)
    return owners


def _owner(source: XidSource, owners: Mapping[Instances, str]) -> str:
    if source.gpu_instance is None:
        return source.uuid
    return owners.get((source.uuid, source.gpu_instance, source.compute_instance), source.uuid)
