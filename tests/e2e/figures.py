"""What a run has measured: a table at its end, as in docs/benchmarks.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(slots=True)
class Figures:
    """Figures in the order in which they came. `where` says on which cluster, a line each."""

    where: list[str] = field(default_factory=list)
    rows: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, what: str, measured: str, note: str = "") -> None:
        """One figure; the last of those with one name counts."""
        self.rows[what] = (measured, note)

    def seconds(self, what: str, measured: float, note: str = "") -> None:
        """A time, to a tenth of a second; one below 100 ms in milliseconds."""
        self.add(what, f"{measured:.1f} s" if measured >= 0.1 else f"{measured * 1000:.0f} ms", note)

    def table(self) -> str:
        """All of it, in Markdown."""
        cells = [("what", "measured", "note"), *((what, *row) for what, row in self.rows.items())]
        widths = [max(len(row[column]) for row in cells) for column in range(3)]
        lines = [
            f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |" for row in cells
        ]
        lines.insert(1, f"| {' | '.join('-' * width for width in widths)} |")
        return "\n".join(lines)

    def report(self) -> str:
        """The table under what it is a table of."""
        return "\n".join([*(f"- {line}" for line in self.where), "", self.table(), ""])

    def write(self, file: Path) -> None:
        """Raises OSError."""
        file.write_text(self.report(), encoding="utf-8")
