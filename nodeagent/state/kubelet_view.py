"""Whether the kubelet hands out what we advertise: our lists compared with its own view of them.

A list that was sent may have got lost in the kubelet (two streams for one resource, FACTS), and nothing on our side
would show it. So the view is compared `SETTLE_SECONDS` after a change and every `COMPARE_SECONDS`. One difference may
be a change under way; seen twice it is drift, mended by sending the list again and then by ending our stream and
registering.

The second step is taken even when the first has made the views equal. Whoever made them differ registered after us: our
list is in the kubelet again, but Allocate goes to the newest registration, and nothing that can be looked at tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from nodeagent.model.kubelet import PodListing
from nodeagent.model.shares import Listing

SETTLE_SECONDS = 2.0
COMPARE_SECONDS = 30.0

SEEN_FOR_DRIFT = 2
_RECONNECT_EVERY = 10
"""Comparisons between two reconnects that did not help: often enough to recover, seldom enough not to be a war."""


@dataclass(frozen=True, slots=True)
class View:
    """The comparison of one resource: when last made, of which revision, how often in a row it differed, and in
    what.
    """

    at: float = float("-inf")
    differed: int = 0
    missing: int = 0
    surplus: int = 0

    @property
    def drifted(self) -> bool:
        return self.differed >= SEEN_FOR_DRIFT

    @property
    def resend(self) -> bool:
        return self.differed == SEEN_FOR_DRIFT

    @property
    def reconnect(self) -> bool:
        return self.differed > SEEN_FOR_DRIFT and (self.differed - SEEN_FOR_DRIFT - 1) % _RECONNECT_EVERY == 0


@dataclass(frozen=True, slots=True)
class Published:
    """A list, and when it was last given to the streams (monotonic seconds)."""

    listing: Listing
    at: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """The views of all resources, and those that this very look has compared anew: only they call for healing."""

    views: Mapping[str, View] = field(default_factory=dict)
    compared: frozenset[str] = frozenset()

    def resend(self) -> frozenset[str]:
        return frozenset(name for name in self.compared if self.views[name].resend)

    def reconnect(self) -> frozenset[str]:
        return frozenset(name for name in self.compared if self.views[name].reconnect)


def compare(views: Mapping[str, View], live: Mapping[str, Published], pods: PodListing | None) -> Comparison:
    """Compare every live resource for which the newest look is due. Resources that are not live are forgotten."""
    kept = {name: views.get(name, View()) for name in live}
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
            kept[name] = View(pods.begun_at, before.differed + 1, len(ours - theirs), len(theirs - ours))
        elif before.resend:
            kept[name] = replace(before, at=pods.begun_at, differed=before.differed + 1)
        else:
            kept[name] = View(pods.begun_at)
        compared.add(name)
    return Comparison(kept, frozenset(compared))


def due_at(view: View, published: Published) -> float:
    """When a look must begin, at the earliest, to be compared (monotonic seconds): after a change, soon; after a
    difference, soon; else seldom.
    """
    settled = published.at + SETTLE_SECONDS
    if view.at < settled:
        return settled
    return view.at + (SETTLE_SECONDS if view.differed else COMPARE_SECONDS)


def next_due(views: Mapping[str, View], live: Mapping[str, Published]) -> float | None:
    """When the next comparison is due, over all live resources."""
    return min((due_at(views.get(name, View()), published) for name, published in live.items()), default=None)
