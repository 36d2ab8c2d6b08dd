"""The reader of our docs reads what the convention in CONTRIBUTING.md says."""

from __future__ import annotations

import pytest

from tests.markdown import Block, Command, anchors, blocks, commands, links, matches

PAGE = """\
# A `title`, here

[one](two.md#three) and `[not](a-link)`

1. Item

   ```console
   $ false  # exits 1
   $ cat <<'E'
   > hello
   > E
   hello
   ```
"""


def test_blocks_know_their_line_and_lose_the_indentation_of_their_list() -> None:
    """A block in a list item reads like one at the margin."""
    (block,) = blocks(PAGE)
    assert block == Block(7, "console", "$ false  # exits 1\n$ cat <<'E'\n> hello\n> E\nhello\n")


def test_a_transcript_has_commands_statuses_and_output() -> None:
    """Continuation lines belong to the command, the rest to its output."""
    (block,) = blocks(PAGE)
    assert commands(block) == [
        Command(8, "false  # exits 1", 1, ()),
        Command(9, "cat <<'E'\nhello\nE", 0, ("hello",)),
    ]


def test_a_transcript_that_begins_with_output_is_a_mistake() -> None:
    """Output without a command cannot be held to anything."""
    with pytest.raises(ValueError, match="line 2"):
        commands(Block(1, "console", "hello\n"))


def test_links_and_anchors_are_those_of_the_prose() -> None:
    """Code holds no links, and a heading's anchor is the one that GitHub makes."""
    assert links(PAGE) == ["two.md#three"]
    assert anchors(PAGE) == {"a-title-here"}


@pytest.mark.parametrize(
    ("expected", "actual", "agree"),
    [
        (("a",), "a\n", True),
        (("a",), "a\nb\n", False),
        (("a", "…"), "a\nb\nc\n", True),
        (("…", "c"), "a\nb\nc\n", True),
        (("a … c",), "a b b c\n", True),
        (("a … c",), "a b\nb c\n", False),
        (("a.c",), "abc\n", False),
        (("…",), "", True),
        (("a",), "", False),
    ],
)
def test_an_ellipsis_stands_for_what_varies(expected: tuple[str, ...], actual: str, agree: bool) -> None:
    """Within a line it stands for text, alone on a line for lines, and everything else is literal."""
    assert matches(expected, actual) is agree
