"""Whether a list of globs speaks of all that another one does: right, and never dear."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.config.globs import TRIES, Budget, Globs

GLOBS = st.lists(st.text("ab*?[]!-", min_size=1, max_size=6), min_size=1, max_size=4)


def by_hand(wide: list[str], narrow: list[str]) -> bool:
    """Each compared with each."""
    if any(glob.strip("*") == "" for glob in wide):
        return True
    return all(
        any(glob == other or (not set(glob) & set("*?[") and fnmatchcase(glob, other)) for other in wide)
        for glob in narrow
    )


@given(GLOBS, GLOBS)
def test_as_each_compared_with_each(wide: list[str], narrow: list[str]) -> None:
    """As long as the budget lasts, nothing is left out and nothing made up."""
    assert Globs(wide).cover(Globs(narrow), Budget()) == by_hand(wide, narrow)


@given(st.text("ab*", min_size=1, max_size=8), st.text("ab", max_size=8))
def test_stars_alone(glob: str, word: str) -> None:
    """Those without other wildcards match as the shell's."""
    assert Globs([glob]).cover(Globs([word]), Budget()) == fnmatchcase(word, glob)


@pytest.mark.parametrize("ending", ["*", "?", "[ab]"])
def test_what_is_spent(ending: str) -> None:
    """When the budget is spent nothing more is tried, and a word counts as not covered."""
    wide = Globs(f"{number}-{'x' * 200}{ending}" for number in range(1000))
    budget = Budget()
    assert not wide.cover(Globs(f"{number}" for number in range(1000)), budget)
    assert budget.left < TRIES
    budget.left = 0
    assert not wide.cover(Globs([f"1-{'x' * 200}a"]), budget)
    assert wide.cover(Globs([f"1-{'x' * 200}{ending}"]), budget)
