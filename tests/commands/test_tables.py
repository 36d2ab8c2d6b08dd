"""Tables and terminals: what fits, what is cut, and what is coloured."""

from __future__ import annotations

import io
import os
import pty
import termios
from dataclasses import replace

import pytest

from nodeagent.commands import terminal
from nodeagent.commands.tables import Column, table
from nodeagent.commands.terminal import Terminal

COLUMNS = (Column("ID", right=True), Column("NAME", least=6), Column("RESOURCE", least=8, keep_end=True))
ROWS = (("0", "a model with a name", "nvidia.com/gpu.shared"), ("10", "short", "nvidia.com/gpu"))


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_columns_are_as_wide_as_they_need() -> None:
    """Where there is room nothing is cut; numbers are aligned on the right, and no line ends in spaces."""
    assert table(COLUMNS, ROWS, 80) == [
        "ID  NAME                 RESOURCE",
        " 0  a model with a name  nvidia.com/gpu.shared",
        "10  short                nvidia.com/gpu",
    ]


def test_what_keeps_its_end_is_cut_first_then_the_widest() -> None:
    """A resource is known by its end, so it goes first, and from the left; then what else may be cut."""
    assert table(COLUMNS, ROWS, 40) == [
        "ID  NAME                 RESOURCE",
        " 0  a model with a name  …com/gpu.shared",
        "10  short                nvidia.com/gpu",
    ]
    assert table(COLUMNS, ROWS, 25)[1] == " 0  a model wi…  ….shared"


def test_what_may_not_be_cut_is_not() -> None:
    """A table that cannot fit is wider than asked, and complete."""
    assert table((Column("A"),), (("much too long",),), 5) == ["A", "much too long"]


def test_a_table_without_rows_is_its_heading() -> None:
    """Nothing to show is shown as nothing."""
    assert table(COLUMNS, (), 80) == ["ID  NAME  RESOURCE"]


def test_cells_are_padded_before_they_are_painted() -> None:
    """Escape sequences do not shift the columns."""
    painted = table((Column("A", right=True, style=lambda cell: f"<{cell}>"), Column("B")), (("1", "x"),), 80)
    assert painted[1] == "<1>  x"


@pytest.mark.parametrize(
    ("environment", "colour"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"NO_COLOR": ""}, True), ({"TERM": "dumb"}, False)],
)
def test_colour_only_where_it_is_wanted(
    environment: dict[str, str], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A terminal is coloured unless $NO_COLOR or a dumb terminal says no; what is no terminal never is."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.of(Tty()).colour is colour
    assert not terminal.of(io.StringIO()).colour


def test_a_terminal_is_as_wide_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$COLUMNS` comes first, then what this very terminal says, then 80; text is made for 40 columns at least."""
    for columns, width in (("120", 120), ("60", 60), ("3", 40), ("", 80), ("0", 80), ("wide", 80), ("-5", 80)):
        monkeypatch.setenv("COLUMNS", columns)
        assert terminal.of(Tty()) == replace(terminal.of(Tty()), width=width, whole=False)
    monkeypatch.delenv("COLUMNS")
    leader, follower = pty.openpty()
    with os.fdopen(leader, "wb"), os.fdopen(follower, "w") as stream:
        termios.tcsetwinsize(follower, (24, 133))
        assert terminal.of(stream).width == 133
        termios.tcsetwinsize(follower, (24, 20))
        assert terminal.of(stream).width == 40
        termios.tcsetwinsize(follower, (0, 0))
        assert terminal.of(stream).width == 80


def test_what_is_no_terminal_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cell is cut, no line left out, and no line broken unless `$COLUMNS` asks for that."""
    monkeypatch.delenv("COLUMNS")
    pipe = terminal.of(io.StringIO())
    assert pipe.wrap("word " * 500) == [("word " * 500).strip()]
    assert list(pipe.few(["line"] * 50, 6)) == ["line"] * 50
    monkeypatch.setenv("COLUMNS", "60")
    pipe = terminal.of(io.StringIO())
    assert max(map(len, pipe.wrap("word " * 500))) <= 60
    assert list(pipe.few(["line"] * 50, 6)) == ["line"] * 50
    assert table([Column("NAME", least=4)], [("x" * 500,)], pipe.table_width)[1] == "x" * 500


def test_long_words_stay_whole() -> None:
    """A path or an id is never broken, so that it can be copied; each line of a message is indented."""
    wrapped = Terminal(20).wrap("see /a/very/long/path/to/copy now\nand this", "  ", "    ")
    assert wrapped == ["  see", "    /a/very/long/path/to/copy", "    now", "  and this"]
