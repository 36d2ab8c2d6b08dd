"""Says what is wrong with a text that is no YAML in its author's words, and where it begins.

A parser reports where it gave up, which is often a line after the mistake, and in the words of YAML's grammar. What is
not recognised as one of the usual mistakes is reported in the parser's words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from nodeagent.documents.syntax_block import block
from nodeagent.documents.syntax_marks import marks
from nodeagent.documents.syntax_pasted import pasted
from nodeagent.documents.syntax_scene import Cause, Scene, scene

if TYPE_CHECKING:
    import yaml

    from nodeagent.documents.tree import Mark

_CONFLICT: Final = re.compile(r"^(?:<{7}|={7}|>{7}|\|{7})(?=[ \r\n]|\Z)", re.MULTILINE)
_CAUSES: Final[tuple[Callable[[Scene], Cause | None], ...]] = (pasted, marks, block)


def explain(text: str, error: yaml.MarkedYAMLError, tokens: Iterator[yaml.Token]) -> Cause:
    """The place of the mistake, and what it is. `tokens` are those of the text; they may raise yaml.YAMLError."""
    conflict = _CONFLICT.search(text)
    if conflict:
        message = f"expected YAML, got the merge conflict marker {conflict[0]}; keep one of the two sides"
        return end(text[: conflict.start()]), message
    found = scene(text, error, _until_error(tokens))
    if found is None:
        return (1, 1), f"expected YAML, got something else: {error.problem}"
    for cause in _CAUSES:
        known = cause(found)
        if known is not None:
            return known
    context = f" {found.context}" if found.context else ""
    if found.context_line != found.line:
        context += f" that starts in line {found.context_line + 1}"
    return found.at, f"expected YAML, got something else: {found.problem}{context}"


def _until_error(tokens: Iterator[yaml.Token]) -> Iterator[yaml.Token]:
    import yaml

    try:
        yield from tokens
    except yaml.YAMLError:
        return


def end(before: str) -> Mark:
    """The place that follows a text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")
