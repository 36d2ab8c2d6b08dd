"""Rows of the printed table, and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number. `promised` None: told for the context, and nothing is promised about it."""

    what: str
    value: float
    unit: str
    promised: float | None = None
    note: str = ""

    @property
    def kept(self) -> str:
        """Whether the promise is kept; empty where there is none."""
        if self.promised is None:
            return ""
        return "yes" if self.value <= self.promised else "NO"


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest of the values that `percent` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, aligned for a terminal."""
    head = ("what", "measured", "promised", "kept", "note")
    cells = [
        (
            row.what,
            f"{_number(row.value)} {row.unit}".rstrip(),
            "" if row.promised is None else f"{_number(row.promised)} {row.unit}".rstrip(),
            row.kept,
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *cells)) for column in range(len(head))]
    lines = [head, tuple("-" * width for width in widths), *cells]
    return "\n".join(_line(line, widths) for line in lines)


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
