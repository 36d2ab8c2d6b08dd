"""The GPUs of a status document for people: a line each, with one for all MIG devices that are alike, and below them
what is wrong with any of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Final

from nodeagent.commands import status_faults
from nodeagent.commands.ages import age
from nodeagent.commands.client import Status
from nodeagent.commands.status_names import named
from nodeagent.commands.tables import Column, table
from nodeagent.commands.terminal import Terminal
from nodeagent.documents.quantities import format_quantity
from nodeagent.model.config import MIB, THROUGH_MIG
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import DaemonState, MpsReason
from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import DriftKind
from nodeagent.model.words import count
from nodeagent.state.naming import gpus as gpu_list
from nodeagent.state.naming import instances

_TITLES: Final = {
    ShareState.FREE: "FREE",
    ShareState.HELD: "HELD",
    ShareState.DRAINING: "DRAIN",
    ShareState.FENCED: "FENCE",
    ShareState.UNHEALTHY: "FAULT",
}
"""Short, so that a node with all of them fits."""

_ALWAYS: Final = (ShareState.FREE, ShareState.HELD)
_SERIOUS: Final = frozenset({DaemonState.FAILED.value, DaemonState.OCCUPIED.value})
_VENDOR: Final = "NVIDIA "


Facts = dict[str, Any]
"""One GPU or MIG device, as the document has it."""


def lines(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """All of it; `now` in Unix seconds."""
    gpus = status["gpus"]
    rows = [_Row(alike) for alike in _alike(gpus)]
    states = [state for state in ShareState if state in _ALWAYS or any(row.counts[state] for row in rows)]
    names = {_offer(gpu)[1].rpartition("/")[2] for gpu in gpus}
    renumbered = any(row.driver_label not in {"-", str(row.first["index"])} for row in rows)
    columns = [
        Column("GPU", right=not any(gpu.get("mig") for gpu in gpus)),
        *([Column("DRIVER", right=True)] if renumbered else []),
        Column("MODEL", least=8),
        Column("MODE"),
        Column("RESOURCE", least=1 + max((len(name) for name in names), default=0), keep_end=True),
        *(Column(_TITLES[state], right=True, style=_style(state, terminal)) for state in states),
    ]
    vendor = _VENDOR if all(gpu["model"].startswith(_VENDOR) for gpu in gpus) else ""
    cells = [
        (
            row.label,
            *([row.driver_label] if renumbered else []),
            row.model.removeprefix(vendor),
            *_offer(row.first),
            *(str(row.counts[state] or "-") for state in states),
        )
        for row in rows
    ]
    if cells:
        yield from (f"  {line}" for line in table(columns, cells, terminal.table_width - 2))
    yield from status_faults.lines(status, terminal, now)
    yield from _daemons(status, terminal, now)


def _alike(gpus: Iterable[Facts]) -> list[list[Facts]]:
    """What is told in one row: a GPU, or those MIG devices of one that are of one profile and offered alike."""
    groups: dict[tuple[str, ...], list[Facts]] = {}
    for gpu in gpus:
        part = gpu.get("mig")
        key = (part["parent"], part["profile"], *_offer(gpu)) if part else (gpu["uuid"],)
        groups.setdefault(key, []).append(gpu)
    return list(groups.values())


class _Row:
    """A row of the table, its shares counted by state."""

    def __init__(self, alike: Sequence[Facts]) -> None:
        self.first = alike[0]
        self.counts = Counter(ShareState(share["state"]) for gpu in alike for share in gpu["shares"])
        self.label, self.model = str(self.first["index"]), str(self.first["model"])
        # What the driver calls it: nothing while it is lost, and by an older agent.
        number = self.first.get("driverIndex")
        self.driver_label = "-" if number is None else str(number)
        if part := self.first.get("mig"):
            self.label += f":{','.join(instances([named(gpu) for gpu in alike]))}"
            self.model = part["profile"] if len(alike) == 1 else f"{len(alike)} x {part['profile']}"


def _daemons(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """MPS daemons that are not as they should be, GPUs of which the same is to be said together."""
    gpus = {named(gpu).name: gpu for gpu in status["gpus"]}
    found: dict[tuple[str, str], list[tuple[Gpu, str]]] = {}
    for drift in status["drift"]:
        gpu = gpus.get(drift["subject"])
        if drift["kind"] == DriftKind.MPS.value and gpu is not None:
            daemon = gpu["daemon"]
            restarts = f" ({count(daemon['restarts'], 'restart')})" if daemon and daemon["restarts"] else ""
            serious = daemon["state"] in _SERIOUS if daemon else status["mps"]["reason"] != MpsReason.RUNNING.value
            key = ("red" if serious else "yellow", f"{drift['have']}{restarts}")
            found.setdefault(key, []).append((named(gpu), drift["since"]))
    for (style, what), alike in found.items():
        oldest = age(min(since for _, since in alike), now)
        yield from terminal.paragraph(style, f"MPS daemon of {gpu_list(gpu for gpu, _ in alike)}: {what}, for {oldest}")


def _offer(gpu: Facts) -> tuple[str, str]:
    """Mode, under MPS with the limits of a share, and resource as the kubelet is told. A GPU that is used through its
    MIG devices has no other mode.
    """
    applied, wanted = gpu["applied"], gpu["wanted"]
    if applied is not None and applied["mode"] is not None:
        limits = applied["limits"]
        allowed = f" {format_quantity(limits['memoryMiB'] * MIB)} {limits['threadPercentage']}%" if limits else ""
        return f"{applied['mode']}{allowed}", applied["resource"]
    if wanted["rule"] == THROUGH_MIG.name or (wanted["rule"] is None and gpu.get("migEnabled")):
        return ("MIG" if not gpu.get("mig") else "-"), "-"
    return ("withheld", "-") if wanted["rule"] is not None and wanted["resource"] is None else ("-", "-")


def _style(state: ShareState, terminal: Terminal) -> Callable[[str], str] | None:
    """Cells of states that are out of the ordinary catch the eye where they are not empty."""
    if state in _ALWAYS:
        return None
    return partial(_paint_count, terminal, "red" if state is ShareState.UNHEALTHY else "yellow")


def _paint_count(terminal: Terminal, style: str, cell: str) -> str:
    return cell if cell.strip() == "-" else terminal.paint(cell, style)
