"""A snapshot as it is shown: its times, which are monotonic, as Unix seconds by the wall clock of this moment.

Whoever has set that clock since finds all times moved with it, and every age as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nodeagent.model.moment import Moment
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import Snapshot


def dated(snapshot: Snapshot, now: Moment) -> Snapshot:
    """The same, all times in Unix seconds as the wall clock is set now."""
    zero = now.zero
    applied = {
        uuid: replace(entry, xids=_dated(entry.xids, zero)) if entry.xids else entry
        for uuid, entry in snapshot.applied.gpus.items()
    }
    return replace(
        snapshot,
        at=zero + snapshot.at,
        started_at=zero + snapshot.started_at,
        applied=Applied(applied),
        held_since={key: zero + at for key, at in snapshot.held_since.items()},
        conditions=tuple(replace(one, since=zero + one.since) for one in snapshot.conditions),
        drift=tuple(replace(one, since=zero + one.since) for one in snapshot.drift),
        reloads=tuple(replace(one, at=zero + one.at) for one in snapshot.reloads),
        resources=tuple(
            one if one.draining_since is None else replace(one, draining_since=zero + one.draining_since)
            for one in snapshot.resources
        ),
        xids=replace(
            snapshot.xids,
            tallies={source: replace(one, last=zero + one.last) for source, one in snapshot.xids.tallies.items()},
        ),
    )


def _dated(times: Mapping[int, float], zero: float) -> dict[int, float]:
    return {key: zero + at for key, at in times.items()}
