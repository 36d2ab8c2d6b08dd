"""What Prometheus sees: counters and histograms as things happen, all else from the newest snapshot at the scrape.

Only this module, `families` and `share_families` speak to `prometheus_client`; its default registry is not used, and
`_created` series are off.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from threading import Lock

from prometheus_client import disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics import Counter, Histogram
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from nodeagent import clocks
from nodeagent.model.config import Stage
from nodeagent.model.moment import Moment
from nodeagent.model.snapshot import ChangeClass, ReloadResult, Snapshot
from nodeagent.report.dates import dated
from nodeagent.report.families import PREFIX, families, gauge
from nodeagent.report.share_families import assignments, share_families
from nodeagent.report.xids import XidCounts

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_PYTHON = platform.python_version()

APPLY, VERIFY = "apply", "verify"
"""Stages of a reload whose document was accepted: it could not be carried out, or a daemon that it asks for was not
ready in time. The others are `Stage`."""

_RELOAD_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_ALLOCATION_BUCKETS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1)


_CALLS = {
    "list": ("ok", "limited", "failed"),
    "get": ("ok", "not_found", "not_served", "limited", "failed"),
    "get_allocatable": ("ok", "limited", "failed"),
}


class Metrics:
    """All metrics of one agent. `snapshot` gives the newest one, None before the first; `clock` is asked for now.

    `reload`, `allocation` and `pod_resources_call` may be called from one thread while another calls `render`.
    """

    def __init__(
        self, snapshot: Callable[[], Snapshot | None], *, version: str, clock: Callable[[], Moment] = clocks.now
    ) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._snapshot = snapshot
        self._registry = CollectorRegistry()
        self._outcome = _Outcome(clock)
        self._reloads = self._counter("config_reloads", "Looks at a document, by how they ended.", "result")
        self._failures = self._counter(
            "config_reload_failures", "Documents that were not applied, by how far they came.", "stage"
        )
        self._changes = self._counter("config_changes", "Accepted documents, by what they do to the shares.", "class")
        self._durations = Histogram(
            f"{PREFIX}config_reload_duration_seconds",
            "Time from the file's event to the last stream updated.",
            registry=self._registry,
            buckets=_RELOAD_BUCKETS,
        )
        self._allocations = self._counter("allocations", "Answers to Allocate, by result.", "resource", "result")
        self._allocation_durations = Histogram(
            f"{PREFIX}allocation_duration_seconds",
            "Time to answer Allocate.",
            ["resource"],
            registry=self._registry,
            buckets=_ALLOCATION_BUCKETS,
        )
        self._calls = self._counter(
            "pod_resources_calls", "Calls of the kubelet's PodResources, by how they ended.", "call", "result"
        )
        self._unquiet = self._counter(
            "pod_resources_lists_without_window", "Calls of List while pods were being admitted, after waiting in vain."
        )
        self._allocated: dict[str, set[str]] = {}
        self._allocated_lock = Lock()
        # A series that appears with its first event has no increase for `rate` to see: start them all at 0.
        for result in ReloadResult:
            self._reloads.labels(result.value)
        for stage in (*(stage.value for stage in Stage), APPLY, VERIFY):
            self._failures.labels(stage)
        for change in ChangeClass:
            self._changes.labels(change.value)
        for call, results in _CALLS.items():
            for result_ in results:
                self._calls.labels(call, result_)
        self._registry.register(_SnapshotCollector(snapshot, self._outcome, version, clock))
        ProcessCollector(registry=self._registry)

    def _counter(self, name: str, documentation: str, *labels: str) -> Counter:
        return Counter(PREFIX + name, documentation, labels, registry=self._registry)

    def reload(
        self, result: ReloadResult, stage: str | None, change: ChangeClass | None, duration: float | None
    ) -> None:
        """Count one reload.

        `stage` says how far a rejected (`Stage`) or failed (`APPLY`, `VERIFY`) one came, `change` what an accepted one
        does, `duration` how many seconds passed from the file's event to the last stream updated.
        """
        self._reloads.labels(result.value).inc()
        if stage is not None:
            self._failures.labels(stage).inc()
        if change is not None:
            self._changes.labels(change.value).inc()
        if duration is not None:
            self._durations.observe(duration)
        self._outcome.note(result)

    def allocation(self, resource: str, result: str, seconds: float) -> None:
        """Count one Allocate: `result` is `ok` or why it was refused; the answer took `seconds`."""
        with self._allocated_lock:
            self._allocated.setdefault(resource, set()).add(result)
            self._allocations.labels(resource, result).inc()
            self._allocation_durations.labels(resource).observe(seconds)

    def pod_resources_call(self, call: str, result: str) -> None:
        """Count one call of PodResources: `list`, `get` or `get_allocatable`, and how it ended."""
        self._calls.labels(call, result).inc()

    def list_without_window(self) -> None:
        """Count a `List` that found no quiet moment in time."""
        self._unquiet.inc()

    def render(self) -> Iterator[bytes]:
        """Everything in Prometheus' text format (`CONTENT_TYPE`), in pieces: who has which share may be very much."""
        snapshot = self._snapshot()
        if snapshot is not None:
            self._forget_all_but({status.resource for status in snapshot.resources})
        gpus = snapshot.gpus if snapshot is not None else None
        del snapshot  # a slow client shall not keep all of it
        yield generate_latest(self._registry)
        if gpus is not None:
            yield from assignments(gpus)

    def _forget_all_but(self, served: set[str]) -> None:
        """Drop the counters of resources that are served no more: names come from Git and may change without end."""
        with self._allocated_lock:
            for resource in self._allocated.keys() - served:
                for result in self._allocated.pop(resource):
                    self._allocations.remove(resource, result)
                self._allocation_durations.remove(resource)


