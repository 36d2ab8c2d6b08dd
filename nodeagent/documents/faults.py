"""Turns what a JSON Schema validator found into "expected X, got Y; did you mean Z?".

Validators speak of the schema ("Additional properties are not allowed"); the author of a file has never seen it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from nodeagent.documents.evaluate import canonical
from nodeagent.documents.hints import EACH, Guide, Home
from nodeagent.documents.lookalikes import retyped
from nodeagent.documents.mends import mend, written
from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.tree import Path, brief, dotted

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
_LEVELS: Final = {1: "one level", 2: "two levels", 3: "three levels"}
_UNSPACED: Final = re.compile(r"([A-Za-z][A-Za-z0-9_]*)[:=](.+)|-([A-Za-z][A-Za-z0-9_]*)")
_MOST_SHOWN: Final = 8
_LONGEST_GUESSED: Final = 100
"""No key of ours is half as long."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `meant` leads to what was probably meant, `missing` are the keys whose absence it reports; `again`:
    nothing is wrong but that it is there already.
    """

    path: Path
    message: str
    at_key: bool = False
    meant: tuple[Path, ...] = ()
    missing: tuple[str, ...] = ()
    again: bool = False


def faults_of(error: ValidationError, guide: Guide) -> Iterator[Fault]:
    """The faults behind one finding of the validator."""
    path: Path = tuple(error.absolute_path)
    schema: Mapping[str, Any] = error.schema if isinstance(error.schema, dict) else {}
    value: Any = error.instance
    rule = error.validator
    if rule == "additionalProperties":
        yield from (unknown_key((*path, key), guide) for key in value if key not in schema.get("properties", {}))
    elif rule == "required":
        # One finding per missing key; its name is only in the message.
        key = next(key for key in schema["required"] if error.message.startswith(f"{key!r} "))
        yield Fault(path, f"expected {_missing(key, schema)}, got none{_add(path, key, guide)}", missing=(key,))
    elif rule in ("oneOf", "anyOf") and (choice := _choice(schema[rule])):
        if isinstance(value, dict):
            yield from _wrong_choice(path, value, choice, exactly=rule == "oneOf")
    elif rule in ("oneOf", "anyOf") and "x-expected" not in schema:
        deepest = max(error.context or [], key=lambda one: len(one.absolute_path), default=None)
        yield from faults_of(deepest, guide) if deepest else [Fault(path, error.message)]
    elif rule == "uniqueItems":
        yield from _repeated(path, value)
    elif rule == "not":
        yield Fault(path, f"expected {describe(schema)}, got {show(value)}; remove it", at_key=True)
    else:
        yield Fault(path, f"expected {describe(schema)}, got {show(value)}{_mend(path, value, schema, guide)}")


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
    return _nearest(word, tuple(options)) if len(word) <= _LONGEST_GUESSED else None


@lru_cache(maxsize=1024)  # a file of many configs has the same few keys again and again
def _nearest(word: str, options: tuple[str, ...]) -> str | None:
    folded = {_fold(option): option for option in options}
    if _fold(word) in folded:
        return folded[_fold(word)]
    close = difflib.get_close_matches(_fold(word), folded, n=1, cutoff=0.65)
    return folded[close[0]] if close else None


def _fold(word: str) -> str:
    return re.sub(r"[^a-z0-9]", "", retyped(word).lower())


def _missing(key: str, schema: Mapping[str, Any]) -> str:
    return str(schema["x-expected"]) if "x-expected" in schema and "type" not in schema else f'the key "{key}"'


def unknown_key(place: Path, guide: Guide) -> Fault:
    """An unknown key, with the one that was meant: one that differs in case alone, the same one elsewhere, one that
    goes by this name in another tool, one that looks alike.
    """
    path, name = place[:-1], str(place[-1])
    known = guide.keys(path)
    expected = _unknown(name)
    if not guide.asked():
        return Fault(place, expected, at_key=True)
    if (same := _same(name, known)) is None and (homes := guide.homes(name, path)):
        return _misplaced(place, name, homes, guide)
    fix, synonym = guide.word("x-instead", place), guide.word("x-synonyms", place)
    if (taken := same or synonym) in known and guide.given((*path, str(taken))):
        fix = f"remove it, {taken} is given already"
    if fix is not None:
        return Fault(place, f"{expected}; {fix}", at_key=True, meant=_places(place, guide))
    if (
        (found := _UNSPACED.fullmatch(name))
        and len(name) <= _LONGEST_GUESSED
        and (start := found[1] or found[3]) in known
    ):
        fix = f'write "{start}: {found[2].strip()}"' if found[1] else "write a space after the dash"
        return Fault(place, f"{expected}; {fix}", at_key=True, meant=((*path, start),))
    free = [option for option in known if not guide.given((*path, option))]
    for meant in (same, synonym, _same(name, guide.names), nearest(name, free)):
        if meant in free:
            return _did_you_mean(place, str(meant))
        if meant is not None and (homes := guide.homes(meant, path)):
            return _misplaced(place, meant, homes, guide)
    if not known:
        return Fault(place, f'expected an empty object: {{}}, got the key "{brief(name)}"', at_key=True)
    which = "one of the keys" if len(known) > 1 else "only the key"
    return Fault(place, f'expected {which} {one_of(known)}, got "{brief(name)}"', at_key=True)


def _unknown(key: str | int) -> str:
    return f'expected a known key, got "{brief(str(key))}"'


def _places(place: Path, guide: Guide) -> tuple[Path, ...]:
    """Where the key stands that another tool has by the name that `place` ends with."""
    meant = guide.word("x-synonyms", place)
    if meant is None:
        return ()
    if meant in guide.keys(place[:-1]):
        return ((*place[:-1], meant),)
    return tuple((*home.path, meant) for home in guide.homes(meant, place[:-1])[:1])


def _same(word: str, options: Iterable[str]) -> str | None:
    """The option that is the same word but for case and punctuation."""
    folded = _fold(word[:_LONGEST_GUESSED])
    return next((option for option in options if _fold(option) == folded), None)


def _did_you_mean(place: Path, meant: str) -> Fault:
    message = f'{_unknown(place[-1])}; did you mean "{meant}"?'
    return Fault(place, message, at_key=True, meant=((*place[:-1], meant),))


def _misplaced(place: Path, meant: str, homes: Sequence[Home], guide: Guide) -> Fault:
    """A key whose name, or what was meant by it, belongs into another object: the nearest, or either of two as near."""
    first = homes[0]
    near = [home.path for home in homes if (home.distance, home.there) == (first.distance, first.there)]
    free = [path for path in near if not guide.given((*path, meant))]
    expected = _unknown(place[-1])
    if not free:
        return Fault(place, f"{expected}; remove it, {_spelt((*first.path, meant))} is given already", at_key=True)
    outer = place[:-1]
    if outer[: len(free[0])] == free[0]:
        up = sum(isinstance(step, str) for step in outer[len(free[0]) :])
        where = f"{_LEVELS.get(up, f'{up} levels')} up: {_spelt((*free[0], meant))}"
    else:
        where = f"under {one_of(map(_spelt, free[:2]))}"
    message = f"it belongs {where}" if meant == place[-1] else f'did you mean "{meant}", which belongs {where}?'
    return Fault(place, f"{expected}; {message}", at_key=True, meant=tuple((*path, meant) for path in free))


def _spelt(path: Path) -> str:
    """A path in which any item of a list may be meant."""
    text = dotted(path)
    return f"an item of {text.removesuffix('[-1]')}" if path[-1] == EACH else text.replace("[-1]", "[…]")


def _add(path: Path, key: str, guide: Guide) -> str:
    """What to write for a missing key, where that is plain."""
    for schema in guide.at((*path, key)):
        if "const" in schema:
            return f'; add "{key}: {written(schema["const"])}"'
    required = guide.required((*path, key))
    return f'; add "{key}: {{{", ".join(f"{name}: …" for name in required)}}}"' if required else ""


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


def _mend(path: Path, value: object, schema: Mapping[str, Any], guide: Guide) -> str:
    """How to put a value right, where that is plain."""
    if isinstance(value, str):
        # Where a schema explains what it expects, one near value would be half of the story.
        options = [option for option in (*schema.get("enum", ()), schema.get("const")) if isinstance(option, str)]
        if "," in value and (several := mend(path, value, guide)):
            return several
        meant = nearest(value, options) if "x-expected" not in schema else None
        if meant is not None:
            return f"; did you mean {json.dumps(meant)}?"
    return mend(path, value, guide)
