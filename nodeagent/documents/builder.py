"""Makes trees from parser events, and goes on after a mistake as long as what follows still makes sense.

PyYAML's composers are not used: the C one overflows its stack on 40 KB of `[`, and both forget duplicate keys.
Recursion here is bounded by MAX_DEPTH, work by the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import yaml

from nodeagent.documents.lookalikes import Odd, in_word
from nodeagent.documents.scalars import UNUSABLE, Misread, resolve
from nodeagent.documents.tree import MOST_KEPT, Mark, Path, Tree, brief, dotted
from nodeagent.model.config import Stage, Violation, Where

MAX_DEPTH: Final = 32


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a file may be: in bytes, and in nodes (scalars, lists and objects) of all its documents."""

    size: int
    nodes: int


class Rejected(Exception):
    """A file is not acceptable YAML; `violations` is never empty."""

    def __init__(self, violations: tuple[Violation, ...]) -> None:
        super().__init__("\n".join(map(str, violations)))
        self.violations = violations


class Builder:
    """Reads the documents of one stream, one after another."""

    def __init__(self, events: Iterator[yaml.Event], file: str, bounds: Bounds) -> None:
        self._events = events
        self._file = file
        self._bounds = bounds
        self._nodes = 0
        self._unheard = 0
        self.at: Mark = (1, 1)
        self._start_document()

    def documents(self) -> Iterator[tuple[Mark, Tree]]:
        """Each document with where it starts. Raises yaml.YAMLError, and Rejected when a bound is exceeded."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._start_document()
                value = self._node(next(self._events), (), 0)
                problems = sorted(self._problems, key=lambda problem: (problem.where.line, problem.where.column))
                yield (
                    _mark(event),
                    Tree(
                        value,
                        self._file,
                        tuple(problems),
                        frozenset(self._literals),
                        self._values,
                        self._keys,
                        self._odd_keys,
                        self._odd_values,
                    ),
                )

    def _start_document(self) -> None:
        self._problems: list[Violation] = []
        self._literals: set[Path] = set()
        self._values: dict[Path, Mark] = {}
        self._keys: dict[Path, Mark] = {}
        self._odd_keys: dict[Path, Odd] = {}
        self._odd_values: dict[Path, Odd] = {}

    def _node(self, event: yaml.Event, path: Path, depth: int) -> object:
        """The value that starts with `event`; takes all of its events."""
        self._nodes += 1
        if self._nodes > self._bounds.nodes:
            raise self._out_of_bounds(event, f"at most {self._bounds.nodes:,} values")
        if depth > MAX_DEPTH:
            raise self._out_of_bounds(event, f"at most {MAX_DEPTH} levels of nesting")
        self.at = _mark(event)
        self._values.setdefault(path, self.at)
        if isinstance(event, yaml.AliasEvent):
            self._problem(
                event, path, f"expected a value, got the alias *{brief(event.anchor or '')}; write the value out"
            )
            return UNUSABLE
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise TypeError(f"not the start of a value: {event!r}")
        if event.anchor is not None:
            self._problem(event, path, f"expected a value, got the anchor &{brief(event.anchor)}; remove it")
        tagged = event.tag is not None
        if tagged:
            self._problem(event, path, f"expected a value, got the tag {brief(_short(event.tag))}; remove it")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(path, depth)
        if isinstance(event, yaml.ScalarEvent):
            return UNUSABLE if tagged else self._scalar(event, path)
        return self._sequence(path, depth)

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        if event.style == "|":
            self._literals.add(path)
        if len(self._odd_values) < MOST_KEPT and not self._unheard and (odd := _odd(event)) is not None:
            self._odd_values[path] = odd
        if event.style:
            return event.value
        try:
            return resolve(event.value)
        except Misread as misread:
            self._problem(event, path, str(misread))
            return UNUSABLE

    def _sequence(self, path: Path, depth: int) -> list[object]:
        items: list[object] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, path: Path, depth: int) -> dict[str, object]:
        items: dict[str, object] = {}
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            key = self._key(event, path, depth)
            if key is None:
                self._pass_over(next(self._events), path, depth)
                continue
            value = self._node(next(self._events), (*path, key), depth + 1)
            if key in items:
                first = self._keys[*path, key][0]
                message = f'expected each key once, got "{brief(key)}" again (first in line {first})'
                self._problem(event, (*path, key), message)
            else:
                items[key] = value
                self._keys[*path, key] = _mark(event)
        return items

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        """The key that starts with `event`, None when it cannot be one, which is reported."""
        if not isinstance(event, yaml.ScalarEvent):
            self._pass_over(event, path, depth)
            template = isinstance(event, yaml.MappingStartEvent) and event.flow_style
            mend = "; was a template {{…}} left as it is?" if template else ""
            self._problem(event, path, f"expected a string as key, got a list, an object or an alias{mend}")
            return None
        word: str = event.value
        if len(self._odd_keys) < MOST_KEPT and not self._unheard and (odd := _odd(event)) is not None:
            self._odd_keys[*path, word] = odd
        if event.anchor is not None or event.tag is not None:
            self._problem(event, path, "expected a plain string as key, got one with an anchor or a tag; remove it")
        if event.style:
            return word
        if word == "<<":
            self._problem(event, path, "expected a key, got the merge key <<; write the values out")
            return None
        try:
            value: object = resolve(word)
        except Misread:
            value = UNUSABLE
        if not isinstance(value, str):
            shown = brief(word)
            self._problem(event, path, f'expected a string as key, got {shown or "nothing"}; write "{shown}"')
            return None
        return word

    def _pass_over(self, event: yaml.Event, path: Path, depth: int) -> None:
        """Take the events of what means nothing, and is not worth a report of its own."""
        self._unheard += 1
        self._node(event, path, depth + 1)
        self._unheard -= 1

    def _problem(self, event: yaml.Event, path: Path, message: str) -> None:
        if not self._unheard and len(self._problems) < MOST_KEPT:
            self._problems.append(self._violation(event, path, message))

    def _violation(self, event: yaml.Event, path: Path, message: str) -> Violation:
        return Violation(self._file, Where(dotted(path), *_mark(event)), message, Stage.PARSE)

    def _out_of_bounds(self, event: yaml.Event, expected: str) -> Rejected:
        # The path may be as deep as the nesting: line and column say enough.
        return Rejected((*self._problems, self._violation(event, (), f"expected {expected}, got more")))


def _mark(event: yaml.Event) -> Mark:
    mark = cast("yaml.Mark", event.start_mark)
    return mark.line + 1, mark.column + 1


def _odd(event: yaml.ScalarEvent) -> Odd | None:
    """A character in a scalar that nobody sees as what it is; a word of several lines has it where it begins."""
    if event.value.isascii():
        return None
    line, column = _mark(event)
    plain = not event.style and cast("yaml.Mark", event.end_mark).line + 1 == line
    return in_word(event.value, line, column, plain=plain)


def _short(tag: str | None) -> str:
    """A tag as people write it: `!!int`."""
    return (tag or "").replace("tag:yaml.org,2002:", "!!")
