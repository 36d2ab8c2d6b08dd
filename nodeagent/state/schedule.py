"""When to look again: everything that time alone can change, though nothing happens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.model.holds import Holds
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied
from nodeagent.state import holds, kubelet_view, observed
from nodeagent.state.kubelet_view import Published, View

LOOK_WHILE_WAITING = 0.5
"""Seconds between two looks at PodResources while something drains or leaves."""

LOOK_SELDOM = 30.0

_FOR_PODS = (WaitReason.PODS, WaitReason.MIG, WaitReason.WAVE, WaitReason.LAST)
"""What is waited for until a pod has ended, which a look at PodResources shows; or another device, whose waits say how
long.
"""


@dataclass(frozen=True, slots=True)
class Pending:
    """What is under way after a turn. All times are monotonic seconds.

    `looked_at` is when the newest look at PodResources began, `decided_at` when the desired state last changed. `ends`
    are moments that others wait for: the end of the time that a drain may take, a reload that is to be told.
    """

    plan: Plan
    applied: Applied
    holds: Holds
    looked_at: float
    decided_at: float
    views: Mapping[str, View] = field(default_factory=dict)
    live: Mapping[str, Published] = field(default_factory=dict)
    ends: Iterable[float] = ()


@dataclass(frozen=True, slots=True)
class Agenda:
    """Seconds between two looks at the kubelet, whether one is due now, and when the next turn is, if ever."""

    interval: float
    look_now: bool
    turn_at: float | None


def agenda(pending: Pending, now: float) -> Agenda:
    """What to look at next, and when: for a plan that waits for anything but a daemon, whose news are events."""
    waits = [wait for wait in pending.plan.waits if wait.reason is not WaitReason.DAEMON]
    late = (
        kubelet_view.next_due(pending.views, pending.live),
        holds.look_due(pending.holds, pending.looked_at),
    )
    looks = [at for at in late if at is not None]
    due = [*looks, *pending.ends]
    if any(wait.reason not in _FOR_PODS for wait in waits) or (waits and pending.holds.granted):
        # Fences, grants and mentions grow old without an event, and so does a look that brings nothing new.
        due.append(now + LOOK_WHILE_WAITING)
    if waits:
        changes = (observed.drop_due(pending.applied, now), holds.next_change(pending.holds, now))
        due += [at for at in changes if at is not None]
    stale = bool(waits) and pending.looked_at < pending.decided_at
    return Agenda(
        interval=LOOK_WHILE_WAITING if waits else LOOK_SELDOM,
        look_now=stale or any(at <= now for at in looks),
        # What is due already has been asked for: its answer is an event.
        turn_at=min((at for at in due if at > now), default=None),
    )
