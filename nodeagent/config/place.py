"""Where a text stands that is itself a value in a file: a config in a ConfigMap, values in a HelmRelease.

What is wrong with it is reported with its place in the outer file, where an editor or a review can point to it: exactly
for block scalars (`|`), whose lines are lines of the file, otherwise with the place inside its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from nodeagent.documents.tree import Path, Tree, shifted
from nodeagent.model.config import Stage, Violation, Where

_FIRST: Final = re.compile(r"^( *)[^ \n]", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Place:
    """The text at `path` of `tree`, which was read from `lines`. Its first `skipped` characters are not of the document
    in it; `outer` is where the lines stand themselves, None for a file.
    """

    tree: Tree
    path: Path
    text: str
    lines: Sequence[str] = field(repr=False)
    skipped: int = 0
    outer: Place | None = None

    def outside(self, violation: Violation, inside: str = "") -> Violation:
        """A violation in the text, as one in the file. `inside` names the text, where the file has several."""
        inner = violation.where
        column = inner.column + (self.skipped if inner.line == 1 else 0)
        start = self.tree.where(self.path)
        found = replace(violation, file=self.tree.file, inside=f"{inside}:{inner.line}:{column}" if inside else "")
        if self.path in self.tree.literals:
            where = Where(inner.path, start.line + inner.line, column + self._indent(start.line))
            found = replace(found, where=where, message=shifted(violation.message, start.line))
        elif inside:
            found = replace(found, where=replace(start, path=inner.path))
        else:
            path = f"{inner.path}: " if inner.path else ""
            message = f"in its line {inner.line}, column {column}: {path}{violation.message}"
            found = replace(found, where=start, message=message)
        if self.outer is None:
            return found
        return replace(self.outer.outside(replace(found, inside="")), inside=found.inside)

    def at(self, where: Where) -> Where:
        """A place in `tree`, as one in the file."""
        if self.outer is None:
            return where
        return self.outer.outside(Violation(self.tree.file, where, "", Stage.PARSE), "it").where

    def _indent(self, header: int) -> int:
        """How far a block scalar is moved to the right; `header` is the line of its `|`, from 1."""
        first = _FIRST.search(self.text)
        if first is None:
            return 0
        at = header + self.text.count("\n", 0, first.start())
        return _spaces(self.lines[at]) - len(first[1]) if at < len(self.lines) else 0


def _spaces(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
