"""What a schema says of the places in a document, so that a hint is true: which values a place takes, and which places
take a key that stands elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

from nodeagent.documents.evaluate import findings
from nodeagent.documents.tree import Path

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

Schema = Mapping[str, Any]

EACH: Final = -1
"""In a path: whichever item of the list."""

MOST_QUESTIONS: Final = 600
"""A report shows 50 mistakes, and a document may have 20,000."""

_KINDS: Final[dict[int, tuple[Schema, Sequence[tuple[Path, Sequence[str]]]]]] = {}
"""What `Guide` knows of a schema by its id, since a stream may have a thousand documents."""

_MOST_SCHEMAS: Final = 8
_CONDITIONAL: Final = ("then", "else")
_CHOICES: Final = ("anyOf", "oneOf")


@dataclass(frozen=True, slots=True)
class Home:
    """An object that takes a key. `distance` counts the steps to it, `there` says whether the document has it."""

    path: Path
    distance: int
    there: bool


class Guide:
    """A schema beside the document that it judges.

    So many questions are answered as are worth it for one report; then nothing is accepted, and nothing has a home.
    """

    def __init__(self, schema: Schema, value: object) -> None:
        self._schema = schema
        self._value = value
        self._left = MOST_QUESTIONS
        self._known: dict[Path, tuple[Schema, ...]] = {}

    def asked(self) -> bool:
        """Whether one more question is answered."""
        self._left -= 1
        return self._left >= 0

    def at(self, path: Path) -> tuple[Schema, ...]:
        """The schemas that a value at `path` has to fit. Empty: none is known."""
        kind = tuple(EACH if isinstance(step, int) else step for step in path)
        if kind not in self._known:
            self._known[kind] = self._at(kind)
        return self._known[kind]

    def _at(self, path: Path) -> tuple[Schema, ...]:
        found: tuple[Schema, ...] = (self._schema,)
        for step in path:
            inner = tuple(self._inner(found, step))
            # A key that only some objects have is asked of those.
            found = inner or tuple(self._inner(tuple(self._branches(found)), step))
        return found

    def accepts(self, path: Path, value: object) -> bool:
        """Whether a value would be accepted at `path`, as far as the schema says."""
        schemas = self.at(path) if self.asked() else ()
        return bool(schemas) and not any(self._findings(path, value, schemas))

    def finding(self, path: Path, value: object) -> ValidationError | None:
        """What would be wrong with a value at `path`."""
        return next(self._findings(path, value, self.at(path)), None)

    def _findings(self, path: Path, value: object, schemas: Iterable[Schema]) -> Iterator[ValidationError]:
        for schema in schemas:
            yield from findings(value, schema, root=self._schema, path=path)

    def keys(self, path: Path) -> Mapping[str, Schema]:
        """What an object at `path` may hold."""
        return {key: inner for schema in self._about(path) for key, inner in schema.get("properties", {}).items()}

    def required(self, path: Path) -> tuple[str, ...]:
        """What an object at `path` must hold."""
        return tuple(key for schema in self._about(path) for key in schema.get("required", ()))

    def _about(self, path: Path) -> tuple[Schema, ...]:
        """What describes an object at `path`, where a list or a word may stand instead also the part for objects."""
        schemas = self.at(path)
        flat = tuple(self._flat(schemas))
        if any("properties" in schema or "object" in schema.get("type", ()) for schema in flat):
            return flat
        return tuple(self._flat(self._branches(schemas)))

    def word(self, kind: str, path: Path) -> str | None:
        """What the schema says, under the keyword `kind`, of the key that `path` ends with: under the name of the key
        around it and its own, else under its own. Of several words the first that the document has no value for.
        """
        words: Mapping[str, str | Sequence[str]] = self._schema.get(kind, {})
        *around, key = path
        outer = next((step for step in reversed(around) if isinstance(step, str)), "")
        found = words.get(f"{outer}.{key}", words.get(str(key)))
        if found is None or isinstance(found, str):
            return found
        return next((word for word in found if not self.given((*around, word))), found[-1])

    def given(self, path: Path) -> bool:
        """Whether the document has a value there."""
        return self._reach(path) is not _NOTHING

    def empty(self, path: Path) -> bool:
        """Whether the document has the key, and nothing under it."""
        return self._reach(path) is None

    def siblings(self, path: Path) -> list[object]:
        """The list that an item stands in; empty for what is no item."""
        around = self._reach(path[:-1]) if path and isinstance(path[-1], int) else None
        return around if isinstance(around, list) else []

    def homes(self, key: str, path: Path) -> tuple[Home, ...]:
        """The objects, other than that at `path`, that take `key`: the nearest first, and of those what is there."""
        found = [self._home(place, path) for place, keys in self._kinds if key in keys]
        return tuple(
            sorted((home for home in found if home.distance), key=lambda home: (home.distance, not home.there))
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Every key of the schema, wherever it belongs."""
        return tuple(dict.fromkeys(key for _, keys in self._kinds for key in keys))

    @property
    def _kinds(self) -> Sequence[tuple[Path, Sequence[str]]]:
        schema, kinds = _KINDS.get(id(self._schema), (None, ()))
        if schema is not self._schema:
            kinds = tuple(self._walk((self._schema,), ()))
            if len(_KINDS) >= _MOST_SCHEMAS:
                _KINDS.clear()
            _KINDS[id(self._schema)] = self._schema, kinds
        return kinds

    def _home(self, place: Path, path: Path) -> Home:
        common = 0
        for wanted, step in zip(place, path, strict=False):
            if wanted != step and not (wanted == EACH and isinstance(step, int)):
                break
            common += 1
        found = path[:common]
        for step in place[common:]:
            around = self._reach(found)
            several = isinstance(around, list) and len(around) > 1
            found = (*found, 0 if step == EACH and not several else step)
        steps = [step for step in (*path[common:], *place[common:]) if isinstance(step, str)]
        return Home(found, len(steps), self.given(found))

    def _reach(self, path: Path) -> object:
        value = self._value
        for step in path:
            inside = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
            if step not in inside:
                return _NOTHING
            value = cast("Any", value)[step]
        return value

    def _walk(self, schemas: tuple[Schema, ...], path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
        """Every kind of object with the keys that it takes."""
        every = [*self._flat(schemas), *self._flat(self._branches(schemas))]
        names: dict[str, list[Schema]] = {}
        for schema in every:
            for name, inner in schema.get("properties", {}).items():
                if "not" not in inner and "x-ignored" not in inner:
                    names.setdefault(name, []).append(inner)
        if names:
            yield path, tuple(names)
        for name, found in names.items():
            yield from self._walk(tuple(found), (*path, name))
        items = tuple(schema["items"] for schema in every if "items" in schema)
        if items:
            yield from self._walk(items, (*path, EACH))

    def _inner(self, schemas: Iterable[Schema], step: str | int) -> Iterator[Schema]:
        for schema in self._flat(schemas):
            found = schema.get("items") if isinstance(step, int) else schema.get("properties", {}).get(step)
            if found is not None:
                yield found

    def _flat(self, schemas: Iterable[Schema]) -> Iterator[Schema]:
        """Each schema with all that it refers to or is made of."""
        for schema in schemas:
            yield schema
            if "$ref" in schema:
                yield from self._flat((self._schema["$defs"][schema["$ref"].rpartition("/")[2]],))
            yield from self._flat(schema.get("allOf", ()))

    def _branches(self, schemas: Iterable[Schema]) -> Iterator[Schema]:
        for schema in self._flat(schemas):
            yield from (schema[word] for word in _CONDITIONAL if word in schema)
            for word in _CHOICES:
                yield from schema.get(word, ())


_NOTHING: Final = object()
