"""What happened on the node between two turns, for people who look at `kubectl describe node`.

An event is a change and not a state: it follows from the snapshots before and after, and is told once. An agent that
has just started tells nothing that was so before it: not that a document is accepted which was in force already, nor
that it is applied where nothing had to be done for it; only that the newest document is rejected or missing, since
nobody may have read that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nodeagent.model.config import THROUGH_MIG, Contract, mistakes
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.node import NodeEvent
from nodeagent.model.plan import WaitReason
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import (
    ChangeClass,
    ConfigState,
    DocumentInfo,
    DriftKind,
    GpuStatus,
    ReloadResult,
    Snapshot,
)
from nodeagent.state.desired import describe
from nodeagent.state.drift import GONE, share_count
from nodeagent.state.naming import gpus
from nodeagent.state.status import Reason

MAX_BYTES = 1024
"""Longest message, in UTF-8: what the Kubernetes API takes as the note of an event."""


def events(before: Snapshot | None, after: Snapshot) -> tuple[NodeEvent, ...]:
    """The events of one turn, in the order in which they should be read."""
    if before is after:
        return ()
    found = [*_rejected(before.config if before is not None else None, after.config), *_missing(before, after)]
    if before is not None:
        found += _accepted(before, after)
        found += _drained(before, after)
        found += _stalled(before, after)
        found += _refused(before, after)
        found += _applied(before, after)
        found += _health(before, after)
        found += _shared_twice(before, after)
    return tuple(found)


def _event(reason: str, message: str, *, warning: bool = False) -> NodeEvent:
    told = message.encode()
    if len(told) > MAX_BYTES:
        end = "…".encode()
        message = told[: MAX_BYTES - len(end)].decode(errors="ignore") + end.decode()
    return NodeEvent(reason, message, warning)


def _blob(document: DocumentInfo | None) -> str:
    """`blob 2e65efe2a145 (revision main@sha1:0a1b2c3d)`."""
    if document is None:
        return "no document"
    revision = f" (revision {document.revision})" if document.revision else ""
    return f"blob {document.git_blob[:12]}{revision}"


def _rejected(before: ConfigState | None, after: ConfigState) -> Iterator[NodeEvent]:
    """The same bytes are told once, and again when these GPUs, which they had come to fit, are at odds with them."""
    newest = after.newest
    if newest is None or not after.violations:
        return
    if before is not None and before.violations and before.newest is not None and before.newest.sha256 == newest.sha256:
        return
    first, more = after.violations[0], mistakes(after.violations) - 1
    told = f"rejected {_blob(newest)}: {first}{f' (and {more} more)' if more else ''}"
    yield _event("ConfigRejected", told, warning=True)


def _missing(before: Snapshot | None, after: Snapshot) -> Iterator[NodeEvent]:
    """That there is no document, and what was looked for; again when something else is."""
    known = before.condition("ConfigAccepted") if before is not None else None
    now = after.condition("ConfigAccepted")
    if now is None or now.reason != Reason.MISSING or (known is not None and known.message == now.message):
        return
    at = f"{after.config.path}: " if after.config.path not in now.message else ""
    yield _event("ConfigMissing", f"{at}{now.message}", warning=True)


def _accepted(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    """Not of the document on the node's disk: that was accepted once before."""
    config, known = after.config, before.config.last_known_good
    if config.generation <= before.config.generation or config.desired is None or config.using_last_known_good:
        return
    if before.config.generation == 0 and known is not None and known.sha256 == config.desired.sha256:
        return
    yield _event("ConfigAccepted", f"accepted {_blob(config.desired)}: {_change(before, after)}")


def _change(before: Snapshot, after: Snapshot) -> str:
    """What becomes of the node, GPUs that change alike named together: in the words of the reload's log line, which is
    told when the lists are sent, and that is later.
    """
    if after.config.suspended:
        return "spec.suspend is true: what is applied is kept"
    if after.config.obstacles:
        return f"it cannot be applied to these GPUs, and what is applied is kept: {after.config.obstacles[0].message}"
    moves: dict[tuple[str, str], list[Gpu]] = {}
    drains: dict[int, list[Gpu]] = {}
    for status in after.gpus:
        entry = before.applied.gpus.get(status.gpu.uuid)
        contract, offered = (entry.contract, share_count(entry)) if entry is not None else (None, 0)
        if (contract, offered) == (status.wanted, status.wanted_shares):
            continue
        have = describe(contract, offered) if contract is not None and offered else "nothing"
        if (have, wanted := _wanted(status)) != ("nothing", GONE):
            moves.setdefault((have, wanted), []).append(status.gpu)
        if drain := _too_many(status, contract):
            drains.setdefault(drain, []).append(status.gpu)
    if not moves:
        return "nothing changes"
    text = "; ".join(f"{gpus(moved)}: {have} -> {wanted}" for (have, wanted), moved in moves.items())
    waits = ", ".join(f"{number}{' each' * (len(alike) > 1)} on {gpus(alike)}" for number, alike in drains.items())
    return f"{text}; held shares drain: {waits}" if waits else text


def _wanted(status: GpuStatus) -> str:
    if status.rule == THROUGH_MIG.name:
        return "used through MIG devices" if status.gpu.mig is None else "part of a whole GPU"
    return describe(status.wanted, status.wanted_shares) if status.rule is not None else GONE


