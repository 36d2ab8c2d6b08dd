"""What a terminal can show: its width, and colour only where a person looks at it and did not say no."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import Final, TextIO

from nodeagent.model.printable import printable

NARROW: Final = 80
"""The width of what is not a terminal, and the least that tables are made for."""

_CODES: Final = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}


@dataclass(frozen=True, slots=True)
class Terminal:
    """`width` in columns; `colour` whether escape sequences are understood and wanted."""

    width: int = NARROW
    colour: bool = False

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
    if not stream.isatty():
        return Terminal()
    colour = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return Terminal(max(shutil.get_terminal_size((NARROW, 24)).columns, NARROW), colour)
