"""JSON Schema as far as our schemas use it: which keyword a value breaks, and where.

Not a library's, whose cost for one value is many times that of reading it: a document of a hostile author, or of a
broken template, must cost no more than some passes over its text. So limits come before what they limit: a value of the
wrong type is looked at no further, nor are the items of a list with too many. Tests hold this against a library.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.tree import Path

_Schema = Mapping[str, Any]

ANNOTATIONS: Final = frozenset(
    {"$schema", "$id", "$defs", "title", "description", "default", "examples", "x-expected", "x-instead", "x-synonyms"}
)
"""What is no rule."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`validator` is the keyword of `schema` that `instance`, at `absolute_path`, breaks; `context` is what broke each
    of the branches of a choice.
    """

    absolute_path: Path
    validator: str
    schema: _Schema
    instance: object
    message: str = ""
    context: tuple[Finding, ...] = ()


def findings(value: object, schema: _Schema, *, root: _Schema | None = None, path: Path = ()) -> Iterator[Finding]:
    """Every way in which a value, at `path`, breaks a schema, or a part of the schema `root`. Nothing is said of what
    could not be read.
    """
    return _look(value, schema, path, schema if root is None else root)


def canonical(value: object) -> object:
    """Something that can be hashed, equal for two values if and only if JSON Schema takes them for equal."""
    if isinstance(value, list):
        return ("list", *(canonical(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((key, canonical(item)) for key, item in value.items()))
    return ("true or false", value) if isinstance(value, bool) else value


def _look(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    if value is UNUSABLE:
        return
    kinds = schema.get("type")
    if kinds is not None:
        fits = _is(value, kinds) if isinstance(kinds, str) else any(_is(value, kind) for kind in kinds)
        if not fits:
            yield Finding(path, "type", schema, value)
            return
    for keyword in schema:
        rule = _RULES.get(keyword)
        if rule is not None:
            yield from rule(value, schema, path, root)


def _fits(value: object, schema: _Schema, path: Path, root: _Schema) -> bool:
    return next(_look(value, schema, path, root), None) is None


def _is(value: object, kind: str) -> bool:
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _ref(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    yield from _look(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], path, root)


def _const(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
    if canonical(value) != canonical(schema["const"]):
        yield Finding(path, "const", schema, value)


def _enum(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
    wanted = canonical(value)
    if all(canonical(option) != wanted for option in schema["enum"]):
        yield Finding(path, "enum", schema, value)


def _properties(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    if isinstance(value, dict):
        known = schema["properties"]
        for key, item in value.items():
            if key in known:
                yield from _look(item, known[key], (*path, key), root)


def _additional(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
    if isinstance(value, dict) and not value.keys() <= schema.get("properties", {}).keys():
        yield Finding(path, "additionalProperties", schema, value)


def _required(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
    if isinstance(value, dict):
        for key in schema["required"]:
            if key not in value:
                yield Finding(path, "required", schema, value, f"{key!r} is a required property")


def _items(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    if isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        wanted = schema["items"]
        for position, item in enumerate(value):
            yield from _look(item, wanted, (*path, position), root)


def _unique(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
    if isinstance(value, list) and schema["uniqueItems"] and len(value) <= schema.get("maxItems", len(value)):
        # Whether two that could not be read are the same, nobody knows.
        readable = [canonical(item) for item in value if item is not UNUSABLE]
        if len(set(readable)) < len(readable):
            yield Finding(path, "uniqueItems", schema, value)


def _pattern(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
    """`$` is the end of the text, as in every editor."""
    if isinstance(value, str) and ("\n" in value or not re.search(schema["pattern"], value, re.ASCII)):
        yield Finding(path, "pattern", schema, value)


def _bound(keyword: str, amount: Callable[[object], float | None], sign: int) -> _Rule:
    """A limit on something that a value has."""

    def rule(value: object, schema: _Schema, path: Path, _: _Schema) -> Iterator[Finding]:
        found = amount(value)
        if found is not None and sign * found > sign * schema[keyword]:
            yield Finding(path, keyword, schema, value)

    return rule


def _size_of(kind: type[str | list[Any] | dict[Any, Any]]) -> Callable[[object], float | None]:
    return lambda value: len(value) if isinstance(value, kind) else None


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _all_of(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    for part in schema["allOf"]:
        yield from _look(value, part, path, root)


def _any_of(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    found: list[Finding] = []
    for branch in schema["anyOf"]:
        broken = tuple(_look(value, branch, path, root))
        if not broken:
            return
        found.extend(broken)
    yield Finding(path, "anyOf", schema, value, "none of these fits", tuple(found))


def _one_of(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    found = [tuple(_look(value, branch, path, root)) for branch in schema["oneOf"]]
    if found.count(()) != 1:
        message = "expected one thing, got none or several"
        yield Finding(path, "oneOf", schema, value, message, tuple(one for part in found for one in part))


def _not(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    if _fits(value, schema["not"], path, root):
        yield Finding(path, "not", schema, value)


def _if(value: object, schema: _Schema, path: Path, root: _Schema) -> Iterator[Finding]:
    branch = "then" if _fits(value, schema["if"], path, root) else "else"
    if branch in schema:
        yield from _look(value, schema[branch], path, root)


_Rule = Callable[[object, _Schema, Path, _Schema], Iterator[Finding]]

_TYPES: Final[Mapping[str, Any]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,  # 10.0 is none
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
_RULES: Final[Mapping[str, _Rule]] = {
    "$ref": _ref,
    "const": _const,
    "enum": _enum,
    "properties": _properties,
    "additionalProperties": _additional,
    "required": _required,
    "minimum": _bound("minimum", _number, -1),
    "maximum": _bound("maximum", _number, 1),
    "minLength": _bound("minLength", _size_of(str), -1),
    "maxLength": _bound("maxLength", _size_of(str), 1),
    "minItems": _bound("minItems", _size_of(list), -1),
    "maxItems": _bound("maxItems", _size_of(list), 1),
    "minProperties": _bound("minProperties", _size_of(dict), -1),
    "maxProperties": _bound("maxProperties", _size_of(dict), 1),
    "pattern": _pattern,
    "items": _items,
    "uniqueItems": _unique,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
}
KEYWORDS: Final = frozenset({"type", "then", "else", *_RULES})
"""What a schema may say."""
