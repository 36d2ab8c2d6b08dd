"""Faults against a schema, in the words of the author's file."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from nodeagent.documents.hints import Guide
from nodeagent.documents.schema import judge, load_schema
from nodeagent.documents.strict import examine, read
from nodeagent.model.config import Stage
from tests.waiting import longer

SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "count": {"type": "integer", "minimum": 1},
        "ratio": {"type": "number"},
        "word": {"enum": ["always", "never"]},
        "list": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
        "either": {"type": ["string", "integer"]},
        "inner": {"type": "object", "additionalProperties": False, "properties": {"depth": {"type": "integer"}}},
        "open": {"type": "object", "maxProperties": 1},
        "short": {"type": "string", "minLength": 2, "maxLength": 3},
        "size": {"type": "string", "x-expected": "a size such as 4x4"},
        "one": {"anyOf": [{"type": "boolean"}, {"type": "array", "items": {"type": "string"}}]},
    },
    "anyOf": [{"required": ["name"]}, {"required": ["count"]}],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a", []),
        ("count: 2", ['1:1: expected the key "name", got none']),
        (
            "word: never",
            ["1:1: expected at least one of name and count, got none", '1:1: expected the key "name", got none'],
        ),
        ("nam: a", ['1:1: nam: expected a known key, got "nam"; did you mean "name"?']),
        ("name: a\ninner: {x: 1}", ['2:9: inner.x: expected only the key depth, got "x"']),
        ("name: a\ndepth: 1", ['2:1: depth: expected a known key, got "depth"; it belongs under inner']),
        ("name: a\ninner: {deep: 1}", ['2:9: inner.deep: expected a known key, got "deep"; did you mean "depth"?']),
        ("name: A", ['1:7: name: expected a string that matches ^[a-z]+$, got "A"; write a']),
        ('name: "a\\n"', ['1:7: name: expected a string that matches ^[a-z]+$, got "a\\n"; write a']),
        ("name: 5", ["1:7: name: expected a string that matches ^[a-z]+$, got 5"]),
        ("name: a\ncount: 0", ["2:8: count: expected a whole number, at least 1, got 0"]),
        ("name: a\ncount: 1.0", ["2:8: count: expected a whole number, at least 1, got 1.0; write 1"]),
        ("name: a\ncount: true", ["2:8: count: expected a whole number, at least 1, got true"]),
        ('name: a\nratio: "1"', ['2:8: ratio: expected a number, got "1"; remove the quotes']),
        ("name: a\nword: nevr", ['2:7: word: expected "always" or "never", got "nevr"; did you mean "never"?']),
        ("name: a\nlist: []", ["2:7: list: expected a list of at least 1 item, got an empty list"]),
        ("name: a\nlist: [1, 2, 1]", ["2:14: list[2]: expected each item once, got 1 again"]),
        ("name: a\nlist: 4", ["2:7: list: expected a list of at least 1 item, got 4; write [4]"]),
        ("name: a\neither: []", ["2:9: either: expected a string or a whole number, got an empty list"]),
        ("name: a\nopen: {a: 1, b: 2}", ["2:7: open: expected an object of at most 1 key, got an object with a and b"]),
        ("name: a\nopen:", ["2:6: open: expected an object of at most 1 key, got nothing; write {}"]),
        ("name: a\nshort: abcd", ['2:8: short: expected a string of 2 to 3 characters, got "abcd"']),
        ("name: a\nsize: 4", ['2:7: size: expected a size such as 4x4, got 4; write "4"']),
        ("name: a\none: [1]", ['2:7: one[0]: expected a string, got 1; write "1"']),
        ("[1]", ["1:1: expected an object, got a list of 1"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    """Each fault says where, what was expected, what is there, and the mend where it is plain."""
    found = judge(read(text.encode(), "f"), SCHEMA)

    assert [str(one).removeprefix("f:") for one in found] == expected
    assert all(one.stage is Stage.SCHEMA for one in found)


def test_unreadable_values_are_not_judged() -> None:
    """A value that the YAML already got wrong is reported once, by its own error, and with what its place takes."""
    tree = examine(b"name: no\ncount: 012\nlist: [1, *x]", "f")

    assert len(tree.problems) == 3
    assert [one.message for one in judge(tree, SCHEMA)] == [
        'expected a quoted string, got no, which some readers take for false; write "no"',
        "expected a plain decimal number, got 012; write 12",
        "expected a whole number, got *x",
    ]


def test_long_values_are_cut() -> None:
    """A long value is shown shortened, with its length."""
    (fault,) = judge(read(b"name: " + b"A" * 500, "f"), SCHEMA)

    assert re.search(r'got "A{59}… \(502 characters\)$', fault.message)


def test_unknown_schema() -> None:
    """A schema that is not published is an error at once."""
    with pytest.raises(FileNotFoundError):
        load_schema("no-such-schema")


ONE_AT_A_TIME = """
import importlib.abc, sys, threading, time
from nodeagent.documents import evaluate

class Watcher(importlib.abc.MetaPathFinder):
    seen = None
    def find_spec(self, name, path, target=None):
        if name == "jsonschema.validators":
            others = {one.ident for one in readers} - {threading.get_ident()}
            deadline = time.monotonic() + float(sys.argv[1])
            while time.monotonic() < deadline:
                files = [sys._current_frames()[one].f_code.co_filename for one in others]
                if all(name.endswith("evaluate.py") or "importlib" in name for name in files):
                    break
                time.sleep(0.001)
            self.seen = files
        return None

sys.meta_path.insert(0, watcher := Watcher())
barrier = threading.Barrier(4)

def reads():
    barrier.wait()
    evaluate._validator_class()

readers = [threading.Thread(target=reads) for _ in range(4)]
for one in readers:
    one.start()
for one in readers:
    one.join()
print([name for name in watcher.seen if "importlib" in name])
"""


def test_threads_that_read_at_once_import_one_after_the_other() -> None:
    """None of them is in Python's import machinery while another one is: it may be given half a module there."""
    command = [sys.executable, "-c", ONE_AT_A_TIME, str(longer(10.0))]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=longer(60.0))
    assert told.stdout.strip() == "[]"


class Listed(list[object]):
    """A list whose items are taken by their index alone."""

    def __iter__(self) -> Iterator[object]:
        raise AssertionError("read as a whole")


def test_a_question_about_an_item_costs_nothing_for_the_others() -> None:
    """Whether something is given is asked of thousands of items of one list."""
    guide = Guide({}, {"rules": Listed([{"a": None}, {}])})

    assert guide.given(("rules", 0, "a"))
    assert guide.empty(("rules", 0, "a"))
    assert not any(map(guide.given, [("rules", 1, "a"), ("rules", 2), ("rules", -1), ("rules", "a"), ("rules", 0, 0)]))
