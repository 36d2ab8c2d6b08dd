"""Whether the kubelet hands out what we advertise: our lists compared with its own view of them.

A list that was sent may have got lost in the kubelet (two streams for one resource, FACTS), and nothing on our side
would show it. So the view is compared `SETTLE_SECONDS` after a change and every `COMPARE_SECONDS`. One difference may
be a change under way; seen twice it is drift, mended by sending the list again and then by ending our stream and
registering.

The second step is taken even when the first has made the views equal. Whoever made them differ registered after us: our
list is in the kubelet again, but Allocate goes to the newest registration, and nothing that can be looked at tells.

Ids that we have not advertised for `OURS_FOR_SECONDS` are another plugin's. Sending our list again would not end that,
so the stream is ended at once, which has the kubelet drop the other plugin as well. If that one is back by then, the
resource is left to it (`kubelet/rival.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nodeagent.model.kubelet import PodListing
from nodeagent.model.shares import Listing

SETTLE_SECONDS = 2.0
COMPARE_SECONDS = 30.0

OURS_FOR_SECONDS = 30.0
"""How long an id counts as ours after it has left the list: the kubelet may be late."""

SEEN_FOR_DRIFT = 2
_RECONNECT_EVERY = 10
"""Comparisons between two reconnects that did not help: often enough to recover, seldom enough not to be a war."""


@dataclass(frozen=True, slots=True)
class View:
    """The comparison of one resource: when last made, how often in a row it differed, and in what. `foreign` of the
    `surplus` ids are another plugin's. The resource is live since `since`: an earlier look says nothing of our list.
    """

    at: float = float("-inf")
    differed: int = 0
    missing: int = 0
    surplus: int = 0
    foreign: int = 0
    since: float = float("-inf")

    @property
    def drifted(self) -> bool:
        return self.differed >= SEEN_FOR_DRIFT

    @property
    def resend(self) -> bool:
        return self.differed == SEEN_FOR_DRIFT and not self.foreign

    @property
    def reconnect(self) -> bool:
        first = SEEN_FOR_DRIFT if self.foreign else SEEN_FOR_DRIFT + 1
        return self.differed >= first and (self.differed - first) % _RECONNECT_EVERY == 0


@dataclass(frozen=True, slots=True)
class Published:
    """A list, and when it was first given to the streams (monotonic seconds). `left` are ids that are no longer on it,
    and when each left.
    """

    listing: Listing
    at: float
    left: Mapping[str, float] = field(default_factory=dict)


def publish(before: Published | None, listing: Listing, now: float) -> Published:
    """The list is given to the streams. One that was given before keeps its time."""
    if before is None:
        return Published(listing, now)
    if before.listing is listing:
        return before
    ids = {device.id for device in listing.devices}
    left = {id_: at for id_, at in before.left.items() if at > now - OURS_FOR_SECONDS and id_ not in ids}
    left |= {device.id: now for device in before.listing.devices if device.id not in ids}
    return Published(listing, now, left)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The views of all resources, and those that this very look has compared anew: only they call for healing."""

    views: Mapping[str, View] = field(default_factory=dict)
    compared: frozenset[str] = frozenset()

    def resend(self) -> frozenset[str]:
        return frozenset(name for name in self.compared if self.views[name].resend)

    def reconnect(self) -> frozenset[str]:
        return frozenset(name for name in self.compared if self.views[name].reconnect)


def compare(
    views: Mapping[str, View], live: Mapping[str, Published], pods: PodListing | None, now: float = float("-inf")
) -> Comparison:
    """Compare every live resource for which the newest look is due. Resources that are not live are forgotten."""
    kept = {name: views.get(name, View(since=now)) for name in live}
    compared = set()
    if pods is None:
        return Comparison(kept)
    for name, published in live.items():
        if pods.begun_at < due_at(kept[name], published):
            continue
        ours = {device.id for device in published.listing.devices if device.healthy}
        theirs = pods.allocatable.get(name, frozenset())
        before = kept[name]
        if ours != theirs:
            foreign = len(_foreign(theirs - ours, published, pods.begun_at))
            kept[name] = replace(
                before,
                at=pods.begun_at,
                differed=before.differed + 1,
                missing=len(ours - theirs),
                surplus=len(theirs - ours),
                foreign=foreign,
            )
        elif before.resend:
            kept[name] = replace(before, at=pods.begun_at, differed=before.differed + 1)
        else:
            kept[name] = View(pods.begun_at, since=before.since)
        compared.add(name)
    return Comparison(kept, frozenset(compared))


def foreign(views: Mapping[str, View]) -> dict[str, int]:
    """How many ids of another plugin the kubelet shows, of each resource for which that was seen twice."""
    return {name: view.foreign for name, view in views.items() if view.foreign and view.drifted}


def _foreign(surplus: frozenset[str], published: Published, at: float) -> frozenset[str]:
    """Those that were not ours within the last while either, whatever their health."""
    ours = {device.id for device in published.listing.devices}
    ours |= {id_ for id_, left in published.left.items() if left > at - OURS_FOR_SECONDS}
    return surplus - ours


def due_at(view: View, published: Published) -> float:
    """When a look must begin, at the earliest, to be compared (monotonic seconds): after a change, soon; after a
    difference, soon; else seldom.
    """
    settled = max(published.at, view.since) + SETTLE_SECONDS
    if view.at < settled:
        return settled
    return view.at + (SETTLE_SECONDS if view.differed else COMPARE_SECONDS)


def next_due(views: Mapping[str, View], live: Mapping[str, Published]) -> float | None:
    """When the next comparison is due, over all live resources."""
    return min((due_at(views.get(name, View()), published) for name, published in live.items()), default=None)
