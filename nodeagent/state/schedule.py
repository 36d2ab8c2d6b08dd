"""When to look again: everything that time alone can change, though nothing happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.model.holds import Holds
from nodeagent.model.kubelet import Looks, PodListing
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied
from nodeagent.state import holds, kubelet_view, observed
from nodeagent.state import looks as looking
from nodeagent.state.kubelet_view import Published, View
from nodeagent.state.shared import Sightings

LOOK_WHILE_WAITING = 0.5
"""Seconds between two looks at PodResources while something drains or leaves."""

LOOK_AT_SHARED = 2.0
"""The same while two pods have one share: whether they do is known after the second look."""

LOOK_SELDOM = 30.0

_FOR_PODS = (WaitReason.PODS, WaitReason.MIG, WaitReason.WAVE, WaitReason.LAST, WaitReason.DISK)
"""What is waited for until a pod has ended, which a look at PodResources shows; or another device, whose waits say how
long.
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """What is under way after a turn. All times are monotonic seconds.

    `listing` is the newest look at the kubelet, `decided_at` and `decisions` say when the desired state last changed,
    of all GPUs and of single ones, `cautious_until` until when a `List` may miss what an earlier agent granted.
    `rewritten_at` is when the newest `List` had begun when the kubelet was last made to write its checkpoint. `shared`
    are pods that were seen on one share. `ends` are moments that others wait for: the end of the time that a drain may
    take, a reload that is to be told.
    """

    plan: Plan
    applied: Applied
    holds: Holds
    decided_at: float
    decisions: Mapping[str, float] = field(default_factory=dict)
    listing: PodListing | None = None
    cautious_until: float = float("-inf")
    rewritten_at: float = float("-inf")
    shared: Sightings = field(default_factory=dict)
    views: Mapping[str, View] = field(default_factory=dict)
    live: Mapping[str, Published] = field(default_factory=dict)
    ends: Iterable[float] = ()


@dataclass(frozen=True, slots=True)
class Agenda:
    """How to look at the kubelet, whether a look is due now, which resources' lists are to be sent again so that the
    kubelet writes its checkpoint, and when the next turn is, if ever.
    """

    looks: Looks
    look_now: bool
    turn_at: float | None
    rewrite: frozenset[str] = frozenset()


def agenda(pending: Pending, now: float) -> Agenda:
    """What to look at next, and when: for a plan that waits for anything but a daemon, whose news are events."""
    waits = [wait for wait in pending.plan.waits if wait.reason is not WaitReason.DAEMON]
    for_pods = frozenset(wait.uuid for wait in waits if wait.reason in _FOR_PODS)
    listing, holding, applied = pending.listing, pending.holds, pending.applied
    rewrite = looking.rewrites(listing, holding, applied, waits=for_pods, rewritten_at=pending.rewritten_at)
    late = (
        kubelet_view.next_due(pending.views, pending.live),
        holds.look_due(holding, listing.begun_at if listing is not None else float("-inf")),
        _rewritten_due(pending, rewrite),
    )
    looks = [at for at in late if at is not None]
    decided = [pending.decisions[wait.uuid] for wait in waits if wait.uuid in pending.decisions]
    due = [*looks, *pending.ends]
    if any(wait.reason not in _FOR_PODS for wait in waits) or (waits and holding.granted):
        # Fences, grants and mentions grow old without an event, and so does a look that brings nothing new.
        due.append(now + LOOK_WHILE_WAITING)
    if waits:
        changes = (observed.drop_due(applied, now), holds.next_change(holding, now))
        due += [at for at in changes if at is not None]
    seldom = LOOK_AT_SHARED if pending.shared else LOOK_SELDOM
    return Agenda(
        looks=looking.looks(
            listing,
            holding,
            applied,
            interval=LOOK_WHILE_WAITING if waits else seldom,
            decision=max(pending.decided_at, pending.cautious_until, *decided) if waits else None,
            waits=for_pods,
            shared=frozenset(share.partition("::")[0] for (_, share), _ in pending.shared),
        ),
        look_now=any(at <= now for at in looks),
        # What is due already has been asked for: its answer is an event.
        turn_at=min((at for at in due if at > now), default=None),
        rewrite=rewrite,
    )


def _rewritten_due(pending: Pending, rewrite: frozenset[str]) -> float | None:
    """When the checkpoint is to be read that the kubelet writes after the newest look, which was a `List`."""
    listing = pending.listing
    if listing is None or not listing.by_list or not (rewrite or pending.rewritten_at == listing.begun_at):
        return None
    return listing.begun_at + LOOK_WHILE_WAITING
