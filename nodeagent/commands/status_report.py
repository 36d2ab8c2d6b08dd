"""The status document for people: what is wrong before what is well, and all of it in 80 columns."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, Final

from nodeagent.commands.client import Status
from nodeagent.commands.tables import Column, table
from nodeagent.commands.terminal import Terminal
from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import DriftKind
from nodeagent.state.summary import gpus as gpu_list

ABNORMAL_TRUE: Final = frozenset({"Draining", "Stalled", "ServingLastKnownGood", "Suspended"})
"""Conditions that are false on a node where all is well."""

_TITLES: Final = {
    ShareState.FREE: "FREE",
    ShareState.HELD: "HELD",
    ShareState.DRAINING: "DRAIN",
    ShareState.FENCED: "FENCE",
    ShareState.UNHEALTHY: "FAULT",
}
"""Short, so that a node with all of them fits."""

_ALWAYS: Final = (ShareState.FREE, ShareState.HELD)
_GPU: Final = re.compile(r"GPU (\d+)")
_VENDOR: Final = "NVIDIA "
_RELOAD_LINES: Final = 6


def text(status: Status, agent: str, terminal: Terminal, now: float) -> Iterator[str]:
    """All of it; `now` in Unix seconds."""
    yield from _head(status, agent, terminal, now)
    yield from _section("document", _documents(status["config"], terminal), terminal)
    yield from _section("errors", _errors(status["config"], terminal), terminal)
    yield from _section("conditions", _conditions(status, terminal, now), terminal)
    yield from _section("GPUs", _gpus(status, terminal), terminal)
    yield from _section("drift", _drift(status, terminal, now), terminal)
    yield from _section("waits", _waits(status, terminal), terminal)
    yield from _section("last reload", _reload(status, terminal, now), terminal)


def age(since: str, now: float) -> str:
    """How long ago a time of the document was: `42s`, `3m`, `2h05m`, `4d`."""
    seconds = max(0, int(now - datetime.fromisoformat(since).timestamp()))
    if seconds < 120:
        return f"{seconds}s"
    if seconds < 7200:
        return f"{seconds // 60}m"
    if seconds < 172_800:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d"


def is_normal(condition: dict[str, Any]) -> bool:
    """Whether a condition is as on a node where all is well."""
    return bool(condition["status"]) != (condition["type"] in ABNORMAL_TRUE)


def _head(status: Status, agent: str, terminal: Terminal, now: float) -> Iterator[str]:
    verdict = terminal.paint("in sync", "green") if status["inSync"] else terminal.paint("NOT in sync", "red")
    pool = f", pool {status['pool']}" if status["pool"] else ""
    yield f"{terminal.paint(status['node'] + pool, 'bold')}: {verdict}"
    driver = status["inventory"]["driverVersion"]
    facts = [f"nodeagent {status['agentVersion']}", f"up {age(status['startedAt'], now)}"]
    facts += [f"driver {driver}"] if driver else []
    yield f"  {', '.join(facts)}, {agent}"


def _section(title: str, lines: Iterator[str], terminal: Terminal) -> Iterator[str]:
    """The lines under a heading, nothing where there are none."""
    found = list(lines)
    if found:
        yield ""
        yield terminal.paint(title, "bold")
        yield from found


def _documents(config: dict[str, Any], terminal: Terminal) -> Iterator[str]:
    """The documents that the node speaks of, each once, with what each is to it."""
    roles = ("newest", "desired", "applied")
    words = {"newest": "mounted", "desired": "accepted", "applied": "applied"}
    found: dict[str, list[str]] = {}
    for role in roles:
        if config[role] is not None:
            found.setdefault(config[role]["gitBlob"], []).append(role)
    for blob, held in found.items():
        document = config[held[0]]
        facts = [f"blob {blob[:12]}"]
        facts += [document["name"]] if document["name"] else []
        facts += [f"revision {document['revision']}"] if document["revision"] else []
        yield from terminal.wrap(f"{', '.join(words[role] for role in held)}: {', '.join(facts)}", "  ", "    ")
    if not found:
        yield "  none"
    if config["problem"]:
        yield from _painted(terminal, "red", f"{config['path']}: {config['problem']}")


def _errors(config: dict[str, Any], terminal: Terminal) -> Iterator[str]:
    for violation in config["violations"]:
        path = f"{violation['path']}: " if violation["path"] else ""
        place = f"{violation['file']}:{violation['line']}:{violation['column']}"
        yield from _painted(terminal, "red", f"{place}: {path}{violation['message']}")


def _conditions(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """Those that are not as they should be. What is wrong with the document has been said."""
    for condition in status["conditions"]:
        if not is_normal(condition):
            said = condition["type"] == "ConfigAccepted" and status["config"]["violations"]
            message = f": {condition['message']}" if condition["message"] and not said else ""
            value = "" if condition["status"] else "not "
            head = f"{value}{condition['type']}, {condition['reason']}, for {age(condition['since'], now)}"
            style = "yellow" if condition["type"] in ABNORMAL_TRUE else "red"
            yield from _painted(terminal, style, f"{head}{message}")


def _gpus(status: Status, terminal: Terminal) -> Iterator[str]:
    gpus = status["gpus"]
    counts = [Counter(ShareState(share["state"]) for share in gpu["shares"]) for gpu in gpus]
    states = [state for state in ShareState if state in _ALWAYS or any(count[state] for count in counts)]
    names = {_offer(gpu)[1].rpartition("/")[2] for gpu in gpus}
    columns = [
        Column("GPU", right=True),
        Column("MODEL", least=10),
        Column("MODE"),
        Column("RESOURCE", least=1 + max((len(name) for name in names), default=0), keep_end=True),
        *(Column(_TITLES[state], right=True, style=_style(state, terminal)) for state in states),
    ]
    bare = all(gpu["model"].startswith(_VENDOR) for gpu in gpus)
    rows = [
        (
            str(gpu["index"]),
            gpu["model"].removeprefix(_VENDOR) if bare else gpu["model"],
            *_offer(gpu),
            *(str(count[state] or "-") for state in states),
        )
        for gpu, count in zip(gpus, counts, strict=True)
    ]
    if rows:
        yield from (f"  {line}" for line in table(columns, rows, terminal.width - 2))
    for gpu in gpus:
        if gpu["health"] != "ok":
            yield from _painted(terminal, "red", f"GPU {gpu['index']} is {gpu['health']}: {gpu['message']}")


def _offer(gpu: dict[str, Any]) -> tuple[str, str]:
    """Mode and resource as the kubelet is told."""
    applied, wanted = gpu["applied"], gpu["wanted"]
    if applied is not None and applied["mode"] is not None:
        return applied["mode"], applied["resource"]
    return ("withheld", "-") if wanted["rule"] is not None and wanted["resource"] is None else ("-", "-")


def _style(state: ShareState, terminal: Terminal) -> Callable[[str], str] | None:
    """Cells of states that are out of the ordinary catch the eye where they are not empty."""
    if state in _ALWAYS:
        return None
    return partial(_paint_count, terminal, "red" if state is ShareState.UNHEALTHY else "yellow")


def _paint_count(terminal: Terminal, style: str, cell: str) -> str:
    return cell if cell.strip() == "-" else terminal.paint(cell, style)


def _drift(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """Each difference, GPUs that differ alike together with the age of the oldest. Of documents all has been said."""
    found: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for drift in status["drift"]:
        if drift["kind"] == DriftKind.CONFIG.value:
            continue
        gpu = _GPU.fullmatch(drift["subject"])
        subject = "GPU" if gpu is not None else drift["subject"]
        found.setdefault((f"{drift['kind']}: {subject}", drift["want"], drift["have"]), []).append(drift)
    for (head, want, have), alike in found.items():
        indices = [int(gpu[1]) for drift in alike if (gpu := _GPU.fullmatch(drift["subject"]))]
        what = f"{alike[0]['kind']}: {gpu_list(indices)}" if indices else head
        oldest = age(min(drift["since"] for drift in alike), now)
        yield from terminal.wrap(f"{what}: want {want}, have {have}, for {oldest}", "  ", "    ")


def _waits(status: Status, terminal: Terminal) -> Iterator[str]:
    """What cannot be done yet, GPUs that wait for the same together, and the pods that are waited for."""
    holders: dict[tuple[str, int], str | None] = {
        (gpu["uuid"], share["number"]): share["holder"] for gpu in status["gpus"] for share in gpu["shares"]
    }
    found: dict[str, tuple[list[int], dict[str, None]]] = {}
    for wait in status["plan"]["waits"]:
        head, _, rest = wait["text"].partition(": ")
        gpu = _GPU.fullmatch(head)
        indices, pods = found.setdefault(rest if gpu is not None else wait["text"], ([], {}))
        indices.extend([int(gpu[1])] if gpu is not None else [])
        if wait["reason"] == "pods":
            names = (holders.get((wait["uuid"], number)) for number in wait["numbers"])
            pods.update(dict.fromkeys(name.rpartition("/")[0] for name in names if name))
    for what, (indices, pods) in found.items():
        each = " each" if len(indices) > 1 else ""
        head = f"{gpu_list(indices)}{each}: " if indices else ""
        who = f" ({', '.join(pods)})" if pods else ""
        yield from terminal.wrap(f"{head}{what}{who}", "  ", "    ")


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
    lines = terminal.wrap(last["message"], "    ", "      ")
    yield from lines[:_RELOAD_LINES]
    if len(lines) > _RELOAD_LINES:
        yield f"    … {len(lines) - _RELOAD_LINES} lines more: -o json"


def _painted(terminal: Terminal, style: str, message: str) -> Iterator[str]:
    yield from (terminal.paint(line, style) for line in terminal.wrap(message, "  ", "    "))
