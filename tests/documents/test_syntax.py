"""What is no YAML: what is wrong, in the words of its author, and where it begins."""

from __future__ import annotations

import re
import time

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.documents.strict import Rejected, examine, read
from nodeagent.model.config import Violation
from tests.documents.broken import BROKEN, GOOD


def rejected(text: str) -> Violation:
    """The one thing that is said of a text that is no YAML."""
    with pytest.raises(Rejected) as caught:
        examine(text.encode(), "f.yaml")
    (violation,) = caught.value.violations
    return violation


def test_the_text_is_good_before() -> None:
    """What is broken here is nothing but what was done to it."""
    assert read(GOOD.encode(), "f.yaml").value


@pytest.mark.parametrize("mistake", BROKEN)
def test_causes(mistake: str) -> None:
    """A text that is no YAML is one mistake: its cause, at the line and column where it begins."""
    text, place, words = BROKEN[mistake]
    violation = rejected(text)

    assert (violation.where.line, violation.where.column) == place, str(violation)
    assert words in violation.message
    assert violation.message.startswith("expected ")
    assert "something else" not in violation.message


@pytest.mark.parametrize("mistake", [name for name, (*_, words) in BROKEN.items() if words.startswith('write "')])
def test_what_is_to_be_written(mistake: str) -> None:
    """Where the text to write is named, it helps: written in, the text is YAML, or another mistake is the next."""
    text, (line, _), _ = BROKEN[mistake]
    message = rejected(text).message
    found = re.search(r'got ("?)(.+?)\1(?:, and .+)?; write (".+")$', message)
    assert found, message
    old, new = found[2], found[3] if ", and " in message else found[3][1:-1]
    lines = text.split("\n")
    assert old in lines[line - 1]
    before, _, after = lines[line - 1].partition(old)
    fixed = "\n".join([*lines[: line - 1], before + new + after, *lines[line:]])

    try:
        left = str(examine(fixed.encode(), "f.yaml").problems)
    except Rejected as caught:
        left = str(caught)
    assert message not in left
    assert mistake == "braces as in C" or not left.startswith("f.yaml"), left


def test_what_is_not_known() -> None:
    """A mistake that is not recognised is told in the parser's words, where the parser gave up."""
    violation = rejected("- &a *b\n")

    assert violation.message.startswith("expected YAML, got something else: ")


@pytest.mark.parametrize(
    "text",
    [
        "k: " + "a " * 500_000 + "\n b: c: d\n",
        "# c\n" * 250_000 + "x: *T4*\n",
        "\n" * 1_000_000 + "x: [\n",
        'k: "' + "a\n b: x\n" * 100_000 + '" x\n',
        "x: |\n" + "  aaa: b\n" * 110_000 + " c: d\n",
        "x: a" + " " * 1_000_000 + "\n- x",
        "x: [" + "'a'," * 19_000 + "\ny: 2\n",
        "<<<<<<< " * 100_000 + "\n: [",
        "x: {{" + "-" * 1_000_000,
        "- " + "- a\n  " * 9_000 + " - b: [\n" * 9_000,
    ],
)
def test_cost(text: str) -> None:
    """However long a broken text is, its explanation costs less than reading as much plain YAML three times."""
    plain = "- name: rule\n  match: {indices: [0]}\n  exclusive: {}\n" * 20_000
    started = time.process_time()
    for _ in yaml.parse(plain, Loader=yaml.CSafeLoader):
        pass
    once = time.process_time() - started

    started = time.process_time()
    with pytest.raises(Rejected):
        examine(text.encode()[: 1 << 20], "f.yaml")

    assert time.process_time() - started < 3 * once


@given(
    st.sampled_from(sorted(BROKEN)), st.integers(0, 400), st.sampled_from(["", " ", "\n", '"', "}", "- ", ": ", "\t"])
)
def test_any_breakage(mistake: str, position: int, piece: str) -> None:
    """Whatever is broken besides, there is an answer with a place in the text."""
    text, _, _ = BROKEN[mistake]
    broken = text[:position] + piece + text[position + 1 :]
    try:
        violations = examine(broken.encode(), "f.yaml").problems
    except Rejected as caught:
        violations = caught.violations

    lines = len(re.split("\r\n|[\r\n]", broken))
    assert all(1 <= one.where.line <= lines and one.where.column >= 1 for one in violations)
