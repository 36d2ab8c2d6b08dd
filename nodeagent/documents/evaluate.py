"""Which keywords of a JSON Schema a document breaks: jsonschema's answer, one finding at a time, at a bounded cost.

The library is made for documents that mean well. Four keywords are read here as a hostile one, or a broken template,
asks for: limits come before what they limit, and equal items are found by hashing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final, cast

from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.tree import Path

if TYPE_CHECKING:
    from collections.abc import Callable

    from jsonschema.exceptions import ValidationError
    from jsonschema.protocols import Validator

_Schema = Mapping[str, Any]

_IMPORTING = threading.Lock()
_TYPES: Final[Mapping[str, Any]] = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}


def findings(
    value: object, schema: _Schema, *, root: _Schema | None = None, path: Path = ()
) -> Iterator[ValidationError]:
    """Every way in which a value, at `path`, breaks a schema, or a part of the schema `root`: worked out as it is asked
    for.

    Nothing is said of what could not be read, nor of the rest of a value that is of the wrong type.
    """
    whole = _validator_class()(schema if root is None else root)
    validator = whole if root is None else whole.evolve(schema=schema)
    mistyped: set[Path] = set()
    for error in validator.iter_errors(cast("Any", value)):
        error.relative_path.extendleft(reversed(path))
        at = tuple(error.absolute_path)
        if error.instance is not UNUSABLE and at not in mistyped:
            yield error
        if error.validator == "type":
            mistyped.add(at)


def canonical(value: object) -> object:
    """Something that can be hashed, equal for two values if and only if JSON Schema takes them for equal."""
    if isinstance(value, list):
        return ("list", *(canonical(item) for item in value))
    if isinstance(value, dict):
        return ("object", frozenset((key, canonical(item)) for key, item in value.items()))
    return ("true or false", value) if isinstance(value, bool) else value


@cache
def _validator_class() -> type[Validator]:
    """The current draft, but `10.0` is no integer, and `$` in a pattern is the end of the text, as in every editor."""
    # Several threads read documents, and at the start of the agent all at once. Python resolves what it takes for a
    # deadlock between threads that import by giving one of them a module that is not whole.
    with _IMPORTING:
        from jsonschema import Draft202012Validator, validators
        from jsonschema.exceptions import ValidationError

    def is_integer(_: object, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def pattern(_: object, expression: str, value: object, __: object) -> Iterator[ValidationError]:
        if isinstance(value, str) and ("\n" in value or not re.search(expression, value, re.ASCII)):
            yield ValidationError(f"does not match {expression!r}")

    def items(validator: Validator, wanted: _Schema, value: object, schema: _Schema) -> Iterator[ValidationError]:
        if isinstance(value, list) and not _too_long(value, schema):
            for position, item in enumerate(value):
                yield from cast("Any", validator).descend(item, wanted, path=position)  # its protocol lacks it

    def unique(_: object, wanted: object, value: object, schema: _Schema) -> Iterator[ValidationError]:
        if wanted and isinstance(value, list) and not _too_long(value, schema):
            # Whether two that could not be read are the same, nobody knows.
            readable = [canonical(item) for item in value if item is not UNUSABLE]
            if len(set(readable)) < len(readable):
                yield ValidationError("has items more than once")

    def of_type(_: object, kinds: str | list[str], value: object, __: object) -> Iterator[ValidationError]:
        fits = _is(value, kinds) if isinstance(kinds, str) else any(_is(value, kind) for kind in kinds)
        if not fits:
            yield ValidationError(f"is not of type {kinds!r}")  # without the value, which may be large

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    extend = cast("Callable[..., type[Validator]]", validators.extend)
    ours = {"pattern": pattern, "items": items, "uniqueItems": unique, "type": of_type}
    return extend(Draft202012Validator, ours, type_checker=checker)


def _is(value: object, kind: str) -> bool:
    """As the library's checker of types, in a fraction of the time: every value of a document is asked."""
    return isinstance(value, _TYPES[kind]) and (kind == "boolean" or not isinstance(value, bool))


def _too_long(value: list[Any], schema: _Schema) -> bool:
    return len(value) > cast("int", schema.get("maxItems", len(value)))
