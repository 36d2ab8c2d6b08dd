"""Documents that are to cost the reader as much as a document can: a grammar of them, and the shapes that others had.

A shape puts so many things of a kind, each so long, into a place of one of the formats. What it becomes is cut at the
size that the reader takes, wherever that is.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

SIZE: Final = 1 << 20
NODES: Final = 20_000

_OURS: Final = "apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata: {name: a}\nspec:\n"
_RULE: Final = _OURS + "  rules: [{name: a, exclusive: {}, match: %s}]\n"
_NVIDIA: Final = "version: v1\n"
_RESOURCE: Final = _NVIDIA + "sharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 2, %s}]}}\n"

PLACES: Final[Mapping[str, str]] = {
    "document": "%s\n",
    "comment": "# %s\n" + _OURS + "  rules: [{name: a, exclusive: {}}]\n",
    "ours": _OURS.replace("spec:\n", "spec: %s\n"),
    "ours, beside": _OURS + "  rules: [{name: a, exclusive: {}}]\n%s\n",
    "metadata": _OURS.replace("{name: a}", "{name: %s}") + "  rules: [{name: a, exclusive: {}}]\n",
    "rules": _OURS + "  rules: %s\n",
    "rule": _OURS + "  rules: [%s]\n",
    "match": _RULE,
    "indices": _RULE % "{indices: %s}",
    "uuids": _RULE % "{uuids: %s}",
    "models": _RULE % "{models: %s}",
    "mig": _RULE % "{mig: %s}",
    "resource": _OURS + "  rules: [{name: a, resource: %s, timeSlicing: {replicas: 4}}]\n",
    "xids": _OURS + "  health: {ignoreXids: %s, criticalXids: []}\n  rules: [{name: a, exclusive: {}}]\n",
    "NVIDIA's": _NVIDIA + "sharing: %s\n",
    "NVIDIA's flags": _NVIDIA + "flags: %s\n",
    "NVIDIA's strategies": _NVIDIA + "flags: {plugin: {deviceListStrategy: %s}}\n",
    "NVIDIA's resources": _NVIDIA + "sharing: {timeSlicing: {resources: %s}}\n",
    "NVIDIA's devices": _RESOURCE % "devices: %s",
    "NVIDIA's name": _RESOURCE % "rename: %s",
}

_Word = Callable[[int, int], str]
"""From its number and its length."""

WORDS: Final[Mapping[str, _Word]] = {
    "numbers": lambda number, _: str(number),
    "numbers and words": lambda number, length: str(number) if number % 2 else f"a{number:0{length}}",
    "small numbers": lambda number, _: str(number % 1024),
    "words": lambda number, length: f"a{number:0{length}}",
    "text": lambda number, length: '"' + f"{number} " + "x" * length + '"',
    "escapes": lambda _, length: '"' + "\\u202e" * length + '"',
    "two meanings": lambda number, _: ("no", "012", "1:30", "Null", "2001-01-01")[number % 5],
    "nothing": lambda _number, _length: "~",
    "aliases": lambda _, length: "*" + "a" * length,
    "anchors": lambda number, length: f"&{'a' * length} {number}",
    "tags": lambda number, length: f"!{'a' * length} {number}",
    "odd": lambda number, length: f"\u0430{number}" + "\u00a0x" * length,
    "quotes": lambda number, _: f"\u201c{number}\u201d",
    "lists": lambda number, length: "[" * min(length, 30) + str(number) + "]" * min(length, 30),
    "objects": lambda number, length: f"{{rulez: {number}, {'k' * length}: ~}}",
    "keys that are none": lambda number, _: f"{{[{number}]: {{a: b}}}}",
    "globs": lambda number, length: f'"*{number}{"*a" * length}*"',
    "globs and words": lambda number, length: f'"*{number}*"' if number % 2 else f"m{number:0{length}}",
    "hard globs": lambda number, length: f'"*{number}{"*?a" * length}"' if number % 2 else "a" * length,
    "uuids": lambda number, length: f"GPU-{number:0{min(length, 59)}}",
    "paths": lambda _, length: '"' + "a/" * length + '!"',
    "domains": lambda _, length: '"' + "a.-" * length + '!"',
    "dashes": lambda _, length: '"' + "a-" * length + '"',
    "numbers as keys": lambda number, _: f"{{{number}: ~}}",
    "rules": lambda number, _: f"{{name: r{number}, exclusive: {{}}}}",
    "rules of many modes": lambda number, _: f"{{name: r{number}, exclusive: {{}}, mps: {{}}, timeSlicing: {{a: 1}}}}",
    "rules of nothing": lambda number, _: f"{{x{number}: 1}}",
    "rules that share": lambda number, _: f"{{name: r{number}, resource: a/b, mps: {{replicas: {number + 1}}}}}",
    "rules alike": lambda number, length: _rule(number, [*range(length), 2000 + number], "indices"),
    "rules of indices": lambda number, length: _rule(number, [(number * length + i) % 1024 for i in range(length)]),
    "rules of globs": lambda number, length: _rule(number, [f'"*{number}x{i}*"' for i in range(length)], "models"),
    "rules of globs and words": lambda number, length: _rule(
        number, [f'"*{number}x{i}*"' if i % 2 else f"m{number}x{i}" for i in range(length)], "models"
    ),
    "rules of globs, then words": lambda number, length: _rule(
        number, [f'"*{number}x{i}*"' if number % 2 else f"m{number}x{i}" for i in range(length)], "models"
    ),
    "rules of globs but one": lambda number, length: _rule(
        number, [*(f'"*x{i}*"' for i in range(length)), f"m{number}"], "models"
    ),
    "rules of profiles": lambda number, length: _rule(number, [f'"{number}g.{i}*"' for i in range(length)], "mig"),
    "rules of long uuids": lambda number, length: (
        f"{{name: r{number}, resource: a/b, timeSlicing: {{replicas: 100000}}, match: {{uuids: "
        f"[{', '.join(f'GPU-{number * length + i:059}' for i in range(length))}]}}}}"
    ),
    "resources": lambda number, _: f"{{name: nvidia.com/gpu, replicas: {number % 9 + 2}}}",
    "resources of profiles": lambda number, _: f"{{name: nvidia.com/mig-1g.{number % 9999}gb, replicas: 2}}",
    "resources of devices": lambda number, length: (
        f"{{name: nvidia.com/gpu, replicas: 2, rename: a/b{number}, devices: "
        f"[{', '.join(str(i) if i % 2 else f'GPU-{number}-{i}' for i in range(length))}]}}"
    ),
    "resources of no devices": lambda number, length: (
        f"{{name: nvidia.com/gpu, replicas: 2, devices: [{', '.join(f'x{number}{i}' for i in range(length))}]}}"
    ),
}
CONTAINERS: Final[Mapping[str, Callable[[Iterator[str]], str]]] = {
    "list": lambda words: f"[{', '.join(words)}]",
    "block list": lambda words: "\n" + "".join(f"    - {word}\n" for word in words),
    "list in a list": lambda words: "[" * 25 + ", ".join(words) + "]" * 25,
    "object": lambda words: f"{{{', '.join(f'k{number}: {word}' for number, word in enumerate(words))}}}",
    "block object": lambda words: "\n" + "".join(f"  k{number}: {word}\n" for number, word in enumerate(words)),
    "keys": lambda words: f"{{{', '.join(words)}}}",
    "near keys": lambda words: f"{{{', '.join(f'rulez{number}: {word}' for number, word in enumerate(words))}}}",
    "long keys": lambda words: f"{{{', '.join(f'{number:0150}: {word}' for number, word in enumerate(words))}}}",
    "quoted keys": lambda words: "\n" + "".join(f'  "a{number}\\n": {word}\n' for number, word in enumerate(words)),
    "one key": lambda words: f"{{{', '.join(f'a: {word}' for word in words)}}}",
    "a long key around": lambda words: f'\n  ? "{"k" * 50_000}"\n  : [{", ".join(words)}]\n',
    "deep keys": lambda words: f"{{{'k' * 60}: " * 25 + f"[{', '.join(words)}]" + "}" * 25,
    "first": lambda words: next(words, ""),
    "lines": "\n".join,
    "documents": lambda words: "".join(f"\n--- {word}" for word in words),
    "directives": lambda words: "".join(f"\n%TAG !a{number}! {word}" for number, word in enumerate(words)),
    "comments": lambda words: "".join(f"\n# {word}" for word in words),
    "unclosed": lambda words: f"[{', '.join(words)}",
    "unclosed quote": lambda words: '"' + "\n".join(words),
    "no space behind dashes": lambda words: "".join(f"\n-{word}: 1" for word in words) + "\na: b: c\n",
    "one value too many": lambda words: "b: c\n" + "".join(f"k{number}: {word}\n" for number, word in enumerate(words)),
    "block text": lambda words: "|\n" + "".join(f"    {word}\n" for word in words),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a document is made of."""

    place: str
    container: str
    words: str
    count: int
    length: int

    def data(self) -> bytes:
        """The document, cut at the size that is taken."""
        word = WORDS[self.words]
        found = CONTAINERS[self.container](_few(word(number, self.length) for number in range(self.count)))
        return PLACES[self.place].replace("%s", found).encode()[:SIZE]

    def __str__(self) -> str:
        return f"{self.place}: {self.container} of {self.count} {self.words} of {self.length}"


