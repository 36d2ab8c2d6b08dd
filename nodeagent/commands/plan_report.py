"""How `plan` tells what it found: GPUs that change alike together, for people; share by share, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nodeagent.commands.findings import violation_as_json
from nodeagent.commands.preview import GpuPreview, Preview, Terms
from nodeagent.commands.terminal import Terminal
from nodeagent.model.config import Loaded, Violation
from nodeagent.model.shares import split_share_id
from nodeagent.model.snapshot import ChangeClass
from nodeagent.state.desired import describe
from nodeagent.state.summary import gpus as gpu_list

_NAMED_PODS = 6
_CLASSES = {
    ChangeClass.NONE: "nothing changes for any share",
    ChangeClass.LIVE: "all of it at once",
    ChangeClass.DRAINED: "some of it waits for pods to end; nothing is ever killed",
}


@dataclass(frozen=True, slots=True)
class Report:
    """A preview, and of what: the node, where it is known from, what it `runs` now (None: nothing), the new config."""

    node: str
    source: str
    runs: Mapping[str, Any] | None
    loaded: Loaded
    preview: Preview
    readable: bool = True


def text(report: Report, terminal: Terminal) -> Iterator[str]:
    """The plan for people."""
    document, config = report.loaded.document, report.loaded.config
    yield terminal.paint(f"{report.node} ({report.source})", "bold")
    if report.runs is not None:
        yield f"  now   {_document(report.runs['gitBlob'], report.runs['name'], report.runs['revision'])}"
    else:
        yield "  now   nothing accepted"
    yield f"  then  {_document(document.git_blob, config.name if config else None, document.revision)}"
    yield ""
    if config is not None and config.suspend:
        yield from terminal.wrap("spec.suspend is true: what is applied is kept, whatever the rules say", "", "  ")
        yield ""
    if not report.readable:
        message = "the node cannot tell which pods use what: every share counts as held until it can"
        yield from (terminal.paint(line, "yellow") for line in terminal.wrap(message, "", "  "))
        yield ""
    for indices, lines in _grouped(report.preview.gpus, terminal):
        yield from terminal.wrap(f"{gpu_list(indices)}: {lines[0]}", "", "  ")
        yield from lines[1:]
    yield ""
    for verb, resources in (("registers", report.preview.registered), ("retires", report.preview.retired)):
        if resources:
            yield from terminal.wrap(f"{verb} {', '.join(resources)}", "", "  ")
    for note in config.notes if config is not None else ():
        yield from terminal.wrap(f"note: {note}", "", "  ")
    yield from _summary(report.preview, terminal)


def as_json(report: Report) -> str:
    """The plan for programs: every share by its id."""
    document, config = report.loaded.document, report.loaded.config
    return json.dumps(
        {
            "node": report.node,
            "source": report.source,
            "running": report.runs,
            "document": {
                "path": document.path,
                "name": config.name if config is not None else None,
                "gitBlob": document.git_blob,
                "sha256": document.sha256,
                "revision": document.revision,
            },
            "changes": report.preview.changes,
            "class": report.preview.kind.value,
            "suspended": config is not None and config.suspend,
            "holdsKnown": report.readable,
            "gpus": [_gpu_as_json(gpu) for gpu in report.preview.gpus],
            "registered": list(report.preview.registered),
            "retired": list(report.preview.retired),
            "notes": list(config.notes) if config is not None else [],
            "violations": [],
        },
        indent=2,
    )


def rejected_as_json(violations: Sequence[Violation]) -> str:
    """What there is to say of a config that no node would accept."""
    return json.dumps({"violations": [violation_as_json(violation) for violation in violations]}, indent=2)


def _document(blob: str, name: str | None, revision: str | None) -> str:
    parts = [f"blob {blob[:12]}", name or "", f"revision {revision}" if revision else ""]
    return ", ".join(part for part in parts if part)


def _grouped(gpus: Sequence[GpuPreview], terminal: Terminal) -> Iterator[tuple[list[int], tuple[str, ...]]]:
    """GPUs of which the same is to be said, together, in the order of the first."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for gpu in gpus:
        groups.setdefault(tuple(_gpu(gpu, terminal)), []).append(gpu.gpu.index)
    for lines, indices in groups.items():
        yield indices, lines


