"""Share numbers as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.durable.atomic import Untrusted
from nodeagent.model.shares import MAX_NUMBER
from nodeagent.store.ranges import pack, unpack


@pytest.mark.parametrize(
    ("numbers", "text"),
    [([], ""), ([0], "0"), ([3, 1, 2], "1-3"), ([0, 1, 5], "0-1,5"), ([9, 7, 5], "5,7,9"), (range(40_000), "0-39999")],
)
def test_the_text_is_canonical(numbers: list[int], text: str) -> None:
    """Neighbours become one range, ascending."""
    assert pack(numbers) == text
    assert unpack(text) == frozenset(numbers)


@given(st.frozensets(st.integers(0, 60)))
def test_every_set_comes_back(numbers: frozenset[int]) -> None:
    """Packing loses nothing."""
    assert unpack(pack(numbers)) == numbers


@pytest.mark.parametrize(
    "text",
    [
        "-1",
        "1-",
        "2-1",
        "1-1",
        "a",
        "1,",
        ",1",
        "1,1",
        "1,2",
        "3,1",
        "0-2,2",
        "01",
        " 1",
        "1-2-3",
        "٣",
        "0-99999999999",
        "9" * 5000,
        str(MAX_NUMBER + 1),
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """A damaged range is refused before it is expanded."""
    with pytest.raises(Untrusted):
        unpack(text)
