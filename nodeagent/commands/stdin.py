"""What comes by stdin, where a path is `-`."""

from __future__ import annotations

import sys

from nodeagent.commands.exits import UNREADABLE, Failure


def read() -> bytes:
    """All of it. Raises Failure: a process may have been started without stdin, or with one that fails."""
    if sys.stdin is None:
        raise Failure("cannot read stdin: it is closed", UNREADABLE)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise Failure(f"cannot read stdin: {(error.strerror or str(error)).lower()}", UNREADABLE) from None
