"""Makes trees from parser events, and goes on after a mistake as long as what follows still makes sense.

PyYAML's composers are not used: the C one overflows its stack on 40 KB of `[`, and both forget duplicate keys.
Recursion here is bounded by MAX_DEPTH, work by the number of nodes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, cast

import yaml

from nodeagent.documents.scalars import UNUSABLE, Misread, resolve
from nodeagent.documents.tree import Mark, Path, Tree, dotted
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
        self._start_document()

    def documents(self) -> Iterator[tuple[Mark, Tree]]:
        """Each document with where it starts. Raises yaml.YAMLError, and Rejected when a bound is exceeded."""
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                self._start_document()
                value = self._node(next(self._events), (), 0)
                yield _mark(event), self._tree(value)

    def _tree(self, value: object) -> Tree:
        problems = [problem for problem in self._problems if problem not in self._solved]
        problems.sort(key=lambda problem: (problem.where.line, problem.where.column))
        return Tree(
            value,
            self._file,
            tuple(problems),
            frozenset(self._literals),
            self._values,
            self._keys,
            self._misread,
            frozenset(self._incomplete),
            frozenset(self._borrowed),
        )

    def _start_document(self) -> None:
        self._problems: list[Violation] = []
        self._misread: dict[Violation, tuple[Path, Misread | None]] = {}
        self._anchors: dict[str, tuple[Path, Violation]] = {}
        self._solved: set[Violation] = set()
        self._incomplete: set[Path] = set()
        self._borrowed: set[Path] = set()
        self._used: list[str] = []
        self._templates = 0
        self._literals: set[Path] = set()
        self._values: dict[Path, Mark] = {}
        self._keys: dict[Path, Mark] = {}

    def _node(self, event: yaml.Event, path: Path, depth: int) -> object:
        """The value that starts with `event`; takes all of its events."""
        self._nodes += 1
        if self._nodes > self._bounds.nodes:
            raise self._out_of_bounds(event, f"at most {self._bounds.nodes:,} values")
        if depth > MAX_DEPTH:
            raise self._out_of_bounds(event, f"at most {MAX_DEPTH} levels of nesting")
        self._values.setdefault(path, _mark(event))
        if isinstance(event, yaml.AliasEvent):
            self._alias(event, path)
            return UNUSABLE
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise TypeError(f"not the start of a value: {event!r}")
        if isinstance(event, yaml.ScalarEvent) and not (event.value or event.style) and (event.anchor or event.tag):
            self._misreads(event, path, f"&{event.anchor}" if event.anchor else f"{_short(event.tag)}", "no text")
            return UNUSABLE
        if event.anchor is not None:
            problem = self._problem(event, path, f"expected a value, got the anchor &{event.anchor}; remove it")
            self._anchors[event.anchor] = path, problem
        tagged = event.tag is not None
        if tagged:
            self._problem(event, path, f"expected a value, got the tag {_short(event.tag)}; remove it")
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, path, depth)
        if isinstance(event, yaml.ScalarEvent):
            return UNUSABLE if tagged else self._scalar(event, path)
        return self._sequence(path, depth)

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        if event.style == "|":
            self._literals.add(path)
        if event.style:
            return event.value
        try:
            return resolve(event.value)
        except Misread as misread:
            self._misread[self._problem(event, path, str(misread))] = path, misread
            return UNUSABLE

    def _alias(self, event: yaml.AliasEvent, path: Path) -> None:
        if event.anchor in self._anchors:
            self._used.append(event.anchor)
            message = f"expected a value, got the alias *{event.anchor}; write the value out"
            self._problem(event, path, message + self._without(event.anchor))
            return
        self._misreads(event, path, f"*{event.anchor}", "a reference to a value that is not there")

    def _misreads(self, event: yaml.Event, path: Path, word: str, taken: str) -> None:
        """A word that begins with a sign of YAML's, and was probably meant as text."""
        misread = Misread(word, (word,), taken)
        self._misread[self._problem(event, path, str(misread))] = path, misread

    def _without(self, anchor: str) -> str:
        """An anchor that is referred to goes with what refers to it, and is no mistake of its own."""
        path, problem = self._anchors[anchor]
        self._solved.add(problem)
        self._borrowed.add(path)
        alone = ", with its key if that is there for nothing else" if len(path) == 1 else ""
        return f", and remove the anchor &{anchor} in line {problem.where.line}{alone}"

    def _sequence(self, path: Path, depth: int) -> list[object]:
        items: list[object] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, start: yaml.MappingStartEvent, path: Path, depth: int) -> object:
        items: dict[str, object] = {}
        into = items
        template = False
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style:
                self._merge(event, path, depth)
                continue
            template = template or _opens_template(start, event)
            key = self._key(event, path, depth)
            before = len(self._problems)
            value = self._node(next(self._events), path if key is None else (*path, key), depth + 1)
            if key is None:
                # The value of a key that means nothing is not worth a report of its own.
                del self._problems[before:]
            elif into is not items:
                # These belong to the item whose dash is missing.
                del self._problems[before:]
            elif key in items:
                first = self._keys[*path, key][0]
                message = f'expected each key once, got "{key}" again (first in line {first})'
                if path and isinstance(path[-1], int) and key == next(iter(items)) and first < _mark(event)[0]:
                    message += f'; write "- {key}: …" where another item begins'
                    into = {}
                self._problem(event, (*path, key), message)
            else:
                items[key] = value
                self._keys[*path, key] = _mark(event)
        return UNUSABLE if template else items

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        """The key that starts with `event`, None when it cannot be one, which is reported."""
        if not isinstance(event, yaml.ScalarEvent):
            self._no_key(event, path, depth)
            return None
        word: str = event.value
        if event.anchor is not None or event.tag is not None:
            self._problem(event, path, "expected a plain string as key, got one with an anchor or a tag; remove it")
        if event.style:
            return word
        try:
            value: object = resolve(word)
        except Misread:
            value = UNUSABLE
        if not isinstance(value, str):
            problem = self._problem(event, path, f'expected a string as key, got {word or "nothing"}; write "{word}"')
            self._misread[problem] = (*path, word), None
            return None
        return word

    def _no_key(self, event: yaml.Event, path: Path, depth: int) -> None:
        before = len(self._problems)
        template = isinstance(event, yaml.MappingStartEvent) and bool(event.flow_style)
        self._node(event, path, depth + 1)
        del self._problems[before:]
        self._incomplete.add(path)
        self._templates += template
        if template and self._templates == 1:
            # One is enough to say what is to be done with all of them.
            self._problem(
                event, path, "expected a value, got a template, {{…}}; render it first, such as with `helm template`"
            )
        elif not template:
            self._problem(event, path, "expected a string as key, got a list, an object or an alias")

    def _merge(self, event: yaml.Event, path: Path, depth: int) -> None:
        """What is merged in is not known to us; its key is reported for all that is missing then."""
        problems, used = len(self._problems), len(self._used)
        self._node(next(self._events), path, depth + 1)
        del self._problems[problems:]
        self._incomplete.add(path)
        without = "".join(self._without(anchor) for anchor in self._used[used:])
        self._problem(event, path, f"expected a key, got the merge key <<; write the values out{without}")

    def _problem(self, event: yaml.Event, path: Path, message: str) -> Violation:
        self._problems.append(self._violation(event, path, message))
        return self._problems[-1]

    def _violation(self, event: yaml.Event, path: Path, message: str) -> Violation:
        return Violation(self._file, Where(dotted(path), *_mark(event)), message, Stage.PARSE)

    def _out_of_bounds(self, event: yaml.Event, expected: str) -> Rejected:
        # The path may be as deep as the nesting: line and column say enough.
        return Rejected((*self._problems, self._violation(event, (), f"expected {expected}, got more")))


def _opens_template(outer: yaml.MappingStartEvent, inner: yaml.Event) -> bool:
    """Whether these are the braces of `{{ … }}`, which is read as an object in an object."""
    if not (outer.flow_style and isinstance(inner, yaml.MappingStartEvent) and inner.flow_style):
        return False
    (line, column), start = _mark(outer), _mark(inner)
    return start == (line, column + 1)


def _mark(event: yaml.Event) -> Mark:
    mark = cast("yaml.Mark", event.start_mark)
    return mark.line + 1, mark.column + 1


def _short(tag: str | None) -> str:
    """A tag as people write it: `!!int`."""
    return (tag or "").replace("tag:yaml.org,2002:", "!!")