class _Outcome:
    """How the last reload ended, as far as the snapshot does not tell."""

    def __init__(self, clock: Callable[[], Moment]) -> None:
        self._clock = clock
        self._failed = False
        self._succeeded_at: float | None = None

    def note(self, result: ReloadResult) -> None:
        if result is ReloadResult.FAILED:
            self._failed = True
        elif result is ReloadResult.ACCEPTED:
            self._failed = False
        if result in {ReloadResult.ACCEPTED, ReloadResult.UNCHANGED} and not self._failed:
            self._succeeded_at = self._clock().monotonic

    def families(self, snapshot: Snapshot, zero: float) -> Iterator[Metric]:
        """`zero` as in `Moment`."""
        if self._failed and snapshot.in_sync:
            # What failed was tried again and went through.
            self._failed = False
            self._succeeded_at = snapshot.at
        accepted = snapshot.condition("ConfigAccepted")
        yield gauge(
            "config_last_reload_successful",
            "Whether the newest document is accepted and nothing that it asks for failed (waiting is not failing).",
            accepted is not None and accepted.status and not self._failed and not snapshot.plan.refused,
        )
        yield gauge(
            "config_last_reload_success_timestamp_seconds",
            "When a reload last succeeded, in Unix time; 0 for never.",
            0.0 if self._succeeded_at is None else zero + self._succeeded_at,
        )


class _SnapshotCollector(Collector):
    """Every family that is computed from the newest snapshot, but for who has which share."""

    def __init__(
        self, snapshot: Callable[[], Snapshot | None], outcome: _Outcome, version: str, clock: Callable[[], Moment]
    ) -> None:
        self._snapshot = snapshot
        self._outcome = outcome
        self._version = version
        self._clock = clock
        self._xids = XidCounts()

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily(f"{PREFIX}build_info", "Always 1: which agent this is.", labels=["version", "python"])
        build.add_metric([self._version, _PYTHON], 1.0)
        yield build
        snapshot = self._snapshot()
        if snapshot is None:
            return
        now = self._clock()
        yield from self._outcome.families(snapshot, now.zero)
        xids, snapshot = self._xids.of(snapshot), dated(snapshot, now)
        yield from families(snapshot, now.wall, xids)
        yield from share_families(snapshot, now.wall)
