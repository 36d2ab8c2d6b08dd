"""What a person sees of the demo: plain lines of at most 80 columns, in colour where a terminal shows it.

Everything reads the same without colour, since CI logs are read as well; each line is flushed, since people watch.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TextIO

WIDTH = 80
"""Lines are never longer, whatever the terminal: the demo is also pasted into issues and pages."""

_LEAST = 40
_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "magenta": "35", "cyan": "36"}


class Screen:
    """Writes to `stream`. Colour: on a terminal, unless $NO_COLOR is set or $TERM is dumb."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        terminal = stream.isatty()
        self.colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        columns = shutil.get_terminal_size((WIDTH, 24)).columns if terminal else WIDTH
        self.width = max(_LEAST, min(WIDTH, columns))

    def paint(self, text: str, style: str) -> str:
        """The text in a style, where there is colour."""
        return f"\033[{_CODES[style]}m{text}\033[0m" if self.colour and text else text

    def line(self, text: str = "", style: str | None = None) -> None:
        """One line as it is; `text` may have been painted, and is no longer than the width."""
        text = self.paint(text, style) if style is not None else text
        # A log that cannot carry a character shall show a question mark for it, and not end the demo.
        encoding = self._stream.encoding or "utf-8"
        print(text.encode(encoding, "replace").decode(encoding), file=self._stream, flush=True)

    def heading(self, text: str) -> None:
        """The beginning of a part: ruled across the width, after an empty line."""
        self.line()
        self.line(f"== {text} ".ljust(self.width, "="), "bold")
        self.line()

    def say(self, text: str, *, lead: str = "  ", style: str | None = None) -> None:
        """A paragraph. `lead` begins its first line and indents the others; line breaks in the text are kept."""
        for part in text.splitlines():
            for line in self.wrapped(part, lead):
                self.line(line, style)
            lead = " " * len(lead)

    def labelled(self, label: str, text: str, style: str | None = None) -> None:
        """A paragraph with a short label in a column before it: who says it, or how it came out."""
        lead = f"  {label:<8}"
        for number, line in enumerate(self.wrapped(text, lead)):
            head, rest = line[: len(lead)], line[len(lead) :]
            self.line((self.paint(head, style) if style and not number else head) + rest)

    def wrapped(self, text: str, lead: str) -> list[str]:
        """The text in lines of the width; a word that is longer than a line (a path, a metric) is broken."""
        return textwrap.wrap(
            text, self.width, initial_indent=lead, subsequent_indent=" " * len(lead), break_on_hyphens=False
        ) or [lead.rstrip()]
