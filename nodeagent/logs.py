"""How the agent logs: one line per event on stderr, for people or, as JSON, for a log pipeline."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Final, TextIO

from nodeagent.model.printable import legible, printable

_PACKAGE: Final = "nodeagent"

_USUAL: Final = frozenset({*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"})
"""What every record has; all else was given with `extra`."""


def set_up(format_: str, level: str, stream: TextIO | None = None) -> None:
    """Log to `stream` (stderr) from now on, in `format_` (text, json), from `level` (debug, info, warning, error) on.

    Libraries are heard from warning on, whatever the level: at debug, watchfiles alone would fill a disk.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(JsonFormatter() if format_ == "json" else TextFormatter())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger(_PACKAGE).setLevel(level.upper())


class TextFormatter(logging.Formatter):
    """`2026-02-03T04:05:06.789Z INFO    reconciler: message`; further lines of a message are indented. What would act
    on a terminal, or could not be seen there, is written as an escape.
    """

    def format(self, record: logging.LogRecord) -> str:
        lines = record.getMessage().split("\n")
        if record.exc_info:
            lines += self.formatException(record.exc_info).split("\n")
        if record.stack_info:
            lines += self.formatStack(record.stack_info).split("\n")
        name = record.name.removeprefix(f"{_PACKAGE}.")
        head = f"{_timestamp(record)} {record.levelname:<7} {name}: "
        return head + "\n    ".join(map(printable, lines))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, then what was given with `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": legible(record.getMessage()),
        }
        given = {key: value for key, value in vars(record).items() if key not in _USUAL}
        entry.update({key: legible(value) if isinstance(value, str) else value for key, value in given.items()})
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            entry["stack"] = self.formatStack(record.stack_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


def _timestamp(record: logging.LogRecord) -> str:
    """When it happened, RFC 3339 in UTC with milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
