"""How `validate` tells what it found: lines for people, JSON for programs, workflow commands for GitHub."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from nodeagent.commands.checking import STDIN_NAME, Checked
from nodeagent.config.load import MOST_VIOLATIONS
from nodeagent.documents.tree import MOST_KEPT
from nodeagent.model.config import Loaded, Violation, mistakes
from nodeagent.model.printable import printable


def text(found: Sequence[Checked]) -> Iterator[str]:
    """A line per thing that is wrong, valid or passed over, and the summary."""
    for checked in found:
        if checked.problem is not None:
            yield printable(checked.problem)
        elif checked.skipped is not None:
            yield printable(f"{checked.file}: skipped: {checked.skipped}")
        else:
            yield from map(str, checked.violations)
            if checked.valid:
                yield from (printable(f"{checked.file}: {what}") for what in _what(checked))
        yield from (printable(f"{checked.file}: note: {note}") for note in checked.notes)
    yield summary(found)


def as_json(found: Sequence[Checked]) -> str:
    """One object with everything. `status` is valid, invalid, unreadable or skipped."""
    files = [
        {
            "file": checked.file,
            "status": _status(checked),
            "configs": [_config(loaded) for loaded in checked.configs],
            "simulatedGpus": checked.simulated_gpus,
            "violations": [violation_as_json(violation) for violation in checked.violations],
            "mistakes": mistakes(checked.violations),
            "notes": list(checked.notes),
            "message": checked.problem or checked.skipped,
        }
        for checked in found
    ]
    valid = all(checked.valid or checked.skipped is not None for checked in found)
    return json.dumps({"valid": valid, "summary": summary(found), "files": files}, indent=2)


def github(found: Sequence[Checked]) -> Iterator[str]:
    """Workflow commands, which GitHub shows beside the lines of a pull request, and the summary.

    It knows a file by its path in the repository, wherever the step works. What came from stdin is in no file: its
    mistakes are told with their place, on the page of the run.
    """
    for checked in found:
        file = {} if checked.file == STDIN_NAME else {"file": _in_workspace(checked.file)}
        if checked.problem is not None:
            yield _command("error", checked.problem, **file, title=_TITLE)
        for violation in checked.violations:
            where = violation.where
            if file:
                place = {**file, "line": str(where.line), "col": str(where.column)}
                told = ": ".join(part for part in (violation.inside, where.path, violation.message) if part)
                yield _command("error", printable(told), **place, title=_TITLE)
            else:
                yield _command("error", str(violation), title=_TITLE)
        for note in checked.notes:
            yield _command("notice", note, **file, title=_TITLE)
    yield summary(found)


def summary(found: Sequence[Checked]) -> str:
    """`3 files: 2 valid, 1 invalid (4 mistakes)`."""
    counts = {status: sum(_status(checked) == status for checked in found) for status in _STATUSES}
    parts = [f"{counts[status]} {status}" for status in _STATUSES if counts[status]]
    if counts["invalid"]:
        parts[parts.index(f"{counts['invalid']} invalid")] += f" ({_mistakes(found)})"
    return f"{_count(len(found), 'file')}: {', '.join(parts)}"


def _mistakes(found: Sequence[Checked]) -> str:
    """`256 mistakes, the first 50 shown`, where not all of them are."""
    violations = [violation for checked in found for violation in checked.violations]
    total, shown = mistakes(violations), sum(violation.stands_for == 1 for violation in violations)
    told = _count(total, "mistake")
    if shown == total:
        return told
    if any(violation.stands_for + MOST_VIOLATIONS >= MOST_KEPT for violation in violations):
        told = f"{total} or more mistakes"
    alone = sum(bool(checked.violations) for checked in found) == 1
    return f"{told}, the first {shown} shown" if alone else f"{told}, {shown} of them shown"


_TITLE: Final = "nodeagent validate"
_STATUSES = ("valid", "invalid", "unreadable", "skipped")


def _status(checked: Checked) -> str:
    if checked.problem is not None:
        return "unreadable"
    if checked.skipped is not None:
        return "skipped"
    return "invalid" if checked.violations else "valid"


def _what(checked: Checked) -> Iterator[str]:
    """What a valid file is."""
    if checked.simulated_gpus is not None:
        yield f"valid: simulated node with {_count(checked.simulated_gpus, 'GPU')}"
    for loaded in checked.configs:
        if loaded.config is not None:
            name = f' "{loaded.config.name}"' if loaded.config.name else ", NVIDIA's format"
            inside = loaded.document.path.removeprefix(checked.file).strip()
            place = f" {inside}" if inside else ""
            rules = _count(len(loaded.config.rules), "rule")
            blob = f", blob {loaded.document.git_blob[:12]}" if loaded.document.data else ""
            yield f"valid: sharing config{name}{place}, {rules}{blob}"


def _config(loaded: Loaded) -> dict[str, object]:
    return {
        "document": loaded.document.path,
        "name": loaded.config.name if loaded.config is not None else None,
        "rules": len(loaded.config.rules) if loaded.config is not None else None,
        "gitBlob": loaded.document.git_blob if loaded.document.data else None,
        "sha256": loaded.document.sha256 if loaded.document.data else None,
        "revision": loaded.document.revision,
    }


def violation_as_json(violation: Violation) -> dict[str, object]:
    """One violation with the keys that `/status` uses, and in which of several documents of its file it is."""
    return {
        "file": violation.file,
        "inside": violation.inside,
        "line": violation.where.line,
        "column": violation.where.column,
        "path": violation.where.path,
        "message": violation.message,
        "stage": violation.stage.value,
    }


def _command(name: str, message: str, **properties: str) -> str:
    """`::error file=a.yaml,line=3::message`, escaped as the runner's toolkit does it."""
    given = ",".join(f"{key}={_escape(value, property_=True)}" for key, value in properties.items())
    return f"::{name} {given}::{_escape(message)}"


def _in_workspace(file: str) -> str:
    """The path from the root of the checkout, which the runner names."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    path = Path(os.path.relpath(file, workspace or None))
    return str(path) if workspace and path.parts[:1] != (os.pardir,) else file


def _escape(text_: str, *, property_: bool = False) -> str:
    text_ = printable(text_).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text_.replace(":", "%3A").replace(",", "%2C") if property_ else text_


def _count(number: int, one: str) -> str:
    return f"{number} {one}" if number == 1 else f"{number} {one}s"
