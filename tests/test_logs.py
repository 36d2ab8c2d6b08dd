"""The log: one event per line, for people or for a pipeline."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from nodeagent import logs


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("nodeagent")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_text_is_one_line_per_event_and_indents_the_rest() -> None:
    """Time in UTC, level, the part of the agent, the message; its further lines cannot be taken for events."""
    stream = io.StringIO()
    logs.set_up("text", "info", stream)
    logging.getLogger("nodeagent.reloads").warning("config rejected: %s\n%s", "a.yaml:1:1: x", "a.yaml:2:1: y")
    line, more = stream.getvalue().splitlines()
    stamp, _, rest = line.partition(" ")
    assert len(stamp) == len("2026-02-03T04:05:06.789Z")
    assert stamp.endswith("Z")
    assert rest == "WARNING reloads: config rejected: a.yaml:1:1: x"
    assert more == "    a.yaml:2:1: y"


def test_json_is_one_object_per_line_with_what_was_added() -> None:
    """Newlines stay inside the object, fields given with `extra` are fields, an exception is one too."""
    stream = io.StringIO()
    logs.set_up("json", "info", stream)
    logger = logging.getLogger("nodeagent.reloads")
    logger.info("two\nlines", extra={"git_blob": "3b18", "draining": 2})
    logger.error("cannot write", exc_info=OSError("disk full"))
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert first.pop("time").endswith("Z")
    assert first == {
        "level": "info",
        "logger": "nodeagent.reloads",
        "message": "two\nlines",
        "git_blob": "3b18",
        "draining": 2,
    }
    assert "OSError: disk full" in second["exception"]


def test_the_level_is_ours_alone() -> None:
    """At debug the agent tells more, libraries do not: watchfiles alone would fill a disk."""
    stream = io.StringIO()
    logs.set_up("text", "debug", stream)
    logging.getLogger("nodeagent.watcher").debug("ours")
    logging.getLogger("watchfiles.main").debug("theirs")
    logging.getLogger("watchfiles.main").info("theirs")
    logging.getLogger("asyncio").error("trouble")
    assert [line.partition(" ")[2] for line in stream.getvalue().splitlines()] == [
        "DEBUG   watcher: ours",
        "ERROR   asyncio: trouble",
    ]


def test_what_is_less_than_the_level_is_left_out() -> None:
    """`--log-level error` is quiet."""
    stream = io.StringIO()
    logs.set_up("text", "error", stream)
    logging.getLogger("nodeagent").warning("x")
    assert stream.getvalue() == ""


@pytest.mark.parametrize("format_", ["text", "json"])
def test_nothing_acts_on_a_terminal(format_: str) -> None:
    """Nor does anything hide there: escapes, other controls and marks of direction are written as escapes."""
    stream = io.StringIO()
    logs.set_up(format_, "info", stream)
    logging.getLogger("nodeagent.reloads").error(
        "got %s", "\x1b[2J\x9b\u202e\u200b", extra={"revision": "a\u202eb\x1b"}
    )
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()
    said = json.loads(line)["message"] if format_ == "json" else line.partition(": ")[2]
    assert said == r"got \u001b[2J\u009b\u202e\u200b"
