"""What another party says of waits, and at what length, in bounds."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from nodeagent.node.api_problem import MOST_WAIT, MOST_WORDS, ApiProblem, Trouble, retry_after

NOW = datetime(2026, 11, 30, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("1", 1.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("60", 60.0),
        ("61", MOST_WAIT),
        ("999999999", MOST_WAIT),
        ("9" * 5000, MOST_WAIT),
        ("1e300", MOST_WAIT),
        ("inf", MOST_WAIT),
        ("-1", 0.0),
        ("-inf", 0.0),
        ("nan", None),
        ("", None),
        ("soon", None),
        ("0x10", None),
        ("Mon, 30 Nov 2026 12:00:20 GMT", 20.0),
        ("Mon, 30 Nov 2026 11:00:00 GMT", 0.0),
        ("Tue, 30 Nov 2027 12:00:00 GMT", MOST_WAIT),
        ("Mon, 30 Nov 2026 12:00:20 -0000", 20.0),
        ("Mon, 99 Nov 2026 12:00:20 GMT", None),
        ("Mon, 30 Nov 99999999999 12:00:20 GMT", None),
    ],
)
def test_how_long_the_api_server_is_left_alone(header: str, seconds: float | None) -> None:
    """As long as it asks for, in seconds or by a date, within a minute; what makes no sense is as good as nothing."""
    assert retry_after(header, NOW) == seconds


def test_words_have_a_bound() -> None:
    """A message is whole, or ends where it has to with a sign that it goes on."""
    assert str(ApiProblem("x" * MOST_WORDS, Trouble.BUSY)) == "x" * MOST_WORDS
    assert str(ApiProblem("x" * 10_000_000, Trouble.BUSY)) == "x" * (MOST_WORDS - 1) + "…"