def _too_many(status: GpuStatus, before: Contract | None) -> int:
    """How many held shares of a GPU are in the way of what is wanted of it."""
    if before is None or status.contract != before:
        return 0
    kept = status.wanted_shares if status.wanted == before else 0
    return max(0, _held(status) - kept)


def _applied(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    config, known = after.config, before.config
    if config.observed_generation <= known.observed_generation or config.applied is None:
        return
    if known.observed_generation == 0 and not _had_to_be_done(before, after):
        return
    yield _event("ConfigApplied", f"{_blob(config.applied)} is applied on every GPU{_waited(after)}")


def _had_to_be_done(before: Snapshot, after: Snapshot) -> bool:
    """Whether anything had to be done for the first document that is applied since the agent's start."""
    known, now = before.config, after.config.applied
    if known.generation < after.config.generation:
        return known.last_known_good is None or now is None or known.last_known_good.sha256 != now.sha256
    return any(drift.kind is DriftKind.SHARES for drift in before.drift)


def _waited(after: Snapshot) -> str:
    """How long held shares were in its way, where they were."""
    told = next((reload for reload in after.reloads if reload.result is ReloadResult.ACCEPTED), None)
    if told is None or told.change is not ChangeClass.DRAINED or told.document != after.config.applied:
        return ""
    return f", {_lasted(after.at - told.at)} after it was accepted"


def _lasted(seconds: float) -> str:
    """`12 s`, `5 min`, `3 h`."""
    minutes = seconds / 60
    if minutes < 2:
        return f"{max(0.0, seconds):.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"


def _drained(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    """GPUs of which no held share drains any more since pods have left. One that Git wants back ends a drain as well,
    and is not told: nobody has left.
    """
    ended = _draining(before) - _draining(after)
    held = {status.gpu.uuid: _held(status) for status in before.gpus if status.gpu.uuid in ended}
    left = [status.gpu for status in after.gpus if status.gpu.uuid in held and _held(status) < held[status.gpu.uuid]]
    if left:
        yield _event("Drained", f"{gpus(left)}: the pods on shares that Git no longer wants have ended")


def _draining(snapshot: Snapshot) -> frozenset[str]:
    return frozenset(wait.uuid for wait in snapshot.plan.waits if wait.reason is WaitReason.PODS)


def _held(status: GpuStatus) -> int:
    return sum(share.held for share in status.shares)


def _stalled(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    known, now = before.condition("Stalled"), after.condition("Stalled")
    if now is not None and now.status and not (known is not None and known.status):
        yield _event("DrainStalled", now.message, warning=True)


def _refused(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    known, now = before.condition("PlanRefused"), after.condition("PlanRefused")
    if now is not None and now.status and not (known is not None and known.status):
        yield _event("PlanRefused", now.message, warning=True)


def _health(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    """GPUs and MIG devices that have failed or recovered, those of one fault together; of MIG devices only what is not
    their GPU's fault. One that is gone was destroyed, or its GPU is lost.
    """
    if before.applied is after.applied:
        return
    failed: dict[str, list[Gpu]] = {}
    recovered: list[Gpu] = []
    for entry in after.applied.ordered():
        old, new = (_ailment(snapshot.applied, entry.gpu.uuid) for snapshot in (before, after))
        if entry.gpu.mig is not None:
            whole = (_ailment(snapshot.applied, entry.gpu.physical) for snapshot in (before, after))
            if GpuHealth.LOST in old | new or _inherited((old, new), whole):
                continue
        if old and not new:
            recovered.append(entry.gpu)
        elif not new <= old:
            failed.setdefault(entry.trouble.removeprefix(entry.gpu.name), []).append(entry.gpu)
    for trouble, alike in failed.items():
        health = alike[0].health
        told = trouble.removeprefix(f" {health.said()}: ")
        does = f" {health.said(len(alike))}: " if told != trouble else ""
        yield _event("GpuUnhealthy", f"{_named(alike)}{does}{told}", warning=True)
    if recovered:
        yield _event("GpuRecovered", f"{_named(recovered)}: healthy again")


def _shared_twice(before: Snapshot, after: Snapshot) -> Iterator[NodeEvent]:
    """Each share that several pods have once, and again when they are others."""
    for one in after.shared_twice:
        if one not in before.shared_twice:
            yield _event("SharedTwice", f"the kubelet has handed out one share to several pods: {one}", warning=True)


def _ailment(applied: Applied, uuid: str) -> frozenset[object]:
    """What makes the shares of a GPU unhealthy, of several kinds the gravest; empty where nothing does."""
    entry = applied.gpus.get(uuid)
    if entry is None:
        return frozenset()
    if entry.gpu.health is not GpuHealth.OK:
        return frozenset({entry.gpu.health})
    return frozenset(entry.xids) or (frozenset({"daemon"}) if entry.fault else frozenset())


def _inherited(own: tuple[frozenset[object], frozenset[object]], whole: Iterable[frozenset[object]]) -> bool:
    """Whether what a MIG device has, or has recovered from, is its GPU's."""
    (old, new), (old_whole, new_whole) = own, whole
    return new <= new_whole if new else old <= old_whole


def _named(alike: list[Gpu]) -> str:
    """One by its uuid as well."""
    return f"{gpus(alike)} ({alike[0].uuid})" if len(alike) == 1 else gpus(alike)
