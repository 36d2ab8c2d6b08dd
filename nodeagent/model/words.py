"""Numbers of things as people say them."""

from __future__ import annotations

from collections.abc import Collection


def count(things: Collection[object] | int, one: str) -> str:
    """`1 share`, `5 shares`."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"
