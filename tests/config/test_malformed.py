"""Malformed documents: each is rejected, with all of its errors, their places and the mend."""

from __future__ import annotations

import pytest

from nodeagent.config.load import MOST_VIOLATIONS, load
from nodeagent.model.config import Document, Stage, mistakes
from tests.config.malformed import DIRECTORY, documents, told

DOCUMENTS = documents()


@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.glob("*.yaml")))
def test_violations(name: str) -> None:
    """A malformed document gives exactly the violations that stand beside it, in the order of the file."""
    loaded = load(Document(f"{name}.yaml", DOCUMENTS[name]))

    assert loaded.config is None
    assert [told(one) for one in loaded.violations] == (DIRECTORY / f"{name}.expected").read_text("utf-8").splitlines()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("large-over-a-mebibyte", "expected at most 1,048,576 bytes, got 1,048,578"),
        ("large-list", "expected at most 20,000 values, got more"),
        ("large-nesting", "expected at most 32 levels of nesting, got more"),
        ("large-nesting-of-objects", "expected at most 32 levels of nesting, got more"),
        ("large-nesting-of-keys", "expected at most 32 levels of nesting, got more"),
        ("large-block-nesting", "expected at most 32 levels of nesting, got more"),
    ],
)
def test_bounds(name: str, message: str) -> None:
    """A document over a bound is rejected by the first thing beyond it, however large it is."""
    (violation,) = load(Document("big.yaml", DOCUMENTS[name])).violations

    assert violation.message == message
    assert violation.stage is Stage.PARSE


def test_there_are_many() -> None:
    """The corpus covers typos, types, ranges, forms, contradictions, YAML and NVIDIA's file."""
    kinds = {name.split("-")[0] for name in DOCUMENTS}

    assert len(DOCUMENTS) >= 100
    assert kinds >= {"key", "type", "range", "form", "mode", "missing", "semantic", "yaml", "text", "nvidia", "large"}


def test_a_flood_of_errors_is_cut() -> None:
    """A document with more errors than anybody reads is reported with the first, and with how many follow."""
    data = b"".join(b"k%d: yes\n" % number for number in range(500))

    violations = load(Document("flood.yaml", data)).violations

    assert len(violations) == MOST_VIOLATIONS + 1
    assert violations[-1].message == "451 more mistakes from here on"
    assert mistakes(violations) == 501
