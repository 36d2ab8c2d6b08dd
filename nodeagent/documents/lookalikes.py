"""Characters that look like those of YAML, or like nothing: nobody sees them, so that a report has to name them."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

_SPACES: Final = "\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000"
_NOTHING: Final = "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufe00-\ufe0f"
_BREAKS: Final = "\u0085\u2028\u2029"
_QUOTES: Final = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u00b4", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
}
_SIGNS: Final = {
    **dict.fromkeys("\u00b7\u2022\u2043\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63", "-"),
    **{chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    "\u2236": ":",
    "\ua789": ":",
    "\u3001": ",",
    "\u3010": "[",
    "\u3011": "]",
    "\u2217": "*",
}
_LATIN: Final = dict(
    zip(
        "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d"
        "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0425\u0405\u0406\u0408\u0423\u0417"
        "\u03b1\u03bf\u03bd\u03b9\u03c1\u03c5\u03ba\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
        "\u0131\u0251\u0261",
        "aeopcyxijshdqwABEKMHOPCTXSIJY3aovipukABEZHIKMNOPTYXiag",
        strict=True,
    )
)
_HIDDEN: Final = re.compile(f"[{_SPACES}{_NOTHING}]")
_IN_WORDS: Final = re.compile(f"[{_SPACES}{_NOTHING}{''.join((*_QUOTES, *_SIGNS, *_LATIN))}]")
_IN_LINES: Final = re.compile(f"[{_SPACES}{_NOTHING}{''.join((*_QUOTES, *_SIGNS))}]")
_BREAK: Final = re.compile(f"[{_BREAKS}]")
_SAID: Final = re.compile(r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|(?:^|(?<=\s))#[^\n]*""")
"""Quoted text and comments, in which a character means nothing but itself."""

_LONGEST: Final = 10_000


@dataclass(frozen=True, slots=True)
class Odd:
    """Such a character. `alone`: it is never meant where it stands, even if nothing else is wrong there; `surely`: it
    explains whatever else is said of its word.
    """

    character: str
    line: int
    column: int
    alone: bool = False
    surely: bool = True

    @property
    def message(self) -> str:
        """What is there, and what to do about it."""
        meant = _meant(self.character)
        if not meant:
            return f"got {named(self.character)}, which nobody sees; remove it"
        words = {" ": "a space", '"': 'a straight quote (")', "'": "a straight quote (')"}.get(meant, f'"{meant}"')
        return f"got {named(self.character)} where {words} was probably meant; retype it"


def named(character: str) -> str:
    """`a no-break space (U+00A0)`."""
    name = unicodedata.name(character, "control character").lower()
    name = re.sub(r"\b(cyrillic|greek|latin)\b", lambda found: found[0].capitalize(), name)
    article = "an" if name[0] in "aeiou" else "a"
    return f"{article} {name} (U+{ord(character):04X})"


def retyped(word: str) -> str:
    """The word as it was probably meant.

    >>> retyped("n\u0430me\uff1a")
    'name:'
    """
    return word if word.isascii() else _IN_WORDS.sub(lambda found: _meant(found[0]), word)


def in_word(word: str, line: int, column: int, *, plain: bool) -> Odd | None:
    """The first such character of a word that stands there, in quotes unless it is `plain`."""
    if word.isascii() or (found := _IN_WORDS.search(word)) is None:
        return None
    if found[0] in _LATIN and not retyped(word).isascii():
        return None  # it is another language
    if not plain:
        return Odd(found[0], line, column, surely=found[0] in _LATIN)
    found = _HIDDEN.search(word) or found
    quoted = word[0] in _QUOTES or word[-1] in _QUOTES
    alone = quoted or found[0] in _SIGNS or _HIDDEN.match(found[0]) is not None
    return Odd(found[0], line, column + found.start(), alone)


def in_lines(text: str, first: int, last: int) -> Odd | None:
    """The first such character in these lines (from 0), outside quotes and comments; no letters."""
    for number, line in enumerate(text.split("\n")[first : last + 1], first + 1):
        if line.isascii():
            continue
        bare = _SAID.sub(lambda said: " " * len(said[0]), line[:_LONGEST])
        if found := _IN_LINES.search(bare):
            return Odd(found[0], number, found.start() + 1)
    return None


def line_break(text: str) -> re.Match[str] | None:
    """The first character that only some readers take for the end of a line: what stands behind it in a comment is none
    to the others.
    """
    return None if text.isascii() else _BREAK.search(text)


def _meant(character: str) -> str:
    for known in (_QUOTES, _SIGNS, _LATIN):
        if character in known:
            return known[character]
    return " " if re.match(f"[{_SPACES}]", character) else ""
