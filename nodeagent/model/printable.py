r"""Text of unknown origin as it may be printed: nothing of it acts on a terminal, or hides in a log.

What a person cannot see is written as an escape: a right-to-left override is `\u202e`, a no-break space `\u00a0`.
"""

from __future__ import annotations

import re
from typing import Final

_SHORT: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
_BLANK: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Which `str.isprintable` takes for printable, and nobody sees."""


def printable(text: str) -> str:
    r"""The text in one line, all that would not be seen as escapes.

    >>> printable("a\x1b[2Jb\u202ec")
    'a\\u001b[2Jb\\u202ec'
    """
    if text.isprintable() and (text.isascii() or not _BLANK.search(text)):
        return text
    return "".join(_seen(character) for character in text)


def legible(text: str) -> str:
    """As `printable`, but with its lines."""
    return text if text.isprintable() and text.isascii() else "\n".join(map(printable, text.split("\n")))


def cut(text: str, most: int) -> str:
    """The text in at most so many characters; one that is longer says how long it is.

    >>> cut("abcdefghijklmnopqrstuvwxyz" * 2, 40)
    'abcdefghijklmnopqrstu… (52 characters)'
    """
    if len(text) <= most:
        return text
    length = f"… ({len(text)} characters)"
    return text[: max(most - len(length) - 1, 1)] + length


def _seen(character: str) -> str:
    if character.isprintable() and not _BLANK.match(character):
        return character
    if character in _SHORT:
        return _SHORT[character]
    code = ord(character)
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
