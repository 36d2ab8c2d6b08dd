"""Exit codes, and the one exception by which a command ends early with one of them."""

from __future__ import annotations

from typing import Final

OK: Final = 0
USAGE: Final = 64
INTERNAL: Final = 70
START_ANEW: Final = 75
"""EX_TEMPFAIL of sysexits: nothing is wrong with us, and whoever starts us again helps."""

EXITS_ALWAYS: Final = "64 usage, 70 internal error"


class Failure(Exception):
    """A command cannot do what it was asked for. The message becomes one line on stderr, `code` the exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code
