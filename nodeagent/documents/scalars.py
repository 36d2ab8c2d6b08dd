"""What an unquoted word in YAML means, where every reader agrees on it; where they do not, it is an error.

`012` is ten, twelve or a string and `no` is false or a string, depending on who reads it: kustomize, the API server and
a linter may each see another file. So only what YAML 1.1 and 1.2 read alike is taken.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Final


class Unusable:
    """Stands in a tree for a value that could not be read, so that the rest can still be checked."""

    def __repr__(self) -> str:
        return "(unreadable)"


UNUSABLE: Final = Unusable()


class Misread(Exception):
    """A word that YAML readers take for different things. `choices` may be meant, and some take it for `taken`.

    The message says how to write each of them; where a place does not accept them all, `among` says it of the others.
    It is made when it is asked for: a document may have thousands of such words, of which few are reported.
    """

    def __init__(self, word: str, meaning: Callable[[], tuple[Sequence[object], str]]) -> None:
        super().__init__(word)
        self.word = word
        self._meaning = meaning

    def __str__(self) -> str:
        return self.among(self.choices)

    @property
    def choices(self) -> Sequence[object]:
        """What may be meant."""
        return self._meaning()[0]

    def among(self, choices: Sequence[object]) -> str:
        """What to say where only these of the choices are accepted."""
        kinds = [_kind(choice, len(choices)) for choice in choices] or ["a plain decimal number", "a quoted string"]
        shown = self.word if len(self.word) <= _SHOWN else f"{self.word[:_SHOWN]}…"
        if kinds == ["a quoted string"]:
            shown += f", which some readers take for {self._meaning()[1]}"
        fix = (
            "write " + " or ".join(map(json.dumps, choices))
            if choices
            else "write a shorter number, or put it in quotes"
        )
        return f"expected {' or '.join(kinds)}, got {shown}; {fix}"


def _kind(choice: object, of: int) -> str:
    if choice is None:
        return "null"
    if isinstance(choice, bool):
        return "true or false" if of == 1 else "true, false"
    return "a quoted string" if isinstance(choice, str) else "a plain decimal number"


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
    **dict.fromkeys(("y", "yes", "on", "true"), True),
    **dict.fromkeys(("n", "no", "off", "false"), False),
}
_NUMBER_LENGTH: Final = 30
_SHOWN: Final = 40
_LARGEST_EXACT: Final = 1e15


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
        raise Misread(word, lambda: ((None, word), "null"))
    truth = _TRUTHS.get(word.lower())
    if truth is not None and word in (word.lower(), word.upper(), word.capitalize()):
        raise Misread(word, lambda: ((truth, word), json.dumps(truth)))
    if _LOOKS_NUMERIC.fullmatch(word):
        raise Misread(word, lambda: _as_number(word))
    if _TIMESTAMP.fullmatch(word):
        raise Misread(word, lambda: ((word,), "a date"))
    return word


def _as_number(word: str) -> tuple[Sequence[object], str]:
    """What may be meant by something like a number, and what it is taken for."""
    if len(word) > _NUMBER_LENGTH:
        return (), "a number"
    if ":" in word:
        return (word,), "a number in base 60"
    try:
        number = _number(word.replace("_", "").lstrip("+"))
    except ValueError:
        return (word,), "a number"
    return (number, word), "a number"


def _number(word: str) -> int | float:
    """Raises ValueError for what is none after all, or none that can be written out."""
    if re.match("-?0[xob]", word):
        return int(word, 0)
    number = float(word)
    if abs(number) < _LARGEST_EXACT and number.is_integer():
        return int(number)
    if not _DECIMAL.fullmatch(json.dumps(number)):
        raise ValueError(word)
    return number
