"""How `plan` tells people what it found: GPUs that change alike together."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from nodeagent.commands.preview import GpuPreview, Preview, Terms
from nodeagent.commands.terminal import Terminal
from nodeagent.model.config import Contract, Loaded
from nodeagent.model.health import describe_xids
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import split_share_id
from nodeagent.model.snapshot import ChangeClass
from nodeagent.model.words import count
from nodeagent.state.desired import describe
from nodeagent.state.naming import gpus as gpu_list

_NAMED: Final = 6
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
_CLASSES: Final = {
    ChangeClass.NONE: "no share comes or goes",
    ChangeClass.LIVE: "all of it at once",
    ChangeClass.DRAINED: "some of it waits for pods to end; nothing is ever killed",
}
_NOT_AT_ONCE: Final = "no pod has to end, but something waits for MPS"
"""What is said of a live change that something else is in the way of."""

_IN_WAVES: Final = "no pod has to end; one wave after the other"
"""What is said of a live change that not all GPUs make at once."""


@dataclass(frozen=True, slots=True)
class Report:
    """A preview, and of what: the node, where it is known from, what it `runs` now (None: nothing), the new config.
    `notes` are about the machine, besides those of the config.
    """

    node: str
    source: str
    runs: Mapping[str, Any] | None
    loaded: Loaded
    preview: Preview
    readable: bool = True
    notes: tuple[str, ...] = ()


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
    if numbers := _renumbered(report.preview.gpus):
        yield from (terminal.paint(line, "yellow") for line in terminal.wrap(numbers, "", "  "))
        yield ""
    for alike, lines in _grouped(report.preview.gpus, terminal):
        heading = terminal.wrap(f"{gpu_list(alike)}: {lines[0]}", "", "  ")
        yield from (line.replace(_NO_BREAK, " ") for line in heading)
        yield from lines[1:]
    yield ""
    for verb, resources in (("registers", report.preview.registered), ("retires", report.preview.retired)):
        if resources:
            yield from terminal.wrap(f"{verb} {', '.join(resources)}", "", "  ")
    for note in (*(config.notes if config is not None else ()), *report.notes):
        yield from terminal.wrap(f"note: {note}", "", "  ")
    yield from _summary(report.preview, terminal)


def _renumbered(gpus: Sequence[GpuPreview]) -> str:
    """Which GPUs nvidia-smi calls otherwise: who reads the plan may have asked it."""
    found = [gpu.gpu for gpu in gpus if gpu.gpu.renumbered and gpu.gpu.mig is None]
    told = ", ".join(f"{gpu.name} has index {gpu.driver_index}" for gpu in found)
    return f"rules go by the number that a GPU keeps; for the driver {told}" if found else ""


def _document(blob: str, name: str | None, revision: str | None) -> str:
    parts = [f"blob {blob[:12]}", name or "", f"revision {revision}" if revision else ""]
    return ", ".join(part for part in parts if part)


def _grouped(gpus: Sequence[GpuPreview], terminal: Terminal) -> Iterator[tuple[list[Gpu], tuple[str, ...]]]:
    """GPUs of which the same is to be said, together, in the order of the first."""
    groups: dict[tuple[str, ...], list[Gpu]] = {}
    for gpu in gpus:
        groups.setdefault(tuple(_gpu(gpu, terminal)), []).append(gpu.gpu)
    for lines, alike in groups.items():
        yield alike, lines


def _gpu(gpu: GpuPreview, terminal: Terminal) -> Iterator[str]:
    """What happens to one GPU; the first line is its heading."""
    most = sys.maxsize if terminal.whole else _NAMED
    yield f"{_move(gpu)}{_until(gpu)}"
    if gpu.illness:
        yield from (
            terminal.paint(line, "red") for line in terminal.wrap(f"! unhealthy: {gpu.illness}", "    ", "      ")
        )
    if not gpu.changes:
        return
    if gpu.cured:
        told = f"! no longer held against it: {describe_xids(gpu.cured)}"
        yield from (terminal.paint(line, "green") for line in terminal.wrap(told, "    ", "      "))
    if limits := _limits(gpu.before.contract, gpu.after.contract):
        yield from terminal.wrap(f"limits: {limits}", "    ", "      ")
    if gpu.before.limit != gpu.after.limit and gpu.before.contract == gpu.after.contract:
        yield f"    requests: {_limit(gpu.before)} -> {_limit(gpu.after)} per container"
    signs = (
        ("-", gpu.removed, "red", "removed"),
        ("+", gpu.added, "green", "added"),
        ("=", gpu.kept, "dim", _kept(gpu)),
    )
    for sign, ids, style, verb in signs:
        if ids:
            yield "    " + terminal.paint(f"{sign} {len(ids)} {verb}{_numbers(ids, most)}", style)
    waits = [_drain(gpu, most)] if gpu.draining else []
    waits += [f"! waits for {gpu.obstacle}"] if gpu.obstacle else []
    for line in (line for wait in waits for line in terminal.wrap(wait, "    ", "      ")):
        yield terminal.paint(line, "yellow")
    if gpu.later:
        yield "    " + terminal.paint(f"+ {len(gpu.later)} added after that{_numbers(gpu.later, most)}", "green")


def _kept(gpu: GpuPreview) -> str:
    """Shares of what a GPU stays until what it is to become can be had go then."""
    return "kept until then" if gpu.obstacle and gpu.before.contract != gpu.after.contract else "kept"


def _drain(gpu: GpuPreview, most: int) -> str:
    """`~ 2 drain, until any 2 of these 6 have ended: …`, with so many names at most."""
    leave, held = len(gpu.draining), len(gpu.holders)
    who = [name.rpartition("/")[0] if name else "" for name in gpu.holders]
    pods = list(dict.fromkeys(name for name in who if name))
    named = pods[:most] + ([f"{len(pods) - most} more"] if len(pods) > most else [])
    if "" in who:
        named.append(f"pods that are not listed yet ({count(who.count(''), 'share')})")
    if leave == held:
        return f"~ {leave} drain{'s' if leave == 1 else ''}, held by {', '.join(named)}"
    return f"~ {leave} drain{'s' if leave == 1 else ''}: any {leave} of the {held} held by {', '.join(named)}"


def _describe(terms: Terms, nothing: str = "not advertised") -> str:
    return describe(terms.contract, terms.shares) if terms.contract is not None else nothing


def _move(gpu: GpuPreview) -> str:
    """The heading. Limits have a line of their own where they change."""
    before, after, nothing = gpu.before, gpu.after, "not advertised"
    if gpu.through_mig:
        nothing = "used through MIG devices" if gpu.gpu.mig is None else "part of a whole GPU"
    if before.contract == after.contract and before.shares == after.shares:
        return nothing if after.contract is None and gpu.through_mig else f"stays {_describe(after)}"
    was, becomes = _bare(before), _bare(after)
    if was.contract is None or was.contract != becomes.contract:
        return f"{_describe(was)} -> {_describe(becomes, nothing)}"
    others = " with other limits" if before.contract != after.contract else ""
    return f"{was.contract} x{before.shares} -> x{after.shares}{others}"


def _bare(terms: Terms) -> Terms:
    return replace(terms, contract=replace(terms.contract, limits=None)) if terms.contract is not None else terms


def _until(gpu: GpuPreview) -> str:
    """`: waits for 2 pods`, in one piece, where a GPU becomes something else only when they have ended."""
    if not gpu.draining or gpu.before.contract == gpu.after.contract:
        return ""
    pods = {name.rpartition("/")[0] for name in gpu.holders}
    waits = f"waits for {'pods' if '' in pods else count(pods, 'pod')}"
    return f": {waits.replace(' ', _NO_BREAK)}"


def _limits(before: Contract | None, after: Contract | None) -> str:
    """What limits of a share under MPS become, where they change."""
    was = before.limits if before is not None else None
    becomes = after.limits if after is not None else None
    if becomes is None or was == becomes:
        return ""
    return str(becomes) if was is None else f"{was} -> {becomes}"


def _limit(terms: Terms) -> str:
    return "any number of shares" if terms.limit is None else f"at most {terms.limit}"


def _numbers(ids: Sequence[str], most: int) -> str:
    """` (::4 to ::9)`: which shares, where they have numbers; so many of them at most."""
    numbers = sorted(number for share in ids if (number := split_share_id(share)[1]) is not None)
    if not numbers:
        return ""
    first, last = numbers[0], numbers[-1]
    if len(numbers) == 1:
        return f" (::{first})"
    if last - first + 1 == len(numbers):
        return f" (::{first} to ::{last})"
    listed = [f"::{number}" for number in numbers[:most]]
    return f" ({', '.join(listed)}{', …' if len(numbers) > most else ''})"


def _summary(preview: Preview, terminal: Terminal) -> Iterator[str]:
    if not preview.changes:
        yield terminal.paint("nothing would change", "green")
        return
    sums = {
        "added": sum(len(gpu.added) + len(gpu.later) for gpu in preview.gpus),
        "removed": sum(len(gpu.removed) for gpu in preview.gpus),
        "draining": sum(len(gpu.draining) for gpu in preview.gpus),
    }
    counts = ", ".join(f"{number} {what}" for what, number in sums.items())
    yield from terminal.wrap(f"{_changing(preview.gpus)}; shares: {counts}", "", "  ")
    in_waves = preview.moving > preview.at_a_time
    if in_waves:
        told = f"in waves: at most {preview.at_a_time} of {preview.moving} at a time, free ones first"
        yield from terminal.wrap(told, "", "  ")
    held_up = preview.kind is ChangeClass.LIVE and any(gpu.obstacle for gpu in preview.gpus)
    meaning = _CLASSES[preview.kind]
    if held_up:
        meaning = _NOT_AT_ONCE
    elif in_waves and preview.kind is ChangeClass.LIVE:
        meaning = _IN_WAVES
    yield f"class {terminal.paint(preview.kind.value, 'bold')}: {meaning}"


def _changing(gpus: Sequence[GpuPreview]) -> str:
    """`2 of 8 GPUs change`, `1 of 2 GPUs and 3 of 7 MIG devices change`."""
    whole = [gpu.changes for gpu in gpus if gpu.gpu.mig is None]
    parts = [gpu.changes for gpu in gpus if gpu.gpu.mig is not None]
    also = f" and {sum(parts)} of {len(parts)} MIG devices" if parts else ""
    return f"{sum(whole)} of {len(whole)} GPUs{also} change{'s' if sum(whole) + sum(parts) == 1 else ''}"
