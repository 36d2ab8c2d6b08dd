"""What a wrong value was probably meant to be: guesses, of which those that its place would not accept are left out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from nodeagent.documents.hints import Guide
from nodeagent.documents.quantities import format_duration, format_quantity
from nodeagent.documents.scalars import UNUSABLE, Misread, resolve
from nodeagent.documents.tree import Path

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/%+-]*")
_RANGE: Final = re.compile(r"([0-9]{1,6})\s*(?:[-\u2013]|\.\.\.?|to)\s*([0-9]{1,6})")
_LONGEST_RANGE: Final = 64
_LONGEST: Final = 300
_FEW: Final = 1024
"""So many are gigabytes; more are megabytes, as nvidia-smi prints them, or bytes."""
_VENDORS: Final = re.compile(r"([0-9]{1,6})\s*gb?", re.IGNORECASE)
"""Memory as the makers of cards write it."""
_UUID: Final = re.compile(r"(?:MIG-GPU|GPU|MIG)-[0-9A-F-]{36}[0-9/]*", re.IGNORECASE)
_AMOUNT: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*([kmgt])ib?", re.IGNORECASE)
_TIMES: Final = re.compile(
    " ?".join(f"(?:([0-9]{{1,6}}) ?{unit}[a-z]*)?" for unit in ("d", "h", "m(?!s)", "s")),
    re.IGNORECASE,
)
_SECONDS: Final = (86_400, 3600, 60, 1)
_POWERS: Final = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_UNSPACED: Final = re.compile(r"([A-Za-z][A-Za-z0-9_]*):\S.*", re.DOTALL)
_LEFT_OVER: Final = re.compile(r"\{\{|\$\{|\$\(|<[A-Za-z_ -]+>")
_TRUTHS: Final = {
    **dict.fromkeys(("true", "yes", "on", "y", "enabled", "1"), True),
    **dict.fromkeys(("false", "no", "off", "n", "disabled", "0"), False),
}
_NAME: Final = re.compile(r"[A-Za-z0-9_. -]+")
_MIG: Final = re.compile(r"^(?:nvidia\.com/)?mig-")
_BULLET: Final = re.compile(r"(?:[^\w\s\"'-]|[0-9]+[.)]) +")
_EVERYTHING: Final = {"all", "any", "every", "*"}
_SIMPLE: Final = str | int | float


def mend(path: Path, value: object, guide: Guide) -> str:
    """How to put the value at `path` right, to be added to a message; empty where that is not plain."""
    if isinstance(value, str | list) and (len(value) > _LONGEST or not _is_readable(value)):
        return ""
    siblings = [other for other in guide.siblings(path) if other is not value]
    for group in _guesses(path, value, guide):
        good = [guess for guess in group if guide.accepts(path, guess)]
        if good and all(guess in siblings for guess in good):
            return f"; remove it, {written(good[0])} is in the list already"
        if good:
            return f"; {_write(value, good)}"
    inside = bool(path) and isinstance(path[-1], int)
    if isinstance(value, str) and inside and len(siblings) == 0 and guide.accepts(path[:-1], value):
        return f"; replace the list with {written(value)}"
    if isinstance(value, str) and (items := _numbers(value)) and inside:
        fresh = [item for item in items if item not in siblings]
        if fresh and all(guide.accepts(path, item) for item in fresh):
            return f"; write {', '.join(map(written, fresh))}"
    return _in_words(path, value, guide)


def _is_readable(value: object) -> bool:
    """Whether a value can be written again: all of it was read."""
    if isinstance(value, list | dict):
        return all(map(_is_readable, value.values() if isinstance(value, dict) else value))
    return value is not UNUSABLE


def written(value: object) -> str:
    """A value as one writes it in YAML, on one line: `[0, 1]`, `{replicas: 4}`, `25%`, `"10"`."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        try:
            if resolve(value) == value:
                return value
        except Misread:
            pass
    return json.dumps(value, ensure_ascii=False)


def _write(value: object, guesses: list[object]) -> str:
    if isinstance(value, str) and len(guesses) == 1 and json.dumps(guesses[0]) == value:
        return "remove the quotes"
    return "write " + " or ".join(map(written, guesses))


def _guesses(path: Path, value: object, guide: Guide) -> Iterator[list[object]]:
    """Groups of guesses, the likeliest first; those of one group are as likely."""
    if isinstance(value, str):
        yield from _for_text(value)
    elif isinstance(value, int | float):
        yield from _for_number(value)
    if isinstance(value, list) and len(value) == 1:
        yield [value[0]]
    if value is None or value == [] or _truth(value) or (isinstance(value, str) and value.lower() in _EVERYTHING):
        yield [{}]
    if isinstance(value, _SIMPLE) and not (isinstance(value, str) and value.startswith("(")):
        yield [[value]]
    if isinstance(value, _SIMPLE | list):
        yield from _as_only_key(path, value, guide)


def _for_number(value: float) -> Iterator[list[object]]:
    if isinstance(value, int) and (truth := _truth(value)) is not None:
        yield [truth]
    if isinstance(value, float):
        if value.is_integer():
            yield [int(value)]
        elif 0 < value < 1:
            yield [f"{value:.0%}"]
            yield [round(value * 100)]
    if not isinstance(value, bool):
        yield [str(value)]
    if isinstance(value, int) and value > 0:
        yield [format_quantity(value << 30 if value < _FEW else value << 20 if value < 1 << 20 else value)]


