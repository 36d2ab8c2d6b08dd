"""What a terminal can show: its width, and colour only where a person looks at it and did not say no.

What is not a terminal (a pipe, a file, the log of a job) gets everything in full, a line for each thing, so that `grep`
finds it. `$COLUMNS`, where it is set, says there too how wide a line of text shall be; a table is never cut for it.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TextIO

from nodeagent.model.printable import printable

USUAL: Final = 80
"""The width of a terminal that does not say how wide it is."""

NARROW: Final = 40
"""The least width that text is made for."""

ENDLESS: Final = 1 << 30
"""The width of what is not a terminal."""

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


@dataclass(frozen=True, slots=True)
class Terminal:
    """`width` in columns; `colour` whether escape sequences are understood and wanted; `whole`: nothing is cut or left
    out, whatever the width.
    """

    width: int = USUAL
    colour: bool = False
    whole: bool = False

    @property
    def table_width(self) -> int:
        """What a table has to fit into."""
        return ENDLESS if self.whole else self.width

    def few(self, lines: Sequence[str], most: int) -> Iterator[str]:
        """At most so many lines, with a word on those that are left out; all of them where nothing is."""
        if self.whole or len(lines) <= most:
            yield from lines
            return
        yield from lines[:most]
        yield f"    … {len(lines) - most} lines more: -o json"

    def paint(self, text: str, style: str) -> str:
        """The text in a style of `_CODES`, or as it is."""
        return f"\033[{_CODES[style]}m{text}\033[0m" if self.colour and text else text

    def wrap(self, text: str, indent: str = "", further: str | None = None) -> list[str]:
        """The text in lines of this width, each of its own lines indented; `further` indents what is continued."""
        more = indent if further is None else further
        return [
            line
            for part in text.split("\n")
            for line in textwrap.wrap(
                "\u00a0".join(map(printable, part.split("\u00a0"))),  # where our own words stay together
                self.width,
                initial_indent=indent,
                subsequent_indent=more,
                break_long_words=False,
                break_on_hyphens=False,
            )
            or [""]
        ]

    def paragraph(self, style: str, text: str) -> list[str]:
        """The text in painted lines, indented by two, and by four where they are continued."""
        return [self.paint(line, style) for line in self.wrap(text, "  ", "    ")]


def of(stream: TextIO | None = None) -> Terminal:
    """What stands behind a stream (stdout). $NO_COLOR, if not empty, switches colour off (no-color.org)."""
    stream = sys.stdout if stream is None else stream
    if stream is None or not stream.isatty():
        return Terminal(_columns() or ENDLESS, whole=True)
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(_columns() or _width(stream), colour)


def _columns() -> int | None:
    """What `$COLUMNS` says, None where it says nothing."""
    text = os.environ.get("COLUMNS", "")
    return max(int(text), NARROW) if text.isascii() and text.isdigit() and 0 < int(text) < ENDLESS else None


def _width(stream: TextIO) -> int:
    """What this very terminal says, which need not be the one of stdout."""
    try:
        columns = os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):  # a stream without a file, or a terminal that does not say
        columns = 0
    return max(columns, NARROW) if columns else USUAL
