"""The metric families that follow from a snapshot, but for those of shares.

They are made anew for every scrape and never stored, so a resource, GPU, daemon or document that is gone leaves no
stale series behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from nodeagent.model.mps import DaemonState
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ConfigState, DriftKind, ResourceStatus, Snapshot

PREFIX = "nodeagent_"


def families(snapshot: Snapshot, now: float, xids: Mapping[tuple[str, int], int]) -> Iterator[Metric]:
    """Everything that the newest snapshot says; `now` in Unix seconds, for ages; `xids` counted by uuid and code."""
    yield from _config(snapshot.config, snapshot.pool)
    yield gauge("in_sync", "Whether the newest document is accepted and fully applied.", snapshot.in_sync)
    yield gauge("settled", "Whether everything is as the accepted document wants it.", snapshot.settled)
    yield from _drift(snapshot, now)
    conditions = GaugeMetricFamily(f"{PREFIX}condition", "Whether a condition holds.", labels=["type", "reason"])
    for condition in snapshot.conditions:
        conditions.add_metric([condition.type, str(condition.reason)], float(condition.status))
    yield conditions
    yield from _transition(snapshot.plan, snapshot.applied)
    yield from _kubelet(snapshot.resources)
    yield from _health(snapshot, xids)
    yield from _daemons(snapshot)


def gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    """A family of one series without labels."""
    return GaugeMetricFamily(PREFIX + name, documentation, value=float(value))


def _config(config: ConfigState, pool: str | None) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        f"{PREFIX}config_info",
        "Always 1: which document is which: desired (the accepted one), applied, or the last known good.",
        labels=["state", "sha256", "git_blob", "revision", "name", "pool"],
    )
    states = {"desired": config.desired, "applied": config.applied, "last_known_good": config.last_known_good}
    for state, document in states.items():
        if document is not None:
            info.add_metric(
                [state, document.sha256, document.git_blob, document.revision or "", document.name or "", pool or ""],
                1.0,
            )
    yield info
    yield gauge(
        "config_using_last_known_good",
        "Whether the last known good document is in force, since the newest is not accepted.",
        config.using_last_known_good,
    )
    yield gauge("config_generation", "How many documents were accepted since the start.", config.generation)
    yield gauge("config_observed_generation", "The last of them that was fully applied.", config.observed_generation)


def _drift(snapshot: Snapshot, now: float) -> Iterator[Metric]:
    differences = GaugeMetricFamily(f"{PREFIX}drift", "Differences between Git and the node.", labels=["kind"])
    ages = GaugeMetricFamily(f"{PREFIX}drift_seconds", "Age of the oldest difference.", labels=["kind"])
    for kind in DriftKind:
        since = [drift.since for drift in snapshot.drift if drift.kind is kind]
        differences.add_metric([kind.value], len(since))
        ages.add_metric([kind.value], max(0.0, now - min(since)) if since else 0.0)
    yield differences
    yield ages


def _transition(plan: Plan, applied: Applied) -> Iterator[Metric]:
    devices = GaugeMetricFamily(
        f"{PREFIX}transition_devices",
        "GPUs and MIG devices of which shares are wanted, by how far they are.",
        labels=["state"],
    )
    waves = plan.waves
    states = {"changed": waves.changed, "under_way": len(waves.under_way), "waiting": len(waves.waiting)}
    for state, number in states.items():
        devices.add_metric([state], number)
    yield devices
    refused = GaugeMetricFamily(
        f"{PREFIX}gpu_plan_refused", "Whether the plan for a GPU would break an invariant.", labels=["uuid"]
    )
    broken = {one.uuid for one in plan.refused}
    for uuid in sorted(broken | {uuid for uuid, entry in applied.gpus.items() if entry.gpu.mig is None}):
        refused.add_metric([uuid], float(uuid in broken))
    yield refused


def _kubelet(resources: Iterable[ResourceStatus]) -> Iterator[Metric]:
    registrations = CounterMetricFamily(
        f"{PREFIX}kubelet_registrations", "Registrations with the kubelet, by result.", labels=["resource", "result"]
    )
    streams = GaugeMetricFamily(f"{PREFIX}kubelet_streams", "Streams that the kubelet has open.", labels=["resource"])
    for status in resources:
        registration = status.registration
        registrations.add_metric([status.resource, "ok"], registration.registrations if registration else 0)
        registrations.add_metric([status.resource, "failed"], registration.failures if registration else 0)
        streams.add_metric([status.resource], registration.streams if registration else 0)
    yield registrations
    yield streams


def _health(snapshot: Snapshot, xids: Mapping[tuple[str, int], int]) -> Iterator[Metric]:
    healthy = GaugeMetricFamily(
        f"{PREFIX}gpu_healthy", "Whether the driver says a GPU is well, and no XID stands against it.", labels=["uuid"]
    )
    for uuid, entry in snapshot.applied.gpus.items():
        healthy.add_metric([uuid], float(entry.well))
    yield healthy
    events = CounterMetricFamily(
        f"{PREFIX}gpu_xid_events", "XIDs that the driver has reported of a GPU or MIG device.", labels=["uuid", "xid"]
    )
    for (uuid, xid), count in xids.items():
        events.add_metric([uuid, str(xid)], count)
    yield events
    unplaced = CounterMetricFamily(
        f"{PREFIX}gpu_xid_events_unplaced", "XIDs of a GPU, or of instances, that nobody has.", labels=["uuid"]
    )
    whole = {uuid for uuid, entry in snapshot.applied.gpus.items() if entry.gpu.mig is None}
    for uuid in sorted(whole | snapshot.xids.unplaced.keys()):
        unplaced.add_metric([uuid], snapshot.xids.unplaced.get(uuid, 0))
    yield unplaced


def _daemons(snapshot: Snapshot) -> Iterator[Metric]:
    """Of every MPS daemon that must run or is still there. One that is not known has no counts, since they go on from
    where they were when it is known again.
    """
    up = GaugeMetricFamily(
        f"{PREFIX}mps_daemon_up",
        "Whether the MPS daemon of a GPU answers, with the limits of its contract.",
        labels=["uuid"],
    )
    restarts = CounterMetricFamily(
        f"{PREFIX}mps_daemon_restarts", "Starts of MPS daemons that nobody asked for.", labels=["uuid"]
    )
    restored = CounterMetricFamily(
        f"{PREFIX}mps_limits_restored", "Limits that a client had changed, set again.", labels=["uuid"]
    )
    contracts = {
        uuid: entry.contract
        for uuid, entry in snapshot.applied.gpus.items()
        if entry.contract is not None and entry.contract.limits is not None
    }
    for uuid in sorted(contracts.keys() | snapshot.mps.daemons.keys()):
        daemon = snapshot.mps.daemons.get(uuid)
        ready = daemon is not None and daemon.state is DaemonState.READY and daemon.contract == contracts.get(uuid)
        up.add_metric([uuid], float(ready))
        if daemon is not None:
            restarts.add_metric([uuid], daemon.restarts)
            restored.add_metric([uuid], daemon.restored)
    yield up
    yield restarts
    yield restored
