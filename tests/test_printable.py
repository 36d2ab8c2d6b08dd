"""What is printed of text that others wrote: seen as it is, in one line, and no longer than it may be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.model.config import LONGEST_MESSAGE, Stage, Violation, Where
from nodeagent.model.printable import cut, legible, printable


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nvidia.com/gpu", "nvidia.com/gpu"),
        ("Größe 8 µm, 名前, \U0001f600", "Größe 8 µm, 名前, \U0001f600"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[2J\x9b1m\x7f\x00", r"\u001b[2J\u009b1m\u007f\u0000"),
        ("a\u202eb\u2066c\u2069", r"a\u202eb\u2066c\u2069"),
        ("a\u00a0b\u3000c\u200bd\ufeffe\u00ad", r"a\u00a0b\u3000c\u200bd\ufeffe\u00ad"),
        ("a\u2028b\u2029c\u0085", r"a\u2028b\u2029c\u0085"),
        ("\udcff.yaml", r"\udcff.yaml"),
        ("\u3164\u2800\ufe0f\u034f\u115f", r"\u3164\u2800\ufe0f\u034f\u115f"),
        ("\U000e0041\U000e0100", r"\U000e0041\U000e0100"),
    ],
)
def test_what_would_not_be_seen(text: str, expected: str) -> None:
    """Control characters, escapes, marks of direction, spaces and breaks of other kinds, halves of characters."""
    assert printable(text) == expected
    assert printable(expected) == expected


@given(st.text(st.characters(categories=("L", "M", "N", "P", "S", "Z", "C"))))
def test_any_text(text: str) -> None:
    """It is in one line and can be printed; with its lines, it has as many."""
    assert printable(text).isprintable()
    assert legible(text).split("\n") == [printable(line) for line in text.split("\n")]


@given(st.text(max_size=300), st.integers(40, 200))
def test_no_longer(text: str, most: int) -> None:
    """It is shortened once, and says how long it was."""
    found = cut(text, most)
    assert len(found) <= most
    assert found == text or found.endswith(f"… ({len(text)} characters)")
    assert cut(found, most) == found


@pytest.mark.parametrize("part", ["x" * 10**6, "\u202e" * 10**6, "\n" * 10**6])
def test_a_violation_is_a_short_line(part: str) -> None:
    """Whatever is in its message or in the name of its file."""
    violation = Violation("a\x1b.yaml", Where("a"), f"got {part}", Stage.PARSE)
    assert len(violation.message) <= LONGEST_MESSAGE
    assert str(violation).startswith("a\\u001b.yaml:1:1: a: got ")
    assert str(violation).isprintable()
