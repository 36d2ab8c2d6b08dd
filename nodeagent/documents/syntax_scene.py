"""Where a parser gave up, with what is around it: what the causes of syntax errors are recognised by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from nodeagent.documents.tree import Mark

if TYPE_CHECKING:
    import yaml

Cause = tuple[Mark, str]
"""The place where a mistake begins, and what it is."""

_BREAK: Final = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_KEY: Final = re.compile(
    r"""(?:-[ ]+)*(?P<key>"[^"]*"|'[^']*'|[^\s"'\[\]{}#&*!|>%@`,?:-][^"'\[\]{}#]*?)[ ]*:(?:[ ]+(?P<value>.*))?"""
)
_LONGEST: Final = 40
_LONGEST_LINE: Final = 1000
_FARTHEST: Final = 2000


@dataclass(frozen=True, slots=True)
class Word:
    """A quoted text of the document: its first and last place, from 1, the last one after its closing quote."""

    start: Mark
    end: Mark
    quote: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A parser's error in a text. Lines count from 0, columns too; those of `Cause` and `Word` from 1."""

    lines: tuple[str, ...]
    line: int
    column: int
    problem: str
    context: str
    context_line: int
    context_column: int
    quoted: tuple[Word, ...]
    open_brackets: tuple[tuple[str, Mark], ...]

    @property
    def at(self) -> Mark:
        return self.line + 1, self.column + 1

    @property
    def opening(self) -> Mark:
        """Where what the parser was reading begins."""
        return self.context_line + 1, self.context_column + 1

    @property
    def here(self) -> str:
        """The text from the error to the end of its line."""
        return self.text(self.line)[self.column :]

    def text(self, line: int) -> str:
        """A line, cut where it is long, and empty where there is none."""
        return self.lines[line][:_LONGEST_LINE] if 0 <= line < len(self.lines) else ""

    def indent(self, line: int) -> int:
        """How many spaces a line begins with."""
        text = self.text(line)
        return len(text) - len(text.lstrip(" "))

    def first_key(self, line: int) -> int:
        """How far from its beginning the first text of a line stands, behind the dashes of a list."""
        found = re.match(r" *(?:- +)*", self.text(line))
        return found.end() if found else 0

    def before(self, line: int) -> Iterator[int]:
        """The lines with content before a line, the nearest first, as far as they are near."""
        return (number for number in range(line - 1, max(line - _FARTHEST, 0) - 1, -1) if content(self.text(number)))

    def around(self) -> Iterator[int]:
        """The lines in which a mistake may stand that was found here, in order."""
        first = self.context_line if 0 <= self.line - self.context_line <= 1 else self.line
        previous = next(self.before(self.line), self.line)
        return iter(sorted({previous, first, self.line}))


def scene(text: str, error: yaml.MarkedYAMLError, tokens: Iterator[yaml.Token]) -> Scene | None:
    """What is around an error; None where the parser names no place. `tokens` are those of the text, up to an error."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return None
    opening = error.context_mark or mark
    quoted, brackets = _marks(tokens, (mark.line + 1, mark.column + 1))
    return Scene(
        tuple(_BREAK.split(text)),
        mark.line,
        mark.column,
        str(error.problem or ""),
        str(error.context or ""),
        opening.line,
        opening.column,
        quoted,
        brackets,
    )


def _marks(tokens: Iterator[yaml.Token], until: Mark) -> tuple[tuple[Word, ...], tuple[tuple[str, Mark], ...]]:
    """The quoted texts that matter (those of several lines, and the last one), and the brackets that are open."""
    import yaml

    quoted: list[Word] = []
    brackets: list[tuple[str, Mark]] = []
    opens = {yaml.FlowSequenceStartToken: "[", yaml.FlowMappingStartToken: "{"}
    for token in tokens:
        start = token.start_mark.line + 1, token.start_mark.column + 1
        if start >= until:
            break
        if isinstance(token, yaml.ScalarToken) and token.style in ("'", '"'):
            if quoted and quoted[-1].start[0] == quoted[-1].end[0]:
                quoted.pop()
            quoted.append(Word(start, (token.end_mark.line + 1, token.end_mark.column + 1), token.style))
        elif type(token) in opens:
            brackets.append((opens[type(token)], start))
        elif isinstance(token, yaml.FlowSequenceEndToken | yaml.FlowMappingEndToken) and brackets:
            brackets.pop()
    return tuple(quoted), tuple(brackets)


def content(line: str) -> str:
    """A line without what is around its content; empty for a comment."""
    text = line.strip()
    return "" if text.startswith("#") else text


def key_of(text: str) -> tuple[str, str] | None:
    """The key that a line begins with, and what stands behind it; None where it begins with none."""
    found = _KEY.fullmatch(text.strip())
    return (found["key"].strip("\"'"), found["value"] or "") if found else None


def short(text: str) -> str:
    """A piece of the document, as long as a message may show it."""
    text = text.strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def two_values(value: str, otherwise: str) -> str:
    """Says that a value has a colon in it where the next key was to begin; `otherwise` is what to do if it is a key."""
    return f'expected one value, got "{value}", which has another ": " in it; put it in quotes, or {otherwise}'


def spaces(number: int) -> str:
    """`1 space`, `2 spaces`, `no space`."""
    return f"{number or 'no'} space{'s' if number > 1 else ''}"
