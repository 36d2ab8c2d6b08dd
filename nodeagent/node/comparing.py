"""What of a Node is not as it should be, and which of two states of it is the newer one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nodeagent.model.node import LabelDifference, NodeObject

_SHOWN: Final = 1000
"""Characters that are shown of a value that somebody else has set: an annotation may have 256 KiB."""


def compared(want: Mapping[str, str], have: Mapping[str, str], own: frozenset[str]) -> list[LabelDifference]:
    """What differs of ours; of what others wrote nothing but what we want otherwise."""
    wrong = [
        LabelDifference(key, value, _shown(have.get(key))) for key, value in want.items() if have.get(key) != value
    ]
    return wrong + [LabelDifference(key, None, _shown(have[key])) for key in sorted(own - want.keys()) if key in have]


def older(node: NodeObject, than: NodeObject) -> bool:
    """Whether a state of the same Node is from before another: versions of one object are numbers that grow (KEP-5504),
    and a server whose versions are none is believed in the order in which it speaks.
    """
    if node.uid != than.uid or not (_number(node.version) and _number(than.version)):
        return False
    return int(node.version) < int(than.version)


def _number(version: str) -> bool:
    """They are of 64 bits."""
    return version.isascii() and version.isdigit() and len(version) <= len(str(2**64))


def _shown(value: str | None) -> str | None:
    return value if value is None or len(value) <= _SHOWN else f"{value[: _SHOWN - 1]}…"
