"""Lists of shell globs, and whether one speaks of all that another does: at a cost that has a bound.

The schema allows 65,000 of them in a document: comparing each with each is out of the question. What is written alike
is found by hashing. Whether a glob matches a word without wildcards has to be tried, and is so within a budget; when
that is spent the word counts as not covered, so that a mistake may stay unnoticed, but none is made up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Final

TRIES: Final = 10_000

_WILD: Final = re.compile(r"[*?[]")


class Budget:
    """How much is still tried."""

    def __init__(self, tries: int = TRIES) -> None:
        self.left = tries

    def spend(self, tries: int) -> bool:
        """Whether there was as much."""
        self.left -= tries
        return self.left >= 0


class Globs:
    """Some globs, and more as they are added."""

    def __init__(self, globs: Iterable[str] = ()) -> None:
        self.anything = False
        self.words: set[str] = set()
        self.patterns: set[str] = set()
        self._wild: list[_Wild] = []
        self.add(globs)

    def add(self, globs: Iterable[str]) -> None:
        """These, too."""
        for glob in globs:
            if not _WILD.search(glob):
                self.words.add(glob)
            elif glob not in self.patterns:
                self.patterns.add(glob)
                self._wild.append(_Wild(glob))
                self.anything = self.anything or not glob.strip("*")

    def cover(self, others: Globs, budget: Budget) -> bool:
        """Whether all that the others match is matched by these, as far as the globs themselves show it."""
        if self.anything:
            return True
        unknown = others.words - self.words
        if unknown and (budget.left <= 0 or not self._wild):
            return False
        return others.patterns <= self.patterns and all(self._match(word, budget) for word in unknown)

    def _match(self, word: str, budget: Budget) -> bool:
        for wild in self._wild:
            if budget.left <= 0:
                return False
            if wild.matches(word, budget):
                return True
        return False


class _Wild:
    """A glob with wildcards."""

    def __init__(self, glob: str) -> None:
        self._glob = glob
        self._parts: list[str] | None = None
        self._pattern: re.Pattern[str] | None = None

    def matches(self, word: str, budget: Budget) -> bool:
        """As `fnmatchcase`. False when there is nothing left to spend.

        What is spent is about a microsecond. Those with `*` alone, which are nearly all, need no regular expression:
        to make one takes as long as to try hundreds.
        """
        if self._parts is None:
            self._parts = self._glob.split("*")
            if _WILD.search("".join(self._parts)) and budget.spend(200 + 10 * len(self._glob)):
                self._pattern = re.compile(translate(self._glob))
        if self._pattern is not None:
            return budget.spend(10 + len(self._glob) * len(word) // 100) and self._pattern.match(word) is not None
        return budget.spend(1) and _in_order(word, self._parts)


def _in_order(word: str, parts: list[str]) -> bool:
    """Whether the word begins and ends with the first and the last part, the others in order between them."""
    first, *middle, last = parts
    if not (word.startswith(first) and word.endswith(last)):
        return False
    at, end = len(first), len(word) - len(last)
    for part in middle:
        at = word.find(part, at, max(end, 0))
        if at < 0:
            return False
        at += len(part)
    return at <= end
