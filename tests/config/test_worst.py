"""No document costs more than its size: work grows with it and no faster, and there is a bound on all of it.

Work is counted, not timed: the functions that are called, ours and those of Python and its libraries. `make bench` has
what the same documents take in seconds.
"""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest

from nodeagent.config.load import load
from nodeagent.model.config import Document
from tests.config.worst import Shape, known

MOST = 2_000_000
"""Calls: a hundred for each of the 20,000 values that a document may have."""


def work(data: bytes) -> int:
    """How many functions are called to judge a document and to print what is wrong with it."""
    calls = 0

    def count(_frame: object, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    document = Document("sharing.yaml", data)
    sys.setprofile(count)
    try:
        found = load(document)
        "\n".join(map(str, found.violations))
    finally:
        sys.setprofile(None)
    return calls


WORST = [
    Shape("rules", "list", words, 256, 60)
    for words in (
        *("rules alike", "rules of indices", "rules of globs", "rules of globs and words", "rules of profiles"),
        *("rules of globs, then words", "rules of globs but one", "rules of long uuids"),
    )
] + [
    Shape("NVIDIA's resources", "list", "resources of devices", 256, 60),
    Shape("NVIDIA's resources", "list", "resources of no devices", 256, 60),
    Shape("NVIDIA's devices", "list", "numbers and words", 19_000, 3),
    Shape("indices", "list", "numbers and words", 19_900, 3),
    Shape("models", "list", "odd", 19_900, 3),
    Shape("ours", "near keys", "words", 9_900, 5),
    Shape("ours", "long keys", "two meanings", 5_000, 5),
    Shape("ours", "a long key around", "two meanings", 19_000, 5),
    Shape("ours", "deep keys", "two meanings", 19_000, 5),
    Shape("ours", "one key", "words", 9_900, 5),
    Shape("document", "keys", "keys that are none", 4_900, 5),
    Shape("document", "documents", "words", 19_000, 5),
    Shape("document", "directives", "words", 50_000, 1),
    Shape("rules", "list", "rules of nothing", 6_000, 5),
    Shape("rules", "list", "numbers as keys", 6_600, 1),
    Shape("rules", "list", "keys that are none", 3_900, 1),
]


@pytest.mark.parametrize("shape", WORST, ids=str)
def test_work_grows_with_the_document(shape: Shape) -> None:
    """Twice as many things cost at most about twice as much, and no number of them more than the bound."""
    half, whole = work(replace(shape, count=shape.count // 2).data()), work(shape.data())
    assert whole <= 2.5 * half + 20_000
    assert whole <= MOST


def test_there_is_a_bound_on_all_of_them() -> None:
    """A few of each kind, in each place."""
    shapes = list(known())[::20]
    assert max(work(shape.data()) for shape in shapes) <= MOST
