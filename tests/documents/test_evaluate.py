"""Schemas mean here what they mean to every editor, whatever comes first."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError

from nodeagent.documents.evaluate import canonical, findings
from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.schema import load_schema
from nodeagent.documents.strict import Rejected, examine
from tests.config.anything import near

CHECKED = ("sharing-config-v1alpha1", "nvidia-v1", "simulated-node-v1alpha1")


def _integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _pattern(_: object, expression: str, value: object, __: object) -> Iterator[ValidationError]:
    if isinstance(value, str) and ("\n" in value or not re.search(expression, value, re.ASCII)):
        yield ValidationError("no match")


LIBRARY: Any = validators.extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {"pattern": _pattern},
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine("integer", _integer),
)
"""But `10.0` is no integer, and `$` in a pattern is the end of the text."""


@settings(max_examples=300, derandomize=True, deadline=None)
@given(near())
def test_as_the_library(data: bytes) -> None:
    """A document breaks a schema if and only if the library says so."""
    try:
        tree = examine(data, "f")
    except Rejected:
        return
    if tree.problems:
        return
    for name in CHECKED:
        schema = load_schema(name)
        fits = next(findings(tree.value, schema), None) is None
        assert fits == LIBRARY(schema).is_valid(tree.value)


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
