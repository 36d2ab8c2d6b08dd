"""Recognises mistakes with keys, list items and the spaces before them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from nodeagent.documents.syntax_scene import Cause, Scene, content, key_of, short, spaces, two_values

_UNSPACED: Final = re.compile(r"([A-Za-z_][\w.-]*):(?!//)(\S.*)")
_DASHED: Final = re.compile(r"-([A-Za-z_][\w.-]*:(?: .*)?)")
_ASSIGNED: Final = re.compile(r"([A-Za-z_][\w.-]*)\s*=\s*(.*)")
_UNMARKED: Final = re.compile(r"([A-Za-z_][\w.-]*)(?: +(.+))?")
_STEP: Final = 2
_BULLET: Final = re.compile(r"(?:[*+\u2022\u2023\u2013\u2014]|-{2,}|[0-9]+[.)]) +(.*)")


def block(scene: Scene) -> Cause | None:
    """A colon, a dash or spaces that are missing or in the wrong place."""
    causes = (_left_out, _bullet, _no_key, _colon, _second_value, _list_after_key, _first_line)
    for cause in (*causes, _second_document, _below_value, _indentation):
        found = cause(scene)
        if found is not None:
            return found
    return None


def _left_out(scene: Scene) -> Cause | None:
    for number in scene.around():
        if content(scene.text(number)) in ("...", "…"):
            place = number + 1, scene.indent(number) + 1
            return place, 'expected YAML, got "...", which stands for lines that were left out; write them'
    return None


def _colon(scene: Scene) -> Cause | None:
    """A colon without a space behind it, or none at all: what comes next is then read as more of the same text."""
    if scene.problem == "could not find expected ':'":
        suspects: Iterator[int] = iter((scene.context_line,))
    elif scene.problem.startswith("mapping values"):
        suspects = iter([number for number in [next(scene.before(scene.line), None)] if number is not None])
    else:
        suspects = iter(number for number in (scene.line,) if _DASHED.fullmatch(content(scene.text(number))))
    for number in suspects:
        first = scene.first_key(number)
        text, place = scene.text(number)[first:].strip(), (number + 1, first + 1)
        if found := _DASHED.fullmatch(text):
            return place, f'expected a space after the dash, got "{short(text)}"; write "- {short(found[1])}"'
        if found := _UNSPACED.fullmatch(text):
            key, value = found[1], found[2]
            return place, f'expected a space after the colon, got "{short(text)}"; write "{key}: {short(value)}"'
        if key_of(text) is not None or (scene.problem.startswith("mapping") and number == scene.line):
            continue
        if found := _ASSIGNED.fullmatch(text):
            return place, f'expected a key and a colon, got "{short(text)}"; write "{found[1]}: {short(found[2])}"'
        if found := _UNMARKED.fullmatch(text):
            written = f"{found[1]}: {short(found[2])}" if found[2] else f"{found[1]}:"
            return place, f'expected a key and a colon, got "{short(text)}"; write "{written}"'
        return place, f'expected a key and a colon, got "{short(text)}"'
    return None


def _second_value(scene: Scene) -> Cause | None:
    """`: ` inside a value, or keys below a key that has a value."""
    if not scene.problem.startswith("mapping values"):
        return None
    line = scene.text(scene.line)
    found = re.match(r"\s*(?:- +)*[^\s:]+: +(.+)", line[: scene.column])
    if found:
        value = short(line[found.start(1) :])
        if line[scene.column :].strip() == ":":
            return scene.at, f'expected the end of the value, got a colon after "{value[:-1]}"; remove it'
        return scene.at, two_values(value, "begin a line for each key")
    above = next(scene.before(scene.line), None)
    pair = None if above is None else key_of(scene.text(above))
    if above is None or pair is None or not pair[1]:
        return None
    wanted = scene.text(above).index(pair[0])
    key = key_of(line)
    return (scene.line + 1, scene.indent(scene.line) + 1), (
        f'expected {spaces(wanted)} before "{short(key[0] if key else line)}", as in line {above + 1}, got'
        f' {scene.indent(scene.line)}: "{short(f"{pair[0]}: {pair[1]}")}" has a value, and nothing belongs under it'
    )


def _list_after_key(scene: Scene) -> Cause | None:
    if not scene.problem.startswith("block sequence entries"):
        return None
    return scene.at, 'expected a list to begin in a line of its own, got "- " behind a key; begin a new line'


def _first_line(scene: Scene) -> Cause | None:
    """A first line with more spaces before it than those that follow."""
    first = next((number for number, line in enumerate(scene.lines) if content(line)), 0)
    wanted, got = scene.indent(scene.line), scene.indent(first)
    if "document start" not in scene.problem or got <= wanted:
        return None
    name = _name(content(scene.text(first)))
    return (first + 1, 1), f'expected {spaces(wanted)} before "{name}", as in line {scene.line + 1}, got {got}'


def _bullet(scene: Scene) -> Cause | None:
    """A sign in the place of a dash. With a colon behind it a parser takes it for a part of the key."""
    for number in scene.around():
        indent = scene.indent(number)
        found = _BULLET.fullmatch(content(scene.text(number)))
        if found and (indent or not found[0].startswith("--")):
            place = number + 1, indent + 1
            return place, f'expected a list item, got "{short(found[0])}"; write "- {short(found[1])}"'
    return None


def _no_key(scene: Scene) -> Cause | None:
    if not scene.here.startswith(":") or content(scene.text(scene.line)[: scene.column]):
        return None
    return scene.at, "expected a key before the colon, got none"


def _second_document(scene: Scene) -> Cause | None:
    """A value that follows what was a whole document."""
    if "document start" not in scene.problem or not content(scene.here):
        return None
    return scene.at, f'expected the end of the document, got "{short(scene.here)}"; a document is one object'


def _below_value(scene: Scene) -> Cause | None:
    """Keys or items below a key whose value is an empty object or list. One space more is a slip of the indentation."""
    above = next(scene.before(scene.line), None)
    pair = None if above is None else key_of(scene.text(above))
    if above is None or pair is None or pair[1].strip() not in ("{}", "[]"):
        return None
    indent, key = scene.indent(scene.line), scene.first_key(above)
    item = content(scene.text(scene.line)).startswith("- ")
    if indent < (key if item else key + _STEP):
        return None
    message = f'expected nothing below "{short(f"{pair[0]}: {pair[1]}")}", which has a value, got "{short(scene.here)}"'
    return (scene.line + 1, indent + 1), f"{message}; remove the {pair[1].strip()}"


def _indentation(scene: Scene) -> Cause | None:
    """A line that begins where nothing else does, or where there is a list and it is no item, or the other way."""
    indent, text, levels = scene.indent(scene.line), content(scene.text(scene.line)), _levels(scene)
    between = re.match("did not find expected (?:key|'-' indicator)", scene.problem)
    if not between or not text or not levels or indent != scene.column:
        return None
    if indent not in levels:
        fitting = [level for level, (_, item) in levels.items() if item == text.startswith("-")] or list(levels)
        nearest = min(abs(level - indent) for level in fitting)
        near = [level for level in fitting if abs(level - indent) == nearest]
        wanted = " or ".join(f"{spaces(level)} (as in line {levels[level][0] + 1})" for level in near)
        return scene.at, f'expected {wanted} before "{_name(text)}", got {indent}'
    line, item = levels[indent]
    if item and not text.startswith("-"):
        return scene.at, _no_item(scene, line, indent, text)
    if text.startswith("- ") and not item:
        return scene.at, f'expected a key, as in line {line + 1}, got a list item, "{short(text)}"; remove the dash'
    return None


def _name(text: str) -> str:
    """The key of a line, or what there is instead."""
    return short((key_of(text) or (text, ""))[0])


def _no_item(scene: Scene, line: int, indent: int, text: str) -> str:
    """A key where the items of a list begin: its dash is missing where its item has such a key already."""
    name = _name(text)
    inner = indent + len(scene.text(line)[indent:]) - len(scene.text(line)[indent + 1 :].lstrip())
    given = []
    for number in scene.before(scene.line):
        pair = key_of(scene.text(number))
        if pair is not None and scene.text(number).find(pair[0]) == inner:
            given.append(pair[0])
        if scene.indent(number) == indent:
            break
    if name in given:
        return f'expected a list item, as in line {line + 1}, got "{short(text)}"; write "- {short(text)}"'
    return f'expected {spaces(inner)} before "{name}", to continue the item of line {line + 1}, got {indent}'


def _levels(scene: Scene) -> dict[int, tuple[int, bool]]:
    """Where lines may begin after those above: each number of spaces, with the line that has it, and whether that is a
    list item.
    """
    found: dict[int, tuple[int, bool]] = {}
    lowest: int | None = None
    for number in scene.before(scene.line):
        line = scene.text(number)
        indent = scene.indent(number)
        if lowest is not None and indent >= lowest:
            continue
        lowest = indent
        while line[indent : indent + 2] == "- ":
            found.setdefault(indent, (number, True))
            indent += 1 + len(line[indent + 1 :]) - len(line[indent + 1 :].lstrip(" "))
        if key_of(line) is not None:
            found.setdefault(indent, (number, False))
        if not lowest:
            break
    return found
