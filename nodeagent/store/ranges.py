"""Sets of share numbers as text: `0-9,12`. Forty thousand shares of eight GPUs are then a few hundred bytes."""

from __future__ import annotations

from collections.abc import Collection

from nodeagent.durable.atomic import Untrusted
from nodeagent.model.shares import read_number


def pack(numbers: Collection[int]) -> str:
    """The canonical text: ascending, as few parts as possible, empty for no numbers."""
    if not numbers:
        return ""
    if max(numbers) - min(numbers) == len(numbers) - 1:
        return _part(min(numbers), max(numbers))
    parts = []
    ascending = sorted(numbers)
    first = last = ascending[0]
    for number in ascending[1:]:
        if number != last + 1:
            parts.append(_part(first, last))
            first = number
        last = number
    parts.append(_part(first, last))
    return ",".join(parts)


def _part(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def unpack(text: str) -> frozenset[int]:
    """The numbers. Raises Untrusted for anything that `pack` would not have written."""
    numbers: set[int] = set()
    previous = -2
    for part in text.split(",") if text else ():
        low, dash, high = part.partition("-")
        first = _number(low)
        last = _number(high) if dash else first
        if first <= previous + 1 or (dash and last <= first):
            raise Untrusted(f"not a canonical set of numbers: {text[:40]!r}")
        numbers.update(range(first, last + 1))
        previous = last
    return frozenset(numbers)


def _number(text: str) -> int:
    # The highest number bounds what a damaged range is expanded into.
    number = read_number(text)
    if number is None:
        raise Untrusted(f"not a share number: {text[:40]!r}")
    return number
