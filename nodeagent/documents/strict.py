"""Reads YAML the strict way: nothing is guessed, nothing is dropped, and all mistakes are reported together.

Bounds on size, depth and nodes are checked while the parser's events come, so that a hostile file costs little.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import islice
from typing import Final

import yaml

from nodeagent.documents.builder import Bounds, Builder, Rejected
from nodeagent.documents.lookalikes import in_lines, line_break, named
from nodeagent.documents.syntax import end, explain
from nodeagent.documents.tree import Mark, Path, Tree, dotted
from nodeagent.model.config import Stage, Violation, Where

__all__ = ["LARGEST", "Path", "Rejected", "Tree", "dotted", "examine", "read", "read_all"]

LARGEST: Final = 1 << 20
"""Bytes of a document, or of a ConfigMap, which the API keeps no larger."""
_ONE_DOCUMENT: Final = Bounds(size=LARGEST, nodes=20_000, heard=2)
_BUNDLE: Final = Bounds(size=16 << 20, nodes=500_000, heard=500_000)
_DENSEST: Final = 12
"""Bytes to a value in a large stream: manifests have about twice as many, also as JSON without white space."""


_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_UNPRINTABLE: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
_DIRECTIVE: Final = re.compile(r"^%", re.MULTILINE)
_MOST_DOCUMENTS: Final = 10
_MOST_DIRECTIVES: Final = 100
"""The parser compares each with all before it. (A line of text may begin so as well.)"""

_ESCAPE_IN_TAG: Final = re.compile(r"!\S*%")
_BAD_TAG: Final = "expected a value, got a tag whose escapes are no UTF-8; remove it"
_LINES_BACK: Final = 100


def read(data: bytes, file: str) -> Tree:
    """The one document in `data`. Raises Rejected (stage parse) with everything that is wrong with its YAML."""
    tree = examine(data, file)
    if tree.problems:
        raise Rejected(tree.problems)
    return tree


def examine(data: bytes, file: str) -> Tree:
    """Like `read`, but mistakes that leave a readable rest are in `problems`, to be reported with those of the rest.

    Raises Rejected where no tree can be made: not UTF-8, not YAML, over the bounds, no document.
    """
    trees = _documents(data, file, _ONE_DOCUMENT)
    if not trees:
        raise _rejected(file, (1, 1), "expected a document, got nothing but white space and comments")
    (mark, tree), *others = trees
    if not others:
        return tree
    if tree.value is None:
        tree, extra = others[0][1], "expected one document, got an empty one before it; remove its `---`"
    else:
        mark, other = others[0]
        rest = "" if _are_parts(tree.value, other.value) else " and what follows it"
        extra = f"expected one document, got another one; remove the `---`{rest}"
    # What is missing in one may stand in another.
    problems = (*tree.problems, _violation(file, mark, extra))
    return replace(tree, problems=problems, incomplete=tree.incomplete | {()})


def _are_parts(one: object, other: object) -> bool:
    """Whether two documents look like one that was cut in two."""
    return isinstance(one, dict) and isinstance(other, dict) and not one.keys() & other.keys()


def read_all(data: bytes, file: str) -> list[Tree]:
    """Every document of a stream such as `kubectl kustomize` prints, empty ones left out.

    What is wrong with one is in its `problems`: other people's manifests may take liberties that a config may not.
    Raises Rejected where the stream is not UTF-8, not YAML or over the (larger) bounds.
    """
    nodes = min(_ONE_DOCUMENT.nodes + len(data) // _DENSEST, _BUNDLE.nodes)
    return [tree for _, tree in _documents(data, file, replace(_BUNDLE, nodes=nodes)) if tree.value is not None]


def _documents(data: bytes, file: str, bounds: Bounds) -> list[tuple[Mark, Tree]]:
    text = _text(data, file, bounds)
    builder = Builder(yaml.parse(text, Loader=_LOADER), file, bounds)
    # Of those that are too many, one is enough to say so.
    most = _MOST_DOCUMENTS if bounds is _ONE_DOCUMENT else None
    try:
        return list(islice(builder.documents(), most))
    except yaml.MarkedYAMLError as error:
        cause = _hidden(file, text, error) or _rejected(file, *explain(text, error, yaml.scan(text, Loader=_LOADER)))
        raise cause from None
    except UnicodeDecodeError:
        raise _rejected(file, _tag_after(text, builder.at), _BAD_TAG) from None
    except yaml.YAMLError as error:
        raise _rejected(file, (1, 1), f"expected YAML, got something else: {error}") from None


def _text(data: bytes, file: str, bounds: Bounds) -> str:
    if len(data) > bounds.size:
        raise _rejected(file, (1, 1), f"expected at most {bounds.size:,} bytes, got {len(data):,}")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise _rejected(file, (1, 1), "expected UTF-8, got UTF-16; save the file as UTF-8")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8")
        message = f"expected UTF-8, got the byte 0x{data[error.start]:02x}; save the file as UTF-8"
        raise _rejected(file, end(before), message) from None
    found = _UNPRINTABLE.search(text)
    if not found and bounds is _ONE_DOCUMENT and (found := line_break(text)):
        message = f"got {named(found[0])}, which only some readers take for the end of a line; remove it"
        raise _rejected(file, end(text[: found.start()]), message)
    if found:
        name = "a byte order mark" if found[0] == "\ufeff" else f"the character U+{ord(found[0]):04X}"
        raise _rejected(file, end(text[: found.start()]), f"expected printable text, got {name}; remove it")
    directives = (one for number, one in enumerate(_DIRECTIVE.finditer(text)) if number == _MOST_DIRECTIVES)
    if found := next(directives, None):
        message = f"expected at most {_MOST_DIRECTIVES} lines that begin with %, got more; remove them"
        raise _rejected(file, end(text[: found.start()]), message)
    return text


def _hidden(file: str, text: str, error: yaml.MarkedYAMLError) -> Rejected | None:
    """A character that nobody sees as what it is explains what the parser makes of its line, or of the next."""
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return None
    start = mark.line - 1 if error.context_mark is None else min(error.context_mark.line, mark.line - 1)
    odd = in_lines(text, max(start, mark.line - _LINES_BACK, 0), mark.line)
    return None if odd is None else _rejected(file, (odd.line, odd.column), f"expected YAML, {odd.message}")


def _tag_after(text: str, mark: Mark) -> Mark:
    """The place of the tag that the parser could not read: behind the last value that it could."""
    lines = text.split("\n")
    start = sum(len(line) + 1 for line in lines[: mark[0] - 1]) + mark[1] - 1
    found = _ESCAPE_IN_TAG.search(text, start)
    return mark if found is None else end(text[: found.start()])


def _violation(file: str, mark: Mark, message: str) -> Violation:
    return Violation(file, Where("", *mark), message, Stage.PARSE)


def _rejected(file: str, mark: Mark, message: str) -> Rejected:
    return Rejected((_violation(file, mark, message),))
