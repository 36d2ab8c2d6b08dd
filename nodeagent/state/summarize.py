"""One turn as one immutable value: the snapshot that every report is made from.

What lasts from turn to turn (since when a condition is as it is, since when a difference has been there) is carried
over from the snapshot before, so that a snapshot follows from the facts of its turn and its predecessor alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nodeagent.model.config import LabelTerms
from nodeagent.model.holds import ShareKey
from nodeagent.model.shares import Listing
from nodeagent.model.snapshot import Condition, Reload, Snapshot
from nodeagent.state.desired import Desired
from nodeagent.state.drift import aged, drift
from nodeagent.state.kubelet_view import View
from nodeagent.state.overview import gpu_statuses, resource_statuses
from nodeagent.state.status import Facts, Reason, conditions


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this agent is, for the reports; `started_at`, `machine` and `timestamp` as in the snapshot."""

    node: str
    pool: str | None
    version: str
    config_path: str
    started_at: float
    machine: str = "unknown"
    timestamp: int = 0


@dataclass(frozen=True, slots=True)
class Turn:
    """What a turn ended with, beside the facts from which conditions follow. `held_since`: of shares that count as held
    though PodResources names nobody, since when (monotonic seconds).
    """

    facts: Facts
    desired: Desired | None = None
    held: frozenset[ShareKey] = frozenset()
    held_since: Mapping[ShareKey, float] = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    listings: Mapping[str, Listing] = field(default_factory=dict)
    reloads: tuple[Reload, ...] = ()
    terms: LabelTerms = field(default_factory=LabelTerms)


def summarize(identity: Identity, turn: Turn, before: Snapshot | None) -> Snapshot:
    """The snapshot of this turn."""
    facts = turn.facts
    settled = turn.desired is not None and facts.plan.converged
    gpus = gpu_statuses(
        facts.applied,
        turn.desired,
        facts.plan,
        turn.held,
        pods=facts.pods,
        mps=facts.mps,
    )
    found = drift(
        config=facts.config,
        desired=turn.desired,
        applied=facts.applied,
        inventory=facts.inventory,
        mps=facts.mps,
        registrations=facts.registrations,
        views=turn.views,
        node=facts.node,
    )
    return Snapshot(
        revision=before.revision + 1 if before is not None else 1,
        at=facts.now,
        started_at=identity.started_at,
        node=identity.node,
        pool=identity.pool,
        version=identity.version,
        config=facts.config,
        inventory=facts.inventory,
        mps=facts.mps,
        xids=facts.xids,
        applied=facts.applied,
        conditions=conditions(facts, before.conditions if before is not None else ()),
        gpus=gpus,
        resources=resource_statuses(gpus, facts.registrations, facts.draining),
        drift=aged(found, before.drift if before is not None else (), facts.now),
        plan=facts.plan,
        reloads=turn.reloads,
        listings=turn.listings,
        machine=identity.machine,
        timestamp=identity.timestamp,
        held_since=turn.held_since,
        terms=turn.terms,
        handover=facts.handover,
        host_files=facts.host_files,
        node_object=facts.node,
        shared_twice=facts.shared_twice,
        in_sync=settled and facts.config.newest is not None and facts.config.newest == facts.config.applied,
        settled=settled,
    )


def failing(before: Snapshot, message: str, now: float) -> Snapshot:
    """The snapshot of an agent whose turns fail: everything as it was, and not ready. `now` in monotonic seconds."""
    known = before.condition("Ready")
    since = known.since if known is not None and known.reason == Reason.FAILING else now
    ready = Condition("Ready", False, Reason.FAILING, message, since)
    others = tuple(entry for entry in before.conditions if entry.type != "Ready")
    return replace(before, conditions=(ready, *others), in_sync=False, settled=False)
