"""What is wrong with the GPUs of a status document, for people: those that are lost or hang, and XIDs with what to do.

A MIG device has the faults of its GPU, which are told once. XIDs that are only counted are not told here: a program
that fails is no fault of the node's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from nodeagent.commands.ages import age
from nodeagent.commands.client import Status
from nodeagent.commands.status_names import named
from nodeagent.commands.terminal import Terminal
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.snapshot import DriftKind
from nodeagent.state.naming import gpus as gpu_list

Facts = Mapping[str, Any]

_OK: Final = GpuHealth.OK.value
_NO_BREAK: Final = "\N{NO-BREAK SPACE}"
"""A command stays in one line, so that it can be copied."""


def lines(status: Status, terminal: Terminal, now: float) -> Iterator[str]:
    """All of it; `now` in Unix seconds."""
    gpus = status["gpus"]
    whole = {gpu["uuid"]: gpu for gpu in gpus}
    since = {drift["subject"]: drift["since"] for drift in status["drift"] if drift["kind"] == DriftKind.HARDWARE.value}
    broken: dict[tuple[str, str], list[Gpu]] = {}
    for gpu in gpus:
        if gpu["health"] != _OK and not _is_broken(_parent(gpu, whole)):
            broken.setdefault((gpu["health"], gpu["message"]), []).append(named(gpu))
    for (health, message), alike in broken.items():
        ages = [since[gpu.name] for gpu in alike if gpu.name in since]
        lasts = f", for {age(min(ages), now)}" if ages else ""
        does = _does(health, len(alike))
        yield from terminal.paragraph("red", f"{gpu_list(alike)} {does}{lasts}: {message}")
    for gpu in gpus:
        inherited = {one["xid"] for one in _xids(_parent(gpu, whole))}
        if own := [one for one in _xids(gpu) if one["xid"] not in inherited]:
            command = f"nodeagent clear-health {gpu['uuid']}".replace(" ", _NO_BREAK)
            told = f"{named(gpu).name}: {_told(own, now)}; {_effect(gpu, gpus)}; mend it, then: {command}"
            yield from (line.replace(_NO_BREAK, " ") for line in terminal.paragraph("red", told))


def _does(health: str, number: int) -> str:
    """In words: `is lost`, `each hang`. A newer agent may know of another state."""
    try:
        return GpuHealth(health).said(number)
    except ValueError:
        return f"{'is' if number == 1 else 'are each'} {health}"


def _parent(gpu: Facts, whole: Mapping[str, Facts]) -> Facts | None:
    part = gpu.get("mig")
    return whole.get(part["parent"]) if part else None


def _is_broken(gpu: Facts | None) -> bool:
    return gpu is not None and gpu["health"] != _OK


def _xids(gpu: Facts | None) -> Sequence[Facts]:
    """Those that make it unhealthy. An older agent knows of none."""
    applied = gpu["applied"] if gpu is not None else None
    return applied.get("xids", ()) if applied is not None else ()


def _told(xids: Sequence[Facts], now: float) -> str:
    """`XID 79 (GPU has fallen off the bus), 3m ago`."""
    return ", and ".join(
        f"XID {one['xid']}{' (' + one['meaning'] + ')' if one['meaning'] else ''}, {age(one['lastSeen'], now)} ago"
        for one in xids
    )


def _effect(gpu: Facts, gpus: Sequence[Facts]) -> str:
    if any(part["parent"] == gpu["uuid"] for one in gpus if (part := one.get("mig"))):
        return "all its MIG devices are unhealthy"
    return "all its shares are unhealthy" if len(gpu["shares"]) > 1 else "it is unhealthy"
