"""What an accepted document does to the node, in one line: the class of the change, and the change itself in words."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from nodeagent.model.inventory import Gpu
from nodeagent.model.snapshot import ChangeClass
from nodeagent.state.desired import Desired, describe
from nodeagent.state.drift import GONE, share_count, wish
from nodeagent.state.naming import gpus
from nodeagent.state.observed import Observed, by_gpu, holdings
from nodeagent.state.transition import divide


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the node: `text` for a person, `draining` the number of held shares that must drain first."""

    kind: ChangeClass
    text: str
    draining: int = 0


def change(desired: Desired | None, observed: Observed, among: AbstractSet[str] | None = None) -> Change:
    """How the wanted state differs from the applied one, GPUs that change alike named together; of the GPUs `among`
    only, where that is given.
    """
    if desired is None:
        return Change(ChangeClass.NONE, "what is applied is kept")
    held = by_gpu(observed.held)
    moves: dict[tuple[str, str], list[Gpu]] = {}
    drains: dict[int, list[Gpu]] = {}
    for entry in observed.applied.ordered():
        uuid, gpu = entry.gpu.uuid, entry.gpu
        if among is not None and uuid not in among:
            continue
        want = desired.wants.get(uuid)
        contract, count = (want.contract, want.count) if want is not None else (None, 0)
        offered = share_count(entry)
        if (entry.contract, offered) == (contract, count):
            continue
        before = describe(entry.contract, offered) if entry.contract is not None and offered else "nothing"
        moves.setdefault((before, wish(want) if want is not None else GONE), []).append(gpu)
        own = holdings(entry, held.get(uuid, ())).own if observed.readable else entry.numbers
        if drain := divide(entry, own, count if contract == entry.contract else 0).drain:
            drains.setdefault(len(drain), []).append(gpu)
    fresh = [want for uuid, want in desired.wants.items() if uuid not in observed.applied.gpus]
    for want in sorted(fresh, key=lambda want: want.gpu.place):
        if want.contract is not None and (among is None or want.gpu.uuid in among):
            moves.setdefault(("nothing", wish(want)), []).append(want.gpu)
    if not moves:
        return Change(ChangeClass.NONE, "nothing changes")
    text = "; ".join(f"{gpus(moved)}: {before} -> {after}" for (before, after), moved in moves.items())
    if not drains:
        return Change(ChangeClass.LIVE, text)
    waits = ", ".join(
        f"{count} {'each ' if len(waiting) > 1 else ''}on {gpus(waiting)}" for count, waiting in drains.items()
    )
    draining = sum(count * len(waiting) for count, waiting in drains.items())
    return Change(ChangeClass.DRAINED, f"{text}; held shares drain: {waits}", draining)
