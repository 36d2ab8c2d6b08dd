"""Makes trees from parser events, and goes on after a mistake as long as what follows still makes sense.

PyYAML's composers are not used: the C one overflows its stack on 40 KB of `[`, and both forget duplicate keys.
Recursion here is bounded by MAX_DEPTH, work by the number of nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final, cast

import yaml

from nodeagent.documents.lookalikes import Odd, in_word
from nodeagent.documents.problems import Problems
from nodeagent.documents.scalars import UNUSABLE, Misread, resolve
from nodeagent.documents.tree import MOST_KEPT, Mark, Path, Tree, brief
from nodeagent.model.config import Violation

MAX_DEPTH: Final = 32
_DOCUMENT: Final = 5
"""As how many values a document counts besides its own, after what it costs."""
_LONGEST_JOINED: Final = 200
_NUMBERS: Final = re.compile("[0-9]+(?:-[0-9]+)?(?:,[0-9]+)+")


@dataclass(frozen=True, slots=True)
class Bounds:
    """How large a file may be: in bytes, and in nodes (scalars, lists and objects) of all its documents. `heard` is how
    many documents are worth a report of what is in them.
    """

    size: int
    nodes: int
    heard: int


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
        self.at: Mark = (1, 1)
        self._start_document()

    def documents(self) -> Iterator[tuple[Mark, Tree]]:
        """Each document with where it starts. Raises yaml.YAMLError, and Rejected when a bound is exceeded."""
        number = 0
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                number += 1
                self._nodes += _DOCUMENT
                self._start_document()
                with self._problems.unheard() if number > self._bounds.heard else nullcontext():
                    value = self._node(next(self._events), (), 0)
                yield _mark(event), self._tree(value)

    def _tree(self, value: object) -> Tree:
        found = self._problems
        return Tree(
            value,
            self._file,
            found.all(),
            frozenset(self._literals),
            self._values,
            self._keys,
            self._odd_keys,
            self._odd_values,
            found.misread,
            frozenset(found.incomplete),
            frozenset(found.borrowed),
        )

    def _start_document(self) -> None:
        self._problems = Problems(self._file)
        self._joined: dict[Path, str] = {}
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
            self._problems.alias(event.anchor or "", self.at, path)
            return UNUSABLE
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise TypeError(f"not the start of a value: {event!r}")
        if event.anchor is not None or event.tag is not None:
            return self._adorned(event, path, depth)
        return self._plain(event, path, depth)

    def _adorned(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, path: Path, depth: int) -> object:
        """A value with an anchor or a tag, or, where it seems to have nothing else, a word that begins like one."""
        if isinstance(event, yaml.ScalarEvent) and not event.value and not event.style:
            word = f"&{event.anchor}" if event.anchor else _short(event.tag)
            self._problems.word(self.at, path, Misread(word, lambda: ((word,), "no text")))
            return UNUSABLE
        if event.anchor is not None:
            self._problems.anchor(event.anchor, self.at, path)
        if event.tag is not None:
            self._problems.add(self.at, path, f"expected a value, got the tag {brief(_short(event.tag))}; remove it")
            if isinstance(event, yaml.ScalarEvent):
                return UNUSABLE
        return self._plain(event, path, depth)

    def _plain(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, path: Path, depth: int) -> object:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(event, path, depth)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        return self._sequence(path, depth)

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        if event.style == "|":
            self._literals.add(path)
        if len(self._odd_values) < MOST_KEPT and self._problems.heard and (odd := _odd(event)) is not None:
            self._odd_values[path] = odd
        if event.style:
            return event.value
        try:
            return resolve(event.value)
        except Misread as misread:
            self._problems.word(self.at, path, misread)
            return UNUSABLE

    def _sequence(self, path: Path, depth: int) -> list[object]:
        items: list[object] = []
        for event in self._events:
            if isinstance(event, yaml.SequenceEndEvent):
                break
            items.append(self._node(event, (*path, len(items)), depth + 1))
        return items

    def _mapping(self, start: yaml.MappingStartEvent, path: Path, depth: int) -> object:
        items: dict[str, object] = {}
        run_together = template = False
        for event in self._events:
            if isinstance(event, yaml.MappingEndEvent):
                break
            if isinstance(event, yaml.ScalarEvent) and event.value == "<<" and not event.style:
                with self._problems.merge(_mark(event), path):
                    self._node(next(self._events), path, depth + 1)
                continue
            template = template or _opens_template(start, event)
            key = self._key(event, path, depth)
            if key is None or run_together:
                following = next(self._events)
                if not self._continues(start, event, following, path, items):
                    self._pass_over(following, path, depth)
                continue
            value = self._node(next(self._events), (*path, key), depth + 1)
            if key in items:
                run_together = self._again(event, key, path, next(iter(items)))
            else:
                items[key] = value
                self._keys[*path, key] = _mark(event)
        return UNUSABLE if template else items

    def _continues(
        self, start: yaml.MappingStartEvent, event: yaml.Event, value: yaml.Event, path: Path, items: dict[str, object]
    ) -> bool:
        """Whether a key belongs to the value before it: `{indices: 0,1}` is read as having the key 1."""
        if not (start.flow_style and items and isinstance(event, yaml.ScalarEvent) and event.value.isdecimal()):
            return False
        if not isinstance(value, yaml.ScalarEvent) or value.value or value.style or event.style:
            return False
        key = next(reversed(items))
        place = *path, key
        text = f"{self._joined.get(place, items[key])},{event.value}"
        if len(text) > _LONGEST_JOINED or not _NUMBERS.fullmatch(text):
            return False
        mark = self._values[place]
        self._problems.take_back(_mark(event))
        self._problems.take_back(mark)
        self._problems.word(mark, place, Misread(text, lambda: ((text,), "a number and a key")))
        self._joined[place], items[key] = text, UNUSABLE
        return True

    def _again(self, event: yaml.Event, key: str, path: Path, first_key: str) -> bool:
        """A key that is there already; whether from here on it is another item of a list, whose dash is missing."""
        mark, first = _mark(event), self._keys[*path, key][0]
        message = f'expected each key once, got "{brief(key)}" again (first in line {first})'
        run_together = bool(path) and isinstance(path[-1], int) and key == first_key and first < mark[0]
        if run_together:
            message += f'; write "- {brief(key)}: …" where another item begins'
        self._problems.add(mark, (*path, key), message)
        return run_together

    def _key(self, event: yaml.Event, path: Path, depth: int) -> str | None:
        """The key that starts with `event`, None when it cannot be one, which is reported."""
        mark = _mark(event)
        if not isinstance(event, yaml.ScalarEvent):
            self._pass_over(event, path, depth)
            if isinstance(event, yaml.MappingStartEvent) and event.flow_style:
                self._problems.template(mark, path)
            else:
                self._problems.incomplete.add(path)
                self._problems.add(mark, path, "expected a string as key, got a list, an object or an alias")
            return None
        word: str = event.value
        if len(self._odd_keys) < MOST_KEPT and self._problems.heard and (odd := _odd(event)) is not None:
            self._odd_keys[*path, word] = odd
        if event.anchor is not None or event.tag is not None:
            message = "expected a plain string as key, got one with an anchor or a tag; remove it"
            self._problems.add(mark, path, message)
        if event.style:
            return word
        try:
            value: object = resolve(word)
        except Misread:
            value = UNUSABLE
        if not isinstance(value, str):
            self._problems.no_key(mark, path, word)
            return None
        return word

    def _pass_over(self, event: yaml.Event, path: Path, depth: int) -> None:
        """Take the events of what means nothing, and is not worth a report of its own."""
        with self._problems.unheard():
            self._node(event, path, depth + 1)

    def _out_of_bounds(self, event: yaml.Event, expected: str) -> Rejected:
        # The path may be as deep as the nesting: line and column say enough.
        here = self._problems.violation(_mark(event), (), f"expected {expected}, got more")
        return Rejected((*self._problems.all(), here))


def _opens_template(outer: yaml.MappingStartEvent, inner: yaml.Event) -> bool:
    """Whether these are the braces of `{{ … }}`, which is read as an object in an object."""
    if not (outer.flow_style and isinstance(inner, yaml.MappingStartEvent) and inner.flow_style):
        return False
    (line, column), start = _mark(outer), _mark(inner)
    return start == (line, column + 1)


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
