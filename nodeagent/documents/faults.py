"""Turns what a JSON Schema validator found into "expected X, got Y; did you mean Z?".

Validators speak of the schema ("Additional properties are not allowed"); the author of a file has never seen it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from nodeagent.documents.evaluate import canonical
from nodeagent.documents.lookalikes import retyped
from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.tree import Path, brief

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_TYPES: Final = {
    "object": "an object",
    "array": "a list",
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "nothing",
}
_RANGES: Final = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", "characters"),
    ("minItems", "maxItems", "items"),
    ("minProperties", "maxProperties", "keys"),
)
_LONGEST_SHOWN: Final = 60
_MOST_SHOWN: Final = 8
_LONGEST_GUESSED: Final = 100
"""No key of ours is half as long."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `suggestion` is the key that was probably meant, `missing` the keys whose absence this reports;
    `again`: nothing is wrong but that it is there already.
    """

    path: Path
    message: str
    at_key: bool = False
    suggestion: str | None = None
    missing: tuple[str, ...] = ()
    again: bool = False


def faults_of(error: ValidationError) -> Iterator[Fault]:
    """The faults behind one finding of the validator."""
    path: Path = tuple(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    value: Any = error.instance
    rule = error.validator
    if rule == "additionalProperties":
        yield from _unknown_keys(path, value, schema)
    elif rule == "required":
        # One finding per missing key; its name is only in the message.
        key = next(key for key in schema["required"] if error.message.startswith(f"{key!r} "))
        yield Fault(path, f"expected {_missing(key, schema)}, got none", missing=(key,))
    elif rule in ("oneOf", "anyOf") and (choice := _choice(schema[rule])):
        yield from _wrong_choice(path, value, choice, exactly=rule == "oneOf")
    elif rule in ("oneOf", "anyOf") and "x-expected" not in schema:
        deepest = max(error.context or [], key=lambda one: len(one.absolute_path), default=None)
        yield from faults_of(deepest) if deepest else [Fault(path, error.message)]
    elif rule == "uniqueItems":
        yield from _repeated(path, value)
    elif rule == "not":
        yield Fault(path, f"expected {describe(schema)}, got {show(value)}; remove it", at_key=True)
    else:
        yield Fault(path, f"expected {describe(schema)}, got {show(value)}{_mend(value, schema)}")


def describe(schema: Mapping[str, Any]) -> str:
    """What a schema wants, in words."""
    if "x-expected" in schema:
        return str(schema["x-expected"])
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return one_of([json.dumps(option) for option in schema["enum"] if option is not None])
    kinds = _kind(schema) or "object"
    words = " or ".join(_TYPES[kind] for kind in ([kinds] if isinstance(kinds, str) else kinds))
    for minimum, maximum, unit in _RANGES:
        low, high = schema.get(minimum), schema.get(maximum)
        if low is not None or high is not None:
            return f"{words}{_range(low, high, unit)}"
    return f"{words} that matches {schema['pattern']}" if "pattern" in schema else words


def _kind(schema: Mapping[str, Any]) -> Any:  # noqa: ANN401 - a word, several, or none
    """The type that a value is to have; that it may be nothing as well helps nobody who wrote something else."""
    kinds = schema.get("type")
    if not isinstance(kinds, list):
        return kinds
    rest = [kind for kind in kinds if kind != "null"]
    return rest[0] if len(rest) == 1 else rest


def _range(low: int | None, high: int | None, unit: str) -> str:
    if not unit:
        return f" from {low} to {high}" if low is not None and high is not None else f", at least {low}"
    if low is not None and high is not None:
        return f" of {low} to {high} {unit}"
    most, bound = (f"at most {high}", high) if high is not None else (f"at least {low}", low)
    return f" of {most} {unit if bound != 1 else unit[:-1]}"


def show(value: object) -> str:
    """A value as its author wrote it, shortened."""
    if value is None:
        return "nothing"
    if isinstance(value, dict):
        return f"an object with {_some(value)}" if value else "an empty object"
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    if value is UNUSABLE:
        return "something that cannot be read"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}… ({len(text)} characters)"


def _some(keys: Collection[str]) -> str:
    names = [brief(key) for key in islice(keys, _MOST_SHOWN)]
    return one_of(names if len(keys) == len(names) else [*names, f"{len(keys) - len(names)} others"], "and")


def one_of(options: Iterable[str], word: str = "or") -> str:
    """`a, b or c`."""
    *others, last = options
    return f"{', '.join(others)} {word} {last}" if others else last


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option that was probably meant: the same but for case and punctuation, else one that looks alike."""
    if len(word) > _LONGEST_GUESSED:
        return None
    known = list(options)
    folded = {_fold(option): option for option in known}
    if _fold(word) in folded:
        return folded[_fold(word)]
    close = difflib.get_close_matches(_fold(word), folded, n=1, cutoff=0.65)
    return folded[close[0]] if close else None


