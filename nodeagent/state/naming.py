"""How GPUs are called where several of them are spoken of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from nodeagent.model.inventory import Gpu


def gpus(found: Iterable[Gpu]) -> str:
    """`GPU 3`, or `GPUs 0-3, 6`, or `GPU 0 and MIG devices 1:7-13, 2:1`."""
    ordered = sorted(found, key=lambda gpu: gpu.place)
    whole = [gpu.index for gpu in ordered if gpu.mig is None]
    parts = [gpu for gpu in ordered if gpu.mig is not None]
    told = [indices(whole)] if whole or not parts else []
    if parts:
        labels = [
            f"{index}:{run}"
            for index, alike in groupby(parts, key=lambda gpu: gpu.index)
            for run in instances(list(alike))
        ]
        told.append(f"{'MIG devices' if len(parts) > 1 else 'MIG device'} {', '.join(labels)}")
    return " and ".join(told)


def instances(parts: Sequence[Gpu]) -> list[str]:
    """MIG devices of one GPU by what their labels have after its index: `7-13`, `3`, `9:1`, in this order."""
    found = [gpu.mig for gpu in sorted(parts, key=lambda gpu: gpu.place) if gpu.mig is not None]
    first = [part.gpu_instance for part in found if not part.compute_instance]
    others = [f"{part.gpu_instance}:{part.compute_instance}" for part in found if part.compute_instance]
    return [*_told(first), *others]


def indices(numbers: Sequence[int]) -> str:
    """`GPU 3`, or `GPUs 0-3, 6`: whole GPUs by their indices."""
    return f"{'GPUs' if len(numbers) > 1 else 'GPU'} {', '.join(_told(sorted(numbers)))}"


def _told(numbers: Iterable[int]) -> list[str]:
    """Ascending numbers, those that follow one another as `0-3`."""
    return [f"{first}-{last}" if last > first else f"{first}" for first, last in _runs(numbers)]


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs
