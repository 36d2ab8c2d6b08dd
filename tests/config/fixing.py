"""Does what a violation says, as far as it names an exact key or value, so that tests can see whether it helps."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from nodeagent.documents.strict import examine, read
from nodeagent.documents.tree import Path
from nodeagent.model.config import Stage, Violation

Value = Any
Edit = Callable[[Value], None]

_KEY = "expected a known key"


def fixed(text: str, violation: Violation) -> list[str]:
    """A document, as JSON, with the fix that a violation names written in: one for each fix that it names."""
    tree = examine(text.encode(), "f")
    path = next((path for path in [*tree.keys, *tree.values] if tree.where(path).path == violation.where.path), None)
    found: list[str] = []
    if path is None or violation.stage is Stage.SEMANTIC:
        return found
    for edit in _edits(path, violation.message):
        value = copy.deepcopy(tree.value)
        edit(value)
        found.append(json.dumps(value, default=str))
    return found


def _edits(path: Path, message: str) -> Iterator[Edit]:
    about, _, fix = message.partition("; ")
    key = str(path[-1]) if path else ""
    if found := re.fullmatch(r'did you mean "(.+)"\?', fix):
        yield _rename(path, found[1]) if about.startswith(_KEY) else _put(path, found[1])
    elif found := re.fullmatch(r'(?:it|did you mean "(.+)", which) belongs (.+?)\??', fix):
        for target in _targets(found[2], found[1] or key):
            yield _move(path, target)
    elif key and re.match(rf"remove (it|{re.escape(key)})\b", fix):
        yield _drop(path)
    elif found := re.fullmatch("replace the list with (.+)", fix):
        yield _put(path[:-1], _read(found[1]))
    elif fix == "remove the quotes":
        yield lambda value: _put(path, json.loads(_get(value, path)))(value)
    elif found := re.fullmatch(r'add "(\w+): (.+)"', fix):
        yield _put((*path, found[1]), _read(found[2].replace("…", "x")))
    elif (found := re.fullmatch(r"write ([0-9]+(?:, [0-9]+)+)", fix)) and isinstance(path[-1], int):
        yield _splice(path, _read(f"[{found[1]}]"))
    elif about.startswith(_KEY) and (found := re.fullmatch(r'write "(\w+): (.*)"', fix)):
        name, word = found[1], found[2]
        yield lambda value: (_drop(path)(value), _put((*path[:-1], name), _read(word))(value))[0]
    elif found := re.fullmatch(r'write (?!a space|it |the |"- )(.+)', fix):
        for word in found[1].split(" or "):
            yield _put(path, _read(word))


def _targets(where: str, key: str) -> Iterator[Path]:
    if " up: " in where:
        yield _path(where.partition(" up: ")[2])
        return
    for one in where.removeprefix("under ").split(" or "):
        yield (*_path(one.removeprefix("an item of ") + ("[…]" if one.startswith("an item of ") else "")), key)


def _path(text: str) -> Path:
    steps = re.findall(r"[A-Za-z0-9_-]+|\[(?:[0-9]+|…)\]", text)
    return tuple(int(step[1:-1].replace("…", "0")) if step.startswith("[") else step for step in steps)


def _read(word: str) -> Value:
    return read(f"x: {word}\n".encode(), "f").value["x"]  # type: ignore[index]


def _get(value: Value, path: Path) -> Value:
    for step in path:
        value = value[step]
    return value


def _put(path: Path, new: object) -> Edit:
    def edit(value: Value) -> None:
        for step, following in pairwise(path):
            empty: object = [] if isinstance(following, int) else {}
            if isinstance(value, list):
                value.extend([empty] * (step + 1 - len(value)))  # type: ignore[operator]
            elif not isinstance(value.get(step), dict | list):
                value[step] = empty
            value = value[step]
        value[path[-1]] = new

    return edit


def _drop(path: Path) -> Edit:
    return lambda value: _get(value, path[:-1]).pop(path[-1])


def _rename(path: Path, key: str) -> Edit:
    return _move(path, (*path[:-1], key))


def _move(path: Path, target: Path) -> Edit:
    def edit(value: Value) -> None:
        moved = _get(value, path[:-1]).pop(path[-1])
        _put(target, moved)(value)

    return edit


def _splice(path: Path, items: list[object]) -> Edit:
    def edit(value: Value) -> None:
        position = int(path[-1])
        _get(value, path[:-1])[position : position + 1] = items

    return edit
