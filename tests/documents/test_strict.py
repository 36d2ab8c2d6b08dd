"""Strict YAML: values with their places, all mistakes together, and nothing that costs much."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.documents.scalars import UNUSABLE
from nodeagent.documents.strict import Rejected, examine, read, read_all
from nodeagent.model.config import Stage, Violation, Where

TEXT = b"""\
# a comment
spec:
  rules:
    - name: "first"
      match: {indices: [0, 1]}
    - name: second
  text: |
    a line
      another
"""


def rejected(data: bytes) -> list[str]:
    """What is said of data that must be rejected."""
    with pytest.raises(Rejected) as caught:
        read(data, "f.yaml")
    assert all(one.stage is Stage.PARSE for one in caught.value.violations)
    return [str(one) for one in caught.value.violations]


def test_values() -> None:
    """A document becomes plain dicts, lists, strings, numbers, booleans and None."""
    assert read(TEXT, "f.yaml").value == {
        "spec": {
            "rules": [{"name": "first", "match": {"indices": [0, 1]}}, {"name": "second"}],
            "text": "a line\n  another\n",
        }
    }


@pytest.mark.parametrize(
    ("path", "key", "where"),
    [
        ((), False, Where("", 2, 1)),
        (("spec",), True, Where("spec", 2, 1)),
        (("spec", "rules", 0), False, Where("spec.rules[0]", 4, 7)),
        (("spec", "rules", 0, "name"), False, Where("spec.rules[0].name", 4, 13)),
        (("spec", "rules", 0, "name"), True, Where("spec.rules[0].name", 4, 7)),
        (("spec", "rules", 0, "match", "indices", 1), False, Where("spec.rules[0].match.indices[1]", 5, 28)),
        (("spec", "rules", 1, "match", "models"), False, Where("spec.rules[1].match.models", 6, 7)),
        (("spec", "a/b"), True, Where('spec["a/b"]', 3, 3)),
    ],
)
def test_places(path: tuple[str | int, ...], key: bool, where: Where) -> None:
    """Every value and key has a place; what is not there has that of the nearest thing around it."""
    assert read(TEXT, "f.yaml").where(path, key=key) == where


def test_block_scalars_are_known() -> None:
    """Block scalars are marked, since their lines are lines of the file."""
    assert read(TEXT, "f.yaml").literals == {("spec", "text")}


def test_columns_count_characters() -> None:
    """A column is a number of characters, whatever they take in bytes."""
    assert rejected("{ä: 1, ö: no}".encode())[0].startswith("f.yaml:1:11: ")


def test_all_mistakes_at_once() -> None:
    """Mistakes that leave a readable rest are reported together, in the order of the file."""
    found = rejected(b"a: no\nb: {c: 012}\na: 2\nd: *x\n5: 1\n---\ne: 1\n")

    assert [line.split(": ")[0] for line in found] == [
        "f.yaml:1:4",
        "f.yaml:2:8",
        "f.yaml:3:1",
        "f.yaml:4:4",
        "f.yaml:5:1",
        "f.yaml:6:1",
    ]


def test_examine_keeps_the_rest() -> None:
    """After a mistake the rest is there, and what could not be read is marked."""
    tree = examine(b"a: no\nb: [1, *x]\nb: 3\n", "f.yaml")

    assert tree.value == {"a": UNUSABLE, "b": [1, UNUSABLE]}
    assert len(tree.problems) == 3


@pytest.mark.parametrize("data", [b"---\na: 1\n", b"a: 1\n...\n", b"%YAML 1.1\n---\na: 1\n", b'{"a": 1}', b"a: 1\r\n"])
def test_one_document(data: bytes) -> None:
    """Marks around a single document, JSON and Windows line ends are nothing wrong."""
    assert read(data, "f.yaml").value == {"a": 1}


def test_streams() -> None:
    """A stream gives each of its documents with its own places and problems; empty ones are left out."""
    first, second = read_all(b"a: 1\n---\n# nothing\n---\nb: 0644\n", "f.yaml")

    assert (first.value, first.problems) == ({"a": 1}, ())
    assert second.where(("b",)) == Where("b", 5, 4)
    assert len(second.problems) == 1


@pytest.mark.parametrize("opening", [b"[", b"{a: ", b"- ", b"? ", b"? - ", b"[{a: "])
def test_hostile_nesting_costs_nothing(opening: bytes) -> None:
    """Deep nesting of any kind is rejected by an error, without a crash."""
    started = time.process_time()

    assert "levels of nesting" in rejected(opening * (900_000 // len(opening)))[0]
    assert time.process_time() - started < 5.0


def told(data: bytes) -> tuple[Violation, ...]:
    """Everything that is said of data, whether a tree could be made of it or not."""
    try:
        return examine(data, "f.yaml").problems
    except Rejected as caught:
        return caught.violations


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """Whatever the bytes, the answer is a tree or violations with a place in the file."""
    assert all(one.where.line >= 1 and one.where.column >= 1 for one in told(data))


@given(st.text(alphabet="ab:-{}[],&*!|>'\"#%@`? \n\t0no~<", max_size=60))
def test_any_text(text: str) -> None:
    """Whatever the punctuation, the answer is a tree or violations with a place in the file."""
    lines = text.count("\n") + 1

    assert all(1 <= one.where.line <= lines + 1 for one in told(text.encode()))
