"""Amounts of memory and time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.documents.quantities import format_duration, format_quantity, parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("text", "amount"), [("80Gi", 80 << 30), ("512Mi", 512 << 20), ("1Ki", 1024), ("2Ti", 2 << 40)]
)
def test_quantities(text: str, amount: int) -> None:
    """A quantity is a whole number of a binary unit."""
    assert parse_quantity(text) == amount
    assert format_quantity(amount) == text


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("90s", 90.0), ("30m", 1800.0), ("4h", 14400.0)])
def test_durations(text: str, seconds: float) -> None:
    """A duration is a whole number of a unit from milliseconds to hours."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "80", "80G", "80GB", "80 Gi", "-1Gi", "1.5Gi", "Gi", "٣Gi", "1Gi\n", "9" * 20 + "Gi"]
)
def test_no_quantity(text: str) -> None:
    """Anything else is an error that shows what was meant."""
    with pytest.raises(ValueError, match="expected a quantity such as 80Gi"):
        parse_quantity(text)


@pytest.mark.parametrize("text", ["", "4", "4 h", "4d", "1h30m", "-1s", "1.5h", "h", "4h\n"])
def test_no_duration(text: str) -> None:
    """Anything else is an error that shows what was meant."""
    with pytest.raises(ValueError, match="expected a duration such as"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**12))
def test_durations_go_round(milliseconds: int) -> None:
    """A duration that was formatted is parsed to the same."""
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.integers(min_value=0, max_value=10**9))
def test_quantities_go_round(kibibytes: int) -> None:
    """A quantity that was formatted is parsed to the same."""
    assert parse_quantity(format_quantity(kibibytes * 1024)) == kibibytes * 1024
