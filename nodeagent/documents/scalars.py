"""What an unquoted word in YAML means, where every reader agrees on it; where they do not, it is an error.

`012` is ten, twelve or a string and `no` is false or a string, depending on who reads it: kustomize, the API server and
a linter may each see another file. So only what YAML 1.1 and 1.2 read alike is taken.
"""

from __future__ import annotations

import re
from typing import Final


class Unusable:
    """Stands in a tree for a value that could not be read, so that the rest can still be checked."""

    def __repr__(self) -> str:
        return "(unreadable)"


UNUSABLE: Final = Unusable()


class Misread(Exception):
    """A word that YAML readers take for different things; the message says how to write what is meant."""


_INTEGER: Final = re.compile(r"0|-?[1-9][0-9]*")
_DECIMAL: Final = re.compile(r"-?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+][0-9]+)?")
_LOOKS_NUMERIC: Final = re.compile(
    r"""[-+]?[0-9][0-9_]*                               # 012, 1_000, +5, -0
      | [-+]?0[xob][0-9a-fA-F_]+                        # 0x1F, 0o14, 0b1
      | [-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)? # 1:30
      | [-+]?(?:\.[0-9_]+|[0-9][0-9_]*\.[0-9_]*)(?:[eE][-+]?[0-9]+)?
      | [-+]?[0-9]+[eE][-+]?[0-9]+
      | [-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)
    """,
    re.VERBOSE,
)
_TIMESTAMP: Final = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[Tt ].{0,30})?")
_TRUTHS: Final = {
    **dict.fromkeys(("y", "yes", "on", "true"), "true"),
    **dict.fromkeys(("n", "no", "off", "false"), "false"),
}
_NUMBER_LENGTH: Final = 30


def resolve(word: str) -> str | int | float | bool | None:
    """The value of a plain scalar. Raises Misread where readers disagree on it, or a number is too long."""
    if word in ("", "~", "null"):
        return None
    if word in ("true", "false"):
        return word == "true"
    if _INTEGER.fullmatch(word) and len(word) <= _NUMBER_LENGTH:
        return int(word)
    if _DECIMAL.fullmatch(word) and len(word) <= _NUMBER_LENGTH:
        return float(word)
    if word in ("Null", "NULL"):
        raise Misread(f'expected null or a quoted string, got {word}; write null or "{word}"')
    truth = _TRUTHS.get(word.lower())
    if truth is not None and word in (word.lower(), word.upper(), word.capitalize()):
        raise Misread(f'expected true, false or a quoted string, got {word}; write {truth} or "{word}"')
    if _LOOKS_NUMERIC.fullmatch(word):
        shown = word if len(word) <= _NUMBER_LENGTH else f"{word[:_NUMBER_LENGTH]}…"
        raise Misread(f"expected a plain decimal number or a quoted string, got {shown}; {_mend(word)}")
    if _TIMESTAMP.fullmatch(word):
        raise Misread(f'expected a quoted string, got {word}, which some readers take for a date; write "{word}"')
    return word


def _mend(word: str) -> str:
    if len(word) > _NUMBER_LENGTH:
        return "write a shorter number, or put it in quotes"
    digits = word.replace("_", "").lstrip("+").lstrip("0")
    if ":" in word:
        return f'some readers take it for a number in base 60; write "{word}" if it is text'
    if digits.isascii() and digits.isdigit():
        return f'write {digits} or "{word}"'
    return f'write it in plain decimal, or as "{word}"'
