"""Schemas are checked with their limits first, and nothing is said of what could not be read."""

from __future__ import annotations

import pytest

from nodeagent.documents.evaluate import canonical, findings
from nodeagent.documents.scalars import UNUSABLE


def test_what_is_the_same() -> None:
    """Numbers by their value, true and false only themselves, objects in any order."""
    same = [(1, 1.0), ([1], [1.0]), ({"a": 1, "b": [{}]}, {"b": [{}], "a": 1})]
    other = [(1, True), (0, False), ([1], [True]), ("1", 1), (None, False), ([], {}), ([["a"]], [["a", "a"]])]
    assert all(canonical(one) == canonical(two) for one, two in same)
    assert all(canonical(one) != canonical(two) for one, two in other)


@pytest.mark.parametrize("value", [{}, {"a": UNUSABLE}, {"list": [1, UNUSABLE, UNUSABLE]}, UNUSABLE])
def test_what_could_not_be_read(value: object) -> None:
    """Nothing is said of it, nor does it stand in the way."""
    schema = {
        "type": "object",
        "properties": {
            "a": {"type": "integer"},
            "list": {"type": "array", "uniqueItems": True, "items": {"enum": [1]}},
        },
    }
    assert list(findings(value, schema)) == []


def test_limits_come_first() -> None:
    """The items of a list with too many are not looked at, nor is a value of another type."""
    schema = {"type": "array", "maxItems": 2, "uniqueItems": True, "items": {"type": "integer", "minimum": 0}}
    assert [one.validator for one in findings([-1, -1, "a"], schema)] == ["maxItems"]
    assert [one.validator for one in findings([-1, "a"], schema)] == ["minimum", "type"]
    assert [one.validator for one in findings({}, schema)] == ["type"]
