"""The status document for people: the verdict first, then what is wrong before what is well."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import chain
from typing import Any, Final

from nodeagent.commands import status_gpus, status_pods
from nodeagent.commands.ages import age
from nodeagent.commands.client import Status
from nodeagent.commands.status_names import by_name
from nodeagent.commands.status_verdict import situation
from nodeagent.commands.terminal import Terminal
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import MpsReason
from nodeagent.model.plan import Waves
from nodeagent.model.snapshot import ABNORMAL, DriftKind
from nodeagent.report.verdict import judge
from nodeagent.report.words import ROLES, describe_waves
from nodeagent.state.naming import gpus as gpu_list

_TOLD_ELSEWHERE: Final = frozenset({DriftKind.CONFIG.value, DriftKind.MPS.value})
"""Drift of documents is told with the documents, that of daemons, and faults of GPUs, with the GPUs."""

_LABELS: Final = 5
"""Labels that are told one by one on a terminal: where none can be written, all of them differ."""

_RELOAD_LINES: Final = 6

_STYLES: Final = {"ok": "green", "warn": "yellow", "bad": "red"}


def text(status: Status, agent: str, terminal: Terminal, now: float) -> Iterator[str]:
    """All of it; `now` in Unix seconds."""
    yield from _head(status, agent, terminal, now)
    yield from _section("document", _documents(status["config"], terminal), terminal)
    errors = chain(_errors(status["config"], terminal), _obstacles(status["config"], terminal))
    yield from _section("errors", errors, terminal)
    yield from _section("notes", _notes(status["config"], terminal), terminal)
    yield from _section("conditions", _conditions(status, terminal, now), terminal)
    yield from _section("GPUs", status_gpus.lines(status, terminal, now), terminal)
    yield from _section("pods", status_pods.lines(status, terminal), terminal)
    yield from _section("drift", _drift(status, terminal, now), terminal)
    yield from _section("waits", _waits(status, terminal), terminal)
    yield from _section("last reload", _reload(status, terminal, now), terminal)


def is_normal(condition: dict[str, Any]) -> bool:
    """Whether a condition is as on a node where all is well."""
    return bool(condition["status"]) != (condition["type"] in ABNORMAL)


def _head(status: Status, agent: str, terminal: Terminal, now: float) -> Iterator[str]:
    verdict = judge(situation(status))
    name = f"{status['node']}, pool {status['pool']}" if status["pool"] else str(status["node"])
    first, *more = terminal.wrap(f"{name}: {verdict.title}", "", "  ")
    head, colon, title = first.partition(": ")
    yield f"{terminal.paint(head, 'bold')}{colon}{terminal.paint(title, _STYLES[verdict.tone])}"
    yield from (terminal.paint(line, _STYLES[verdict.tone]) for line in more)
    if verdict.tone != "ok":
        yield from terminal.paragraph(_STYLES[verdict.tone], verdict.text)
    driver = status["inventory"]["driverVersion"]
    facts = [f"nodeagent {status['agentVersion']}", f"up {age(status['startedAt'], now)}"]
    facts += [f"driver {driver}"] if driver else []
    yield from terminal.wrap(f"{', '.join(facts)}, {agent}", "  ", "    ")


def _section(title: str, lines: Iterator[str], terminal: Terminal) -> Iterator[str]:
    """The lines under a heading, nothing where there are none."""
    found = list(lines)
    if found:
        yield ""
        yield terminal.paint(title, "bold")
        yield from found


def _documents(config: dict[str, Any], terminal: Terminal) -> Iterator[str]:
    """The documents that the node speaks of, each once, with what each is to it."""
    found: dict[str, list[str]] = {}
    known_good = ("lastKnownGood",) if config["usingLastKnownGood"] else ()
    for role in ("newest", "desired", "applied", *known_good):
        if config[role] is not None:
            found.setdefault(config[role]["gitBlob"], []).append(role)
    for blob, held in found.items():
        document = config[held[0]]
        facts = [f"blob {blob[:12]}"]
        facts += [document["name"]] if document["name"] else []
        facts += [f"revision {document['revision']}"] if document["revision"] else []
        yield from terminal.wrap(f"{', '.join(ROLES[role] for role in held)}: {', '.join(facts)}", "  ", "    ")
    if not found:
        yield "  none"
    if config["problem"]:
        yield from terminal.paragraph("red", f"{config['path']}: {config['problem']}")


def _errors(config: dict[str, Any], terminal: Terminal) -> Iterator[str]:
    for violation in config["violations"]:
        path = f"{violation['path']}: " if violation["path"] else ""
        place = f"{violation['file']}:{violation['line']}:{violation['column']}"
        yield from terminal.paragraph("red", f"{place}: {path}{violation['message']}")


def _obstacles(config: dict[str, Any], terminal: Terminal) -> Iterator[str]:
    """Why the accepted document is not applied to these GPUs. An older agent does not say so."""
    for violation in config.get("obstacles", ()):
        told = f"accepted, and at odds with these GPUs: {violation['message']}"
        yield from terminal.paragraph("red", told)


def _notes(config: dict[str, Any], terminal: Terminal) -> Iterator[str]:
    """What is worth a word on the accepted document, here, though nothing of it is wrong."""
    for note in config["notes"]:
        yield from terminal.paragraph("yellow", note)


def _conditions(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """Those that are not as they should be."""
    for condition in status["conditions"]:
        if not is_normal(condition):
            message = _message(status, condition)
            value = "" if condition["status"] else "not "
            head = f"{value}{condition['type']}, {condition['reason']}, for {age(condition['since'], now)}"
            style = "yellow" if condition["type"] in ABNORMAL else "red"
            yield from terminal.paragraph(style, f"{head}: {message}" if message else head)


def _message(status: Status, condition: dict[str, Any]) -> str:
    """What is wrong, but for what other sections tell in full: mistakes of the document, and trouble with daemons."""
    if condition["type"] == "ConfigAccepted" and status["config"]["violations"]:
        return ""
    if condition["type"] == "MpsReady" and status["mps"]["reason"] == MpsReason.RUNNING.value:
        names = by_name(status)
        told = [drift["subject"] for drift in status["drift"] if drift["kind"] == DriftKind.MPS.value]
        if gpus := [names[subject] for subject in told if subject in names]:
            return f"{gpu_list(gpus)}, see below"
    return str(condition["message"])


def _drift(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """Each difference, GPUs that differ alike together with the age of the oldest."""
    names = by_name(status)
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for drift in status["drift"]:
        gpu = names.get(drift["subject"])
        if drift["kind"] in _TOLD_ELSEWHERE or (drift["kind"] == DriftKind.HARDWARE.value and gpu is not None):
            continue
        subject = "GPU" if gpu is not None else drift["subject"]
        found.setdefault((f"{drift['kind']}: {subject}", drift["want"], drift["have"]), []).append(drift)
    labels = [key for key, (drift, *_) in found.items() if drift["kind"] == DriftKind.LABELS.value]
    untold = dict.fromkeys(labels[_LABELS:] if not terminal.whole else ())
    for (head, want, have), alike in found.items():
        if (head, want, have) in untold:
            continue
        gpus = [names[drift["subject"]] for drift in alike if drift["subject"] in names]
        what = f"{alike[0]['kind']}: {gpu_list(gpus)}" if gpus else head
        oldest = age(min(drift["since"] for drift in alike), now)
        yield from terminal.wrap(f"{what}: want {want}, have {have}, for {oldest}", "  ", "    ")
    if untold:
        yield f"  labels: … {len(untold)} more: -o json"


def _waits(status: Status, terminal: Terminal) -> Iterator[str]:
    """What cannot be done yet, GPUs that wait for the same together, and the pods that are waited for."""
    holders: dict[tuple[str, int], str | None] = {
        (gpu["uuid"], share["number"]): share["holder"]
        for gpu in status["gpus"]
        for share in gpu["shares"]
        if share["holder"]
    }
    names = by_name(status)
    yield from _waves(status, holders, terminal)
    found: dict[str, tuple[list[Gpu], dict[str, None]]] = {}
    for wait in status["plan"]["waits"]:
        head, _, rest = wait["text"].partition(": ")
        gpus, pods = found.setdefault(rest if head in names else wait["text"], ([], {}))
        gpus.extend([names[head]] if head in names else [])
        if wait["reason"] == "pods":
            who = (holders.get((wait["uuid"], number)) for number in wait["numbers"])
            pods.update(dict.fromkeys(name.rpartition("/")[0] for name in who if name))
    for what, (gpus, pods) in found.items():
        each = " each" if len(gpus) > 1 else ""
        head = f"{gpu_list(gpus)}{each}: " if gpus else ""
        held_by = f" ({', '.join(pods)})" if pods else ""
        yield from terminal.wrap(f"{head}{what}{held_by}", "  ", "    ")


def _waves(status: Status, holders: Mapping[tuple[str, int], str | None], terminal: Terminal) -> Iterator[str]:
    """How far a change is that takes more than one wave. An older agent makes none."""
    told = status["plan"].get("waves")
    if told is None:
        return
    waves = Waves(told["devices"], told["changed"], told["maxUnavailable"], told["underWay"], told["waiting"])
    waited_for = [name for (uuid, _), name in holders.items() if name and uuid in waves.under_way]
    if text := describe_waves(waves, waited_for):
        yield from terminal.wrap(text, "  ", "    ")


def _reload(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    reloads = status["reloads"]
    if not reloads:
        return
    last = max(reloads, key=lambda reload: datetime.fromisoformat(reload["at"]))
    document = last["document"]
    facts = [f"{age(last['at'], now)} ago"]
    facts += [f"blob {document['gitBlob'][:12]}"] if document is not None else []
    facts += [f"{last['change']}"] if last["change"] else []
    facts.append(f"{last['durationSeconds'] * 1000:.0f} ms")
    style = "dim" if last["result"] in {"accepted", "unchanged"} else "red"
    yield f"  {terminal.paint(last['result'], style)}, {', '.join(facts)}"
    if last["result"] == "rejected" and document == status["config"]["newest"] and status["config"]["violations"]:
        return  # said under errors
    yield from terminal.few(terminal.wrap(last["message"], "    ", "      "), _RELOAD_LINES)
