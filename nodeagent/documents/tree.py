"""A document as plain values, with the place of each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from nodeagent.documents.scalars import Misread
from nodeagent.model.config import Violation, Where

Path = tuple[str | int, ...]
"""From the root of a document: keys of objects and indices of lists."""

Mark = tuple[int, int]
"""Line and column, from 1."""

_PLAIN_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def dotted(path: Path) -> str:
    """`spec.rules[0].match`; keys with other characters are quoted: `data["sharing.yaml"]`."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        elif _PLAIN_KEY.fullmatch(step):
            text += f".{step}" if text else step
        else:
            text += f'["{step}"]'
    return text


@dataclass(frozen=True)
class Tree:
    """One document: plain dicts, lists, strings, integers, floats, booleans and None, and where each of them stands.

    `problems` is what is wrong with its YAML; a value that could not be read is `scalars.UNUSABLE` in `value`.
    `literals` are the paths of `|` block scalars, whose lines are lines of the file. `misread` are those problems whose
    fix depends on what the place takes: words that may mean several things, with their paths, and keys. `incomplete`
    are objects of which not every key could be read, `borrowed` are values that another place wanted to refer to.
    """

    value: object
    file: str
    problems: tuple[Violation, ...] = ()
    literals: frozenset[Path] = frozenset()
    values: Mapping[Path, Mark] = field(default_factory=dict, repr=False)
    keys: Mapping[Path, Mark] = field(default_factory=dict, repr=False)
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
