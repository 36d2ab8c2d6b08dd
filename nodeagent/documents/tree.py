"""A document as plain values, with the place of each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nodeagent.documents.lookalikes import Odd
from nodeagent.documents.scalars import Misread
from nodeagent.model.config import Violation, Where
from nodeagent.model.printable import cut, printable

Path = tuple[str | int, ...]
"""From the root of a document: keys of objects and indices of lists."""

Mark = tuple[int, int]
"""Line and column, from 1."""

MOST_KEPT: Final = 1000
"""How many mistakes are kept of one kind: those of the YAML, or those against a schema. Nobody reads more."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
_LINE: Final = re.compile(r'"[^"]*"|\bline ([0-9]{1,9})\b')
_LONGEST_KEY: Final = 80
_LONGEST_PATH: Final = 400


def dotted(path: Path) -> str:
    """`spec.rules[0].match`; keys with other characters are quoted: `data["sharing.yaml"]`. Of bounded length."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif len(step) <= _LONGEST_KEY and _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{brief(step)}"]'
    return cut(text, _LONGEST_PATH)


def brief(key: str) -> str:
    """A key as it can be printed, shortened."""
    return printable(cut(key, _LONGEST_KEY))


def shifted(message: str, lines: int) -> str:
    """A message about a text, as one about the file that the text stands in so many lines further down.

    >>> shifted('expected 4 spaces (as in line 7), got "line 3"', 10)
    'expected 4 spaces (as in line 17), got "line 3"'
    """
    return _LINE.sub(lambda found: f"line {int(found[1]) + lines}" if found[1] else found[0], message)


@dataclass(frozen=True)
class Tree:
    """One document: plain dicts, lists, strings, integers, floats, booleans and None, and where each of them stands.

    `problems` is what is wrong with its YAML; a value that could not be read is `scalars.UNUSABLE` in `value`.
    `literals` are the paths of `|` block scalars, whose lines are lines of the file. `odd_keys` and `odd_values` are
    those that hold a character which looks like another one, or like nothing. `misread` are those problems whose fix
    depends on what the place takes: words that may mean several things, and words (None) that are no keys. `incomplete`
    are objects of which not every key could be read, `borrowed` are values that another place wanted to refer to.
    """

    value: object
    file: str
    problems: tuple[Violation, ...] = ()
    literals: frozenset[Path] = frozenset()
    values: Mapping[Path, Mark] = field(default_factory=dict, repr=False)
    keys: Mapping[Path, Mark] = field(default_factory=dict, repr=False)
    odd_keys: Mapping[Path, Odd] = field(default_factory=dict, repr=False)
    odd_values: Mapping[Path, Odd] = field(default_factory=dict, repr=False)
    misread: Mapping[Violation, tuple[Path, Misread | None]] = field(default_factory=dict, repr=False)
    incomplete: frozenset[Path] = frozenset()
    borrowed: frozenset[Path] = frozenset()

    def where(self, path: Path, *, key: bool = False) -> Where:
        """The place of the value at `path`, or of its key; of the nearest thing around it where there is none."""
        if key and path in self.keys:
            return Where(dotted(path), *self.keys[path])
        known = path
        while known and known not in self.values:
            known = known[:-1]
        return Where(dotted(path), *self.values.get(known, (1, 1)))
