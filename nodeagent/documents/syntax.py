"""Says what is wrong with a text that is no YAML in its author's words, and where it begins.

A parser reports where it gave up, which is often a line after the mistake, and in the words of YAML's grammar.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from nodeagent.documents.tree import Mark

if TYPE_CHECKING:
    import yaml

_CONFLICT: Final = re.compile(r"^(?:<{7}|={7}|>{7})(?=[ \r\n]|\Z)", re.MULTILINE)


def explain(text: str, error: yaml.MarkedYAMLError) -> tuple[Mark, str]:
    """The place of the mistake, and what it is."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return (1, 1), f"expected YAML, got something else: {error.problem}"
    conflict = _CONFLICT.search(text)
    if conflict:
        return end(text[: conflict.start()]), f"expected YAML, got the merge conflict marker {conflict[0]}"
    at = mark.line + 1, mark.column + 1
    line = text.split("\n")[mark.line] if mark.line <= text.count("\n") else ""
    if line[mark.column : mark.column + 1] == "\t":
        return at, "expected spaces as indentation, got a tab; use spaces"
    context = f" {error.context}" if error.context else ""
    if error.context_mark is not None and error.context_mark.line != mark.line:
        context += f" that starts in line {error.context_mark.line + 1}"
    return at, f"expected YAML, got something else: {error.problem}{context}"


def end(before: str) -> Mark:
    """The place that follows a text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")