def _truth(value: object) -> bool | None:
    """What a value says where people write yes and no."""
    return _TRUTHS.get(str(value).strip().lower()) if isinstance(value, str | int) else None


def _for_text(text: str) -> Iterator[list[object]]:
    word = text.strip()
    yield from _stripped(word)
    if (truth := _truth(word)) is not None:
        yield [truth]
    if re.fullmatch(r"-?[0-9]{1,9}", word):
        yield [int(word), f"{word}%"]
        yield [[int(word)]]
    if re.fullmatch(r"[0-9]{1,9}\s*%", word):
        yield [f"{int(word[:-1])}%"]
        if int(word[:-1]) <= 100:
            yield [int(word[:-1])]
    yield from _amounts(word)
    if items := _numbers(word):
        yield [items]
    if "," in word:
        yield [[part.strip() for part in word.split(",")]]
    yield from _names(text, word)


def _stripped(word: str) -> Iterator[list[object]]:
    """What is left without signs that YAML has no use for: `4;`, `(a)`, `"{}"`."""
    if word in ("{}", "[]"):
        yield [json.loads(word)]
    if word.endswith((";", ",", ":", ".")) and (less := word.rstrip(";,:.")):
        yield from _for_text(less)
    if word.startswith("(") and word.endswith(")"):
        parts: list[object] = [part.strip().strip("\"'()") for part in word.strip("()").split(",")]
        yield [parts]
        yield from _for_text(str(parts[0]))


def _amounts(word: str) -> Iterator[list[object]]:
    if found := _AMOUNT.fullmatch(word):
        amount = float(found[1]) * _POWERS[found[2].lower()]
        if amount.is_integer() and amount % 1024 == 0:
            yield [format_quantity(int(amount))]
    if found := _VENDORS.fullmatch(word):
        # A card of 80 GB has less than 80 GiB as often as not.
        yield [f"{found[1]}Gi", f"{int(found[1]) * 10**9 >> 20}Mi"]
    if word and (found := _TIMES.fullmatch(word)):
        parts = zip(found.groups(), _SECONDS, strict=True)
        yield [format_duration(sum(int(number) * size for number, size in parts if number))]


def _names(text: str, word: str) -> Iterator[list[object]]:
    yield [text.lower()]
    if _UUID.fullmatch(word):
        kind = word[: -len(word.upper().removeprefix("MIG-").removeprefix("GPU-"))]
        yield [kind.upper() + word[len(kind) :].lower()]
    domain, slash, name = word.partition("/")
    yield [f"{domain.lower()}{slash}{name}"]
    yield [word]
    profile = _MIG.sub("", word)
    yield [profile]
    if profile != word:
        yield [[profile]]
    if _NAME.fullmatch(word):
        yield [re.sub(r"[^a-z0-9]+", "-", word.lower()).strip("-")]


def _numbers(text: str) -> list[object]:
    """`0-3` and `0, 1` as numbers; empty for what is neither."""
    found: list[object] = []
    for part in re.split(r"\s*,\s*|\s+(?=[0-9]+(?:\s|$))", text.strip().removeprefix("[").removesuffix("]")):
        if re.fullmatch("[0-9]{1,6}", part):
            found.append(int(part))
        elif (ends := _RANGE.fullmatch(part)) and 0 < int(ends[2]) - int(ends[1]) < _LONGEST_RANGE:
            found.extend(range(int(ends[1]), int(ends[2]) + 1))
        else:
            return []
    return found


def _as_only_key(path: Path, value: object, guide: Guide) -> Iterator[list[object]]:
    """`{replicas: 10}` for 10, where that is the only object that can be meant."""
    required = guide.required(path)
    names = required if len(required) == 1 else tuple(guide.keys(path))
    good = [{name: value} for name in names if guide.accepts((*path, name), value)]
    if len(good) == 1:
        yield [*good]


def _in_words(path: Path, value: object, guide: Guide) -> str:
    if _truth(value) is False and guide.accepts(path, {}) and path[-1] not in guide.required(path[:-1]):
        return f"; remove {path[-1]}"
    lists = any("items" in schema for schema in guide.at(path))
    if isinstance(value, str):
        if lists and value.lower() in _EVERYTHING and path[-1] not in guide.required(path[:-1]):
            return f"; remove {path[-1]}, since without it all are meant"
        unspaced = _UNSPACED.match(value)
        if unspaced and unspaced[1] in guide.keys(path):
            return f'; write a space after the colon of "{unspaced[1]}:"'
        return "; was a template or a placeholder left as it is?" if _LEFT_OVER.search(value) else ""
    if isinstance(value, dict) and lists:
        known = guide.keys((*path, 0))
        if any(str(key).startswith("-") and str(key)[1:] in known for key in value):
            return "; write a space after the dash"
        if any((sign := _BULLET.match(str(key))) and str(key)[sign.end() :] in known for key in value):
            return '; write it as an item of a list, with "- " before its first key'
        if any(key in known for key in value):
            return '; write it as an item of a list, with "- " before its first key'
    return ""
