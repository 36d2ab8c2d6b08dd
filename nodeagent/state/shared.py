"""Shares that the kubelet has handed out twice: two pods on one id, which no config asks for.

A `List` of anybody on the node can make the kubelet give a device to a second pod (see `looks`). The agent cannot take
it back; it can say so. Two pods count when two looks, `APART` seconds from one another, show both of them, and the
checkpoint does not say that one of them has ended: kubelets before 1.34 list finished pods, but their entries are gone
when another pod is given the share. Containers of one pod may have one id.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import PodListing, PodName, SharedTwice

APART = 1.0
"""Seconds between the two looks, at least: an end and an admission within one look are no fault."""

Sightings = Mapping[tuple[ShareKey, tuple[PodName, ...]], float]
"""Pods that were seen on one share, and when that was first so."""


def sight(before: Sightings, listing: PodListing, uuids: AbstractSet[str]) -> Sightings:
    """What this look shows of shares of the GPUs `uuids` with several pods; since when, if the one before showed it."""
    pods: dict[ShareKey, set[PodName]] = {}
    for holder in listing.holders:
        for share in holder.ids:
            if share.partition("::")[0] in uuids:
                pods.setdefault((holder.resource, share), set()).add(holder.name)
    several = {key: tuple(sorted(names)) for key, names in pods.items() if len(names) > 1}
    if several and listing.checkpoint is not None:
        twice = by_checkpoint(listing)
        several = {key: names for key, names in several.items() if key in twice}
    return {(key, names): before.get((key, names), listing.begun_at) for key, names in several.items()}


def shared_twice(sightings: Sightings, looked_at: float) -> tuple[SharedTwice, ...]:
    """What has been seen for long enough by the look begun at `looked_at`."""
    found = [
        SharedTwice(resource, share, names)
        for ((resource, share), names), since in sightings.items()
        if looked_at >= since + APART
    ]
    return tuple(sorted(found, key=lambda one: (one.resource, one.share)))


def by_checkpoint(listing: PodListing | None) -> frozenset[ShareKey]:
    """Shares that the checkpoint names for more than one pod."""
    if listing is None or not listing.checkpoint:
        return frozenset()
    uids: dict[ShareKey, str] = {}
    twice: set[ShareKey] = set()
    for entry in listing.checkpoint:
        key = entry.resource, entry.id
        if uids.setdefault(key, entry.pod_uid) != entry.pod_uid:
            twice.add(key)
    return frozenset(twice)