def _gpu(gpu: GpuPreview, terminal: Terminal) -> Iterator[str]:
    """What happens to one GPU; the first line is its heading."""
    if not gpu.changes:
        yield f"stays {_describe(gpu.after)}"
        return
    yield _move(gpu.before, gpu.after)
    if gpu.before.limit != gpu.after.limit and gpu.before.contract == gpu.after.contract:
        yield f"    requests: {_limit(gpu.before)} -> {_limit(gpu.after)} per container"
    signs = (("-", gpu.removed, "red", "removed"), ("+", gpu.added, "green", "added"), ("=", gpu.kept, "dim", "kept"))
    for sign, ids, style, verb in signs:
        if ids:
            yield "    " + terminal.paint(f"{sign} {len(ids)} {verb}{_numbers(ids)}", style)
    if gpu.draining:
        for position, line in enumerate(terminal.wrap(_drain(gpu), "", "      ")):
            yield terminal.paint(line if position else f"    {line}", "yellow")
    if gpu.later:
        yield "    " + terminal.paint(f"+ {len(gpu.later)} added after that{_numbers(gpu.later)}", "green")


def _drain(gpu: GpuPreview) -> str:
    """`~ 2 drain, until any 2 of these 6 have ended: …`."""
    leave, held = len(gpu.draining), len(gpu.holders)
    who = [name.rpartition("/")[0] if name else "" for name in gpu.holders]
    pods = list(dict.fromkeys(name for name in who if name))
    named = pods[:_NAMED_PODS] + ([f"{len(pods) - _NAMED_PODS} more"] if len(pods) > _NAMED_PODS else [])
    if "" in who:
        named.append(f"pods that are not listed yet ({who.count('')} shares)")
    if leave == held:
        return f"~ {leave} drain{'s' if leave == 1 else ''}, held by {', '.join(named)}"
    return f"~ {leave} drain{'s' if leave == 1 else ''}: any {leave} of the {held} held by {', '.join(named)}"


def _describe(terms: Terms) -> str:
    return describe(terms.contract, terms.shares) if terms.contract is not None else "not advertised"


def _move(before: Terms, after: Terms) -> str:
    if before.contract != after.contract:
        return f"{_describe(before)} -> {_describe(after)}"
    if before.shares != after.shares:
        return f"{before.contract} x{before.shares} -> x{after.shares}"
    return f"stays {_describe(after)}"


def _limit(terms: Terms) -> str:
    return "any number of shares" if terms.limit is None else f"at most {terms.limit}"


def _numbers(ids: Sequence[str]) -> str:
    """` (::4 to ::9)`: which shares, where they have numbers."""
    numbers = sorted(number for share in ids if (number := split_share_id(share)[1]) is not None)
    if not numbers:
        return ""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f" (::{first})"
    if last - first + 1 == len(numbers):
        return f" (::{first} to ::{last})"
    listed = [f"::{number}" for number in numbers[:_NAMED_PODS]]
    return f" ({', '.join(listed)}{', …' if len(numbers) > _NAMED_PODS else ''})"


def _summary(preview: Preview, terminal: Terminal) -> Iterator[str]:
    if not preview.changes:
        yield terminal.paint("nothing would change", "green")
        return
    sums = {
        "added": sum(len(gpu.added) + len(gpu.later) for gpu in preview.gpus),
        "removed": sum(len(gpu.removed) for gpu in preview.gpus),
        "draining": sum(len(gpu.draining) for gpu in preview.gpus),
    }
    changing = sum(gpu.changes for gpu in preview.gpus)
    counts = ", ".join(f"{number} {what}" for what, number in sums.items())
    yield f"{changing} of {len(preview.gpus)} GPUs change{'s' if changing == 1 else ''}; shares: {counts}"
    yield f"class {terminal.paint(preview.kind.value, 'bold')}: {_CLASSES[preview.kind]}"


def _gpu_as_json(gpu: GpuPreview) -> dict[str, object]:
    return {
        "index": gpu.gpu.index,
        "uuid": gpu.gpu.uuid,
        "model": gpu.gpu.model,
        "before": _terms_as_json(gpu.before),
        "after": _terms_as_json(gpu.after),
        "changes": gpu.changes,
        "added": list(gpu.added),
        "removed": list(gpu.removed),
        "kept": list(gpu.kept),
        "draining": list(gpu.draining),
        "addedLater": list(gpu.later),
        "heldBy": [name or None for name in gpu.holders],
    }


def _terms_as_json(terms: Terms) -> dict[str, object]:
    return {
        "mode": terms.contract.mode.value if terms.contract is not None else None,
        "resource": terms.contract.resource if terms.contract is not None else None,
        "shares": terms.shares,
        "maxSharesPerContainer": terms.limit,
    }
