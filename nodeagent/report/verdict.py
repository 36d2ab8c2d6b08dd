"""The verdict on a node: the gravest thing that is to be said of it, in the words that the status page and
`nodeagent status` share. Pure.

Everything that is not as it should be is a finding. Findings come in this order, the gravest first:

1. the agent does not work, has just started, or serves nothing;
2. a GPU is lost, hangs or is unhealthy; two pods have the same share;
3. the newest document is rejected, or there is none; the accepted one does not fit these GPUs;
4. GPUs that cannot be planned for; a drain that takes too long; any other condition that is a fault;
5. what passes by itself or is as it was asked for: suspended, draining, not applied everywhere yet.

The first finding is the verdict, and its text names the others. The page makes a `Situation` from a snapshot (`of`),
`nodeagent status` from the status document, so that both decide alike, whatever version the agent has.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from nodeagent.model.config import mistakes
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.snapshot import ABNORMAL, Condition, DocumentInfo, DriftKind, Snapshot
from nodeagent.model.words import count

SHOWN: Final = 3
"""GPUs, messages and further findings that are named in one sentence."""

LONGEST: Final = 300
"""Characters of one message in a verdict: all of it stands with its condition."""


class Outcome(Enum):
    """Whether the node is as Git wants it: yes; not yet, or not by choice; or no, and somebody has to look."""

    AS_WANTED = "as wanted"
    DIFFERS = "differs"
    FAULTY = "faulty"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`tone` is `ok`, `warn` or `bad`, `mark` one character for it. `title` is the verdict in a few words; `text`
    explains it in a sentence or two.
    """

    tone: str
    mark: str
    title: str
    text: str
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Situation:
    """What a verdict is made from. `gpus` counts GPUs and MIG devices, `faults` are those that are not well, each with
    what is wrong with it; `offers` tells whether any resource is served. `path` is where the newest document is looked
    for, `mistakes` counts what is wrong with it, `obstacles` is why the accepted one does not fit.
    """

    in_sync: bool
    settled: bool
    gpus: int
    offers: bool
    path: str
    conditions: tuple[Condition, ...] = ()
    desired: DocumentInfo | None = None
    applied: DocumentInfo | None = None
    mistakes: int = 0
    obstacles: tuple[str, ...] = ()
    faults: tuple[tuple[Gpu, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Finding:
    """A verdict, and how it is named in a few words where there is a graver one."""

    verdict: Verdict
    brief: str


_BAD: Final = ("bad", "✗")
_WARN: Final = ("warn", "!")
_SLOW: Final = ("warn", "…")

_STANDING: Final = frozenset({"Draining", "Stalled", "Suspended", "ServingLastKnownGood", "SharedTwice", "PlanRefused"})
_SAID: Final = _STANDING | {"Ready", "Registered", "ConfigAccepted"}
"""Conditions that have a finding of their own, or follow from another one."""

_UNDER_WAY: Final = frozenset({"Starting", "Stopping"})
"""Reasons of MpsReady that are part of a change."""

_STATES: Final = {
    GpuHealth.LOST: ("is lost", "are lost"),
    GpuHealth.HANG: ("hangs", "hang"),
    GpuHealth.OK: ("is unhealthy", "are unhealthy"),  # by its XIDs: the driver itself finds nothing wrong
}


def of(snapshot: Snapshot) -> Situation:
    """The situation that a snapshot tells of."""
    config = snapshot.config
    names = {entry.gpu.name: entry.gpu for entry in snapshot.applied.ordered()}
    return Situation(
        in_sync=snapshot.in_sync,
        settled=snapshot.settled,
        gpus=len(snapshot.gpus),
        offers=bool(snapshot.resources),
        path=config.path,
        conditions=snapshot.conditions,
        desired=config.desired,
        applied=config.applied,
        mistakes=mistakes(config.violations),
        obstacles=tuple(one.message for one in config.obstacles),
        faults=tuple(
            (names[drift.subject], drift.have)
            for drift in snapshot.drift
            if drift.kind is DriftKind.HARDWARE and drift.subject in names
        ),
    )


def judge(situation: Situation) -> Verdict:
    """The verdict: the first finding, with the others named in its text."""
    findings = list(_findings(situation))
    notes = [f"Note: {_cut(note.message)}." for note in situation.conditions if _is_note(note)]
    if not findings:
        text = f"The node is what Git says: {short(situation.applied)}."
        title = "In sync" if situation.offers else "In sync, and nothing is offered"
        return Verdict("ok", "✓", title, " ".join([text, *notes]), Outcome.AS_WANTED)
    first, *others = findings
    text = first.verdict.text.rstrip(".")
    if briefs := [finding.brief for finding in others if finding.brief]:
        text = f"{text}. Also: {_listed(briefs, '; ')}" if text else f"Also: {_listed(briefs, '; ')}"
    return replace(first.verdict, text=f"{text}." if text else "")


def is_normal(condition: Condition) -> bool:
    """Whether a condition is as on a node where all is well."""
    return condition.status is not (condition.type in ABNORMAL)


def stopped(snapshot: Snapshot, message: str) -> Snapshot:
    """The last snapshot of an agent whose loop makes no more of them: as it was, and not ready."""
    ready = Condition("Ready", False, "Failing", message, snapshot.at)
    others = tuple(entry for entry in snapshot.conditions if entry.type != "Ready")
    return replace(snapshot, conditions=(ready, *others), in_sync=False, settled=False)


def short(document: DocumentInfo | None) -> str:
    """Which document: `name, blob 3b18e512d0f1, revision main@sha1:…`."""
    if document is None:
        return "no document"
    name = f"{document.name}, " if document.name else ""
    revision = f", revision {document.revision}" if document.revision else ""
    return f"{name}blob {document.git_blob[:12]}{revision}"


def _findings(situation: Situation) -> Iterator[_Finding]:
    """All that is not as it should be, the gravest first."""
    told = {condition.type: condition for condition in situation.conditions}
    yield from _of_service(told)
    if situation.faults:
        yield _bad(_title(situation.faults), _faults(situation))
    if (twice := _standing(told, "SharedTwice")) is not None:
        yield _bad("Two pods have the same share", twice.message)
    yield from _of_documents(situation, told)
    if (refused := _standing(told, "PlanRefused")) is not None:
        yield _bad("Not in sync: no plan for some GPUs, please report it", refused.message)
    if (late := _standing(told, "Stalled")) is not None:
        yield _finding(_SLOW, "Not in sync: a drain takes too long", late.message, Outcome.FAULTY)
    if faults := [entry for entry in situation.conditions if _is_fault(entry, situation)]:
        title = "In sync, with a fault" if situation.in_sync else "Not in sync yet, with a fault"
        text = _listed([_cut(entry.message or entry.reason) for entry in faults], "; ")
        brief = ", ".join(f"{entry.type} is not met" if not entry.status else entry.type for entry in faults)
        yield _finding(_WARN, title, text, Outcome.FAULTY, brief)
    if situation.in_sync and not situation.gpus:
        yield _finding(_WARN, "In sync, and there is no GPU", "the driver lists none", Outcome.FAULTY)
    yield from _of_change(situation, told)


def _of_service(told: dict[str, Condition]) -> Iterator[_Finding]:
    """Whether the agent works, and serves what it has to serve."""
    ready, accepted, inventory = (told.get(name) for name in ("Ready", "ConfigAccepted", "InventoryReady"))
    if ready is None or ready.status:
        return
    if ready.reason == "Failing":
        yield _bad("Not ready", ready.message or ready.reason)
    elif accepted is not None and accepted.reason == "Pending":
        yield _finding(_SLOW, "Starting", accepted.message, Outcome.FAULTY)
    elif inventory is not None and inventory.reason == "Pending" and ready.reason == "NoGpus":
        yield _finding(_SLOW, "Starting", ready.message, Outcome.FAULTY)
    elif ready.reason != "NothingAccepted" or (accepted is not None and accepted.status):
        yield _bad("Not ready", ready.message or str(ready.reason), "not ready")


def _of_documents(situation: Situation, told: dict[str, Condition]) -> Iterator[_Finding]:
    desired, accepted = situation.desired, told.get("ConfigAccepted")
    goes_on = f"the node goes on with {short(desired)}" if desired is not None else "nothing was ever accepted"
    if desired is not None and not situation.settled:
        goes_on = f"{goes_on}, which is not settled yet"
    if situation.mistakes:
        errors = count(situation.mistakes, "error")
        title = "Not in sync: the newest document is rejected"
        yield _bad(title, f"{errors}; {goes_on}.", f"the newest document is rejected, with {errors}; {goes_on}")
    elif accepted is not None and not accepted.status and accepted.reason != "Pending":
        at = f"{situation.path}: " if situation.path not in accepted.message else ""
        why = f"{at}{_cut(accepted.message or accepted.reason)}; {goes_on}"
        yield _bad("Not in sync: there is no valid document", f"{why}.", why)
    if situation.obstacles:
        title = "Not in sync: the accepted document does not fit these GPUs"
        yield _bad(title, _listed([_cut(one) for one in situation.obstacles], "; "))


def _of_change(situation: Situation, told: dict[str, Condition]) -> Iterator[_Finding]:
    """What passes by itself, or is as it was asked for."""
    suspended, draining = _standing(told, "Suspended"), _standing(told, "Draining")
    if suspended is not None:
        title = "In sync, and suspended" if situation.in_sync else "Not in sync: suspended"
        outcome = Outcome.AS_WANTED if situation.in_sync else Outcome.DIFFERS
        yield _finding(_SLOW, title, suspended.message, outcome, "suspended")
    if draining is not None:
        title = "Draining: pods still hold shares that Git no longer wants"
        yield _finding(_SLOW, title, draining.message, Outcome.DIFFERS, draining.message)
    if not situation.in_sync and suspended is None and draining is None:
        text = "the plan below is being carried out"
        yield _finding(_SLOW, "Not in sync yet", text, Outcome.DIFFERS, "")


def _title(faults: Collection[tuple[Gpu, str]]) -> str:
    """`GPU 3 is lost`, `4 GPUs are lost, MIG device 2:1 is unhealthy`."""
    told = []
    for health, (one, many) in _STATES.items():
        if gpus := [gpu for gpu, _ in faults if gpu.health is health]:
            told.append(f"{_called(gpus)} {many if len(gpus) > 1 else one}")
    return ", ".join(told)


def _called(gpus: Collection[Gpu]) -> str:
    names = [gpu.name for gpu in gpus]
    if len(names) > SHOWN:
        return f"{len(names)} {'GPUs' if all(gpu.mig is None for gpu in gpus) else 'GPUs or MIG devices'}"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _faults(situation: Situation) -> str:
    """What is wrong with which GPUs, those of which the same is to be said together."""
    found: dict[str, list[str]] = {}
    order = list(_STATES)
    for gpu, what in sorted(situation.faults, key=lambda fault: order.index(fault[0].health)):
        found.setdefault(_cut(what), []).append(gpu.name)
    told = _listed([f"{_listed(names, ', ')}: {what}" for what, names in found.items()], "; ")
    return f"{told}; otherwise in sync" if situation.in_sync else told


def _is_fault(condition: Condition, situation: Situation) -> bool:
    """Whether a condition that has no finding of its own needs somebody. What is written or looked for with each change
    is Pending for a moment.
    """
    if condition.type in _SAID or is_normal(condition) or _is_note(condition) or condition.reason == "Pending":
        return False
    if condition.type == "InventoryReady" and condition.reason in {"GpuLost", "GpuHangs"} and situation.faults:
        return False
    return situation.in_sync or condition.type != "MpsReady" or condition.reason not in _UNDER_WAY


def _is_note(condition: Condition) -> bool:
    """Whether it is worth a word on a node that is well: it is nobody's fault, and nobody can do anything about it."""
    if is_normal(condition):
        return False
    return condition.type == "GpusRenumbered" or (condition.type, condition.reason) == ("HealthWatched", "NotSupported")


def _standing(told: dict[str, Condition], type_: str) -> Condition | None:
    condition = told.get(type_)
    return condition if condition is not None and condition.status else None


def _bad(title: str, text: str, brief: str | None = None) -> _Finding:
    return _finding(_BAD, title, text, Outcome.FAULTY, brief)


def _finding(look: tuple[str, str], title: str, text: str, outcome: Outcome, brief: str | None = None) -> _Finding:
    known = f"{title[:1].lower()}{title[1:]}" if not title.startswith(("GPU", "MIG")) else title
    return _Finding(Verdict(*look, title, text, outcome), known if brief is None else brief)


def _listed(things: Iterable[str], separator: str) -> str:
    every = list(things)
    more = f"{separator}and {len(every) - SHOWN} more" if len(every) > SHOWN else ""
    return f"{separator.join(every[:SHOWN])}{more}"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