def _fold(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", retyped(word).lower())


def _missing(key: str, schema: Mapping[str, Any]) -> str:
    return str(schema["x-expected"]) if "x-expected" in schema and "type" not in schema else f'the key "{key}"'


def _unknown_keys(path: Path, value: Mapping[str, object], schema: Mapping[str, Any]) -> Iterator[Fault]:
    known: Mapping[str, Any] = schema.get("properties", {})
    for key in value:
        if key in known:
            continue
        place = (*path, key)
        meant = nearest(key, [option for option in known if option not in value])
        home = next((name for name, inner in known.items() if key in inner.get("properties", ())), None)
        if meant is not None:
            message = f'expected a known key, got "{brief(key)}"; did you mean "{meant}"?'
            yield Fault(place, message, at_key=True, suggestion=meant)
        elif home is not None:
            message = f'expected a known key, got "{brief(key)}"; did you mean "{home}: {{{brief(key)}: …}}"?'
            yield Fault(place, message, at_key=True, suggestion=home)
        elif known:
            yield Fault(place, f'expected the key {one_of(known)}, got "{brief(key)}"', at_key=True)
        else:
            yield Fault(place, f'expected an empty object: {{}}, got the key "{brief(key)}"', at_key=True)


def _choice(branches: list[Mapping[str, Any]]) -> tuple[str, ...]:
    """The keys of a choice among `{"required": [key]}`; empty for any other."""
    if all(set(branch) == {"required"} and len(branch["required"]) == 1 for branch in branches):
        return tuple(branch["required"][0] for branch in branches)
    return ()


def _wrong_choice(
    path: Path, value: Mapping[str, object], choice: tuple[str, ...], *, exactly: bool
) -> Iterator[Fault]:
    given = [key for key in value if key in choice]
    expected = f"{'exactly' if exactly else 'at least'} one of {one_of(choice, 'and')}"
    if given:
        yield Fault((*path, given[1]), f"expected {expected}, got {one_of(given, 'and')}", at_key=True)
    else:
        yield Fault(path, f"expected {expected}, got none", missing=choice)


def _repeated(path: Path, value: list[object]) -> Iterator[Fault]:
    seen: set[object] = set()
    for position, item in enumerate(value):
        known = canonical(item)
        if item is not UNUSABLE and known in seen:
            yield Fault((*path, position), f"expected each item once, got {show(item)} again", again=True)
        seen.add(known)


def _mend(value: object, schema: Mapping[str, Any]) -> str:
    """How to put a value right, where that is plain."""
    kind = _kind(schema)
    if isinstance(value, str):
        # Where a schema explains what it expects, one near value would be half of the story.
        options = [option for option in (*schema.get("enum", ()), schema.get("const")) if isinstance(option, str)]
        meant = nearest(value, options) if "x-expected" not in schema else None
        if meant is not None:
            return f"; did you mean {json.dumps(meant)}?"
        if kind in ("integer", "number") and re.fullmatch(r"-?[0-9]+", value):
            return "; remove the quotes"
        if kind == "boolean" and value in ("true", "false"):
            return "; remove the quotes"
        return ""
    if kind == "string" and isinstance(value, int | float) and "pattern" not in schema:
        return f'; write "{json.dumps(value)}"'
    if kind == "array" and isinstance(value, str | int) and not isinstance(value, bool):
        return f"; write [{json.dumps(value)}]"
    if kind == "object" and value is None and not schema.get("properties"):
        return "; write {}"
    return ""