def known() -> Iterator[Shape]:
    """Those that were found slow once, or are near such ones: each kind of thing where it belongs, or nearly."""
    for words in WORDS:
        whole = words.startswith(("rules", "resources"))
        for place in ("rules", "NVIDIA's resources") if whole else ("models", "indices"):
            yield Shape(place, "list", words, 256, 65)
            yield Shape(place, "list", words, NODES - 100, 3)
    for container in CONTAINERS:
        yield Shape("ours", container, "words", NODES // 2 - 100, 5)
        yield Shape("document", container, "two meanings", NODES // 2 - 100, 1)
    for place in PLACES:
        for words in ("numbers and words", "two meanings", "odd"):
            yield Shape(place, "list", words, NODES - 100, 2)
        yield Shape(place, "first", "paths", 1, SIZE // 2)
        yield Shape(place, "first", "domains", 1, SIZE // 3)
    yield Shape("rules", "block list", "numbers as keys", NODES // 3 - 100, 1)
    yield Shape("comment", "comments", "words", SIZE // 4, 0)
    yield Shape("document", "directives", "words", SIZE // 20, 1)


def chosen(dice: random.Random) -> Shape:
    """Any."""
    return Shape(
        dice.choice(list(PLACES)), dice.choice(list(CONTAINERS)), dice.choice(list(WORDS)), _count(dice), _length(dice)
    )


def changed(shape: Shape, dice: random.Random) -> Shape:
    """One that is like it, but for one thing."""
    other = chosen(dice)
    name = dice.choice(("place", "container", "words", "count", "length"))
    return replace(shape, **{name: getattr(other, name)})


def _count(dice: random.Random) -> int:
    return dice.choice((1, 16, 255, 256, 257, 1000, 5000, NODES // 2 - 100, NODES - 100, NODES * 3, SIZE // 3))


def _length(dice: random.Random) -> int:
    return dice.choice((1, 1, 2, 5, 20, 64, 250, 1000, 60_000, SIZE))


def _few(words: Iterator[str]) -> Iterator[str]:
    """No more than can be taken anyway."""
    size = 0
    for word in words:
        yield word
        size += len(word) + 2
        if size > SIZE:
            return


def _rule(number: int, items: list[int] | list[str], key: str = "indices") -> str:
    return f"{{name: r{number}, exclusive: {{}}, match: {{{key}: [{', '.join(map(str, items[:300]))}]}}}}"
