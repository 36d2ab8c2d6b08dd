"""Amounts of memory and time as people write them in files: `80Gi`, `512Mi`, `4h`, `90s`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_QUANTITY: Final = re.compile(r"([0-9]{1,12})(Ki|Mi|Gi|Ti)", re.ASCII)
_BYTES: Final = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_DURATION: Final = re.compile(r"([0-9]{1,12})(ms|s|m|h)", re.ASCII)
_MILLISECONDS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}


def parse_quantity(text: str) -> int:
    """`80Gi` in bytes. Raises ValueError: units are `Ki` to `Ti`, so that 80 GB and 80 GiB are not mixed up."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a quantity such as 80Gi or 512Mi, got {text!r}")
    return int(found[1]) * _BYTES[found[2]]


def format_quantity(amount: int, units: Sequence[str] = ("Ti", "Gi", "Mi", "Ki")) -> str:
    """The shortest exact form in one of `units`, the largest first: 85899345920 is `80Gi`.

    `amount` is in bytes, a multiple of the last unit.
    """
    *larger, last = units
    unit = next((unit for unit in larger if amount and amount % _BYTES[unit] == 0), last)
    return f"{amount // _BYTES[unit]}{unit}"


def parse_duration(text: str) -> float:
    """`4h` in seconds. Raises ValueError: a number alone does not say of what."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise ValueError(f"expected a duration such as 500ms, 90s, 30m or 4h, got {text!r}")
    return int(found[1]) * _MILLISECONDS[found[2]] / 1000


def format_duration(seconds: float) -> str:
    """The shortest exact form: 14400.0 is `4h`. Precise to a millisecond."""
    milliseconds = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"
