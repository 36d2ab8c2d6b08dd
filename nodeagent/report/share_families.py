"""The metric families of shares: how many there are of each state, and who has which.

They are made anew for every scrape, as all families that follow from a snapshot. `share_assignment` is the one with a
series for each thing that is held; it says no more than who holds it, so that what a share goes through adds none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import GpuStatus, ResourceStatus, ShareStatus, Snapshot
from nodeagent.report.families import PREFIX

_ASSIGNMENT: Final = f"{PREFIX}share_assignment"
_AT_ONCE: Final = 500
"""Series that are made into text at once."""


def share_families(snapshot: Snapshot, now: float) -> Iterator[Metric]:
    """Everything that the newest snapshot says of shares; `now` in Unix seconds, for ages."""
    yield from _states(snapshot.resources, now)
    yield _handed_out_twice(snapshot)


def _states(resources: Iterable[ResourceStatus], now: float) -> Iterator[Metric]:
    shares = GaugeMetricFamily(f"{PREFIX}shares", "Advertised shares, by state.", labels=["resource", "state"])
    oldest = GaugeMetricFamily(
        f"{PREFIX}draining_oldest_seconds", "How long the longest drain of a resource lasts.", labels=["resource"]
    )
    for status in resources:
        for state in ShareState:
            shares.add_metric([status.resource, state.value], status.counts.get(state, 0))
        since = status.draining_since
        oldest.add_metric([status.resource], 0.0 if since is None else max(0.0, now - since))
    yield shares
    yield oldest


def _handed_out_twice(snapshot: Snapshot) -> Metric:
    twice = GaugeMetricFamily(
        f"{PREFIX}shares_handed_out_twice", "Shares that the kubelet has given to several pods.", labels=["resource"]
    )
    counts = Counter(one.resource for one in snapshot.shared_twice)
    for resource in sorted(counts.keys() | {status.resource for status in snapshot.resources}):
        twice.add_metric([resource], counts[resource])
    return twice


def assignments(gpus: Iterable[GpuStatus]) -> Iterator[bytes]:
    """Of held shares of which the kubelet says who has them, which container has each: as text, some at a time, since
    Prometheus' library would need a kilobyte of memory for each. The others are counted by state alone.
    """
    yield f"# HELP {_ASSIGNMENT} Always 1: which container has a share.\n# TYPE {_ASSIGNMENT} gauge\n".encode()
    for status in gpus:
        if status.contract is None:
            continue
        resource, uuid = _quoted(status.contract.resource), _quoted(status.gpu.uuid)
        held = (share for share in status.shares if share.holder is not None)
        while some := list(islice(held, _AT_ONCE)):
            yield "".join(_assignment(resource, uuid, share) for share in some).encode()


def _assignment(resource: str, uuid: str, share: ShareStatus) -> str:
    namespace, pod, container = map(_quoted, (share.holder or "//").split("/", 2))
    return (
        f"{_ASSIGNMENT}{{container={container},namespace={namespace},pod={pod},resource={resource}"
        f",share={_quoted(share.id)},uuid={uuid}}} 1.0\n"
    )


def _quoted(value: str) -> str:
    """A value of a label, as the text format has it."""
    escaped = value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
    return f'"{escaped}"'
