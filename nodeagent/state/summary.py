"""What an accepted document does to the node, in one line: the class of the change, and the change itself in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nodeagent.model.snapshot import ChangeClass
from nodeagent.state.desired import Desired, describe
from nodeagent.state.drift import share_count
from nodeagent.state.observed import Observed, by_gpu, holdings
from nodeagent.state.transition import divide


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of the node: `text` for a person, `draining` the number of held shares that must drain first."""

    kind: ChangeClass
    text: str
    draining: int = 0


def change(desired: Desired | None, observed: Observed) -> Change:
    """How the wanted state differs from the applied one, GPUs that change alike named together."""
    if desired is None:
        return Change(ChangeClass.NONE, "what is applied is kept")
    held = by_gpu(observed.held)
    moves: dict[tuple[str, str], list[int]] = {}
    drains: dict[int, list[int]] = {}
    for entry in observed.applied.ordered():
        uuid, index = entry.gpu.uuid, entry.gpu.index
        want = desired.wants.get(uuid)
        contract, count = (want.contract, want.count) if want is not None else (None, 0)
        offered = share_count(entry)
        if (entry.contract, offered) == (contract, count):
            continue
        before = describe(entry.contract, offered) if entry.contract is not None and offered else "nothing"
        moves.setdefault((before, describe(contract, count)), []).append(index)
        own = holdings(entry, held.get(uuid, ())).own if observed.readable else entry.numbers
        if drain := divide(entry, own, count if contract == entry.contract else 0).drain:
            drains.setdefault(len(drain), []).append(index)
    fresh = [want for uuid, want in desired.wants.items() if uuid not in observed.applied.gpus]
    for want in sorted(fresh, key=lambda want: want.gpu.index):
        if want.contract is not None:
            moves.setdefault(("nothing", describe(want.contract, want.count)), []).append(want.gpu.index)
    if not moves:
        return Change(ChangeClass.NONE, "nothing changes")
    text = "; ".join(f"{gpus(indices)}: {before} -> {after}" for (before, after), indices in moves.items())
    if not drains:
        return Change(ChangeClass.LIVE, text)
    waits = ", ".join(
        f"{count} {'each ' if len(indices) > 1 else ''}on {gpus(indices)}" for count, indices in drains.items()
    )
    draining = sum(count * len(indices) for count, indices in drains.items())
    return Change(ChangeClass.DRAINED, f"{text}; held shares drain: {waits}", draining)


def gpus(indices: Sequence[int]) -> str:
    """`GPU 3`, or `GPUs 0-3, 6`."""
    parts = [f"{first}-{last}" if last > first else f"{first}" for first, last in _runs(sorted(indices))]
    return f"{'GPUs' if len(indices) > 1 else 'GPU'} {', '.join(parts)}"


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
