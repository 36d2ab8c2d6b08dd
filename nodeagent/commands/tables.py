"""Tables of plain text that fit a terminal: columns as wide as their content, the patient ones cut where it must be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent.model.printable import printable

_GAP: Final = "  "
_CUT: Final = "…"


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `least` is the width to which it may be cut (None: never), from the left with `keep_end`, which goes
    first; `style` paints a cell once it is padded.
    """

    title: str
    right: bool = False
    least: int | None = None
    keep_end: bool = False
    style: Callable[[str], str] | None = None


def table(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """The lines of a table, its heading first, of at most `width` characters if cutting can make it so."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [
        max(len(column.title), *(len(row[position]) for row in rows)) if rows else len(column.title)
        for position, column in enumerate(columns)
    ]
    _shrink(columns, widths, width)
    heading = _GAP.join(_fit(column.title, column, size) for column, size in zip(columns, widths, strict=True))
    return [heading.rstrip(), *(_line(columns, widths, row) for row in rows)]


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take what is too much from the columns that may be cut, the widest first, character by character."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    while excess > 0:
        cuttable = [
            position
            for position, column in enumerate(columns)
            if column.least is not None and widths[position] > max(column.least, len(column.title))
        ]
        if not cuttable:
            return
        widths[max(cuttable, key=lambda position: (columns[position].keep_end, widths[position]))] -= 1
        excess -= 1


def _line(columns: Sequence[Column], widths: Sequence[int], row: Sequence[str]) -> str:
    cells = []
    for column, size, text in zip(columns, widths, row, strict=True):
        cell = _fit(text, column, size)
        cells.append(column.style(cell) if column.style is not None else cell)
    return _GAP.join(cells).rstrip()


def _fit(text: str, column: Column, size: int) -> str:
    if len(text) > size:
        text = _CUT + text[len(text) - size + 1 :] if column.keep_end else text[: size - 1] + _CUT
    return text.rjust(size) if column.right else text.ljust(size)
