"""Exit codes: one table for all commands, and the one exception by which a command ends early with one of them.

A command says what the codes that it can end with mean for it in its `EXITS`; what it does not say has the meaning of
the table. `--help` and docs/commands.md have the same words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Final

OK: Final = 0
NOT: Final = 1
DIFFERS: Final = 2
UNREACHABLE: Final = 3
UNREADABLE: Final = 4
USAGE: Final = 64
INTERNAL: Final = 70
START_ANEW: Final = 75
"""EX_TEMPFAIL of sysexits: nothing is wrong with us, and whoever starts us again helps."""
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

TABLE: Final[Mapping[int, str]] = {
    OK: "what was asked for is so, or was done",
    NOT: "it is not so: invalid, rejected, not in sync, not in time, cannot start",
    DIFFERS: "nothing is wrong, and something differs; only with --detailed-exitcode",
    UNREACHABLE: "the agent, or the Kubernetes API, cannot be reached",
    UNREADABLE: "a file, or the GPUs, cannot be read",
    USAGE: "usage",
    INTERNAL: "internal error",
    START_ANEW: "nothing is wrong with the program: start it anew",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "the reader of its output has left",
}
"""What each code means, of whatever command."""

ALWAYS: Final = (USAGE, INTERNAL)
"""Codes that every command may end with."""

Exits = Mapping[int, str]
"""What the codes of one command mean, in order; those of `ALWAYS` are understood."""

_WIDTH: Final = 78


class Failure(Exception):
    """A command cannot do what it was asked for. The message becomes one line on stderr, `code` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def listed(exits: Exits) -> str:
    """Codes as `--help` lists them: a line for each, and, of one command, one for those of every command."""
    lines = ["exit codes:"]
    for code, meaning in exits.items():
        lines += textwrap.wrap(
            f"{code:<3} {meaning}",
            _WIDTH,
            initial_indent="  ",
            subsequent_indent="      ",
            break_on_hyphens=False,  # flags stay whole
        )
    if exits is not TABLE:
        lines.append(f"  {', '.join(f'{code} {TABLE[code]}' for code in ALWAYS)}")
    return "\n".join(lines) + "\n"
