"""How the C library keeps memory that is free: give back at once what is large.

A node with very many shares has lists, answers and messages of megabytes that live for a moment, made by several
threads. As glibc is by itself, one such piece that is freed makes it keep all pieces of that size from then on, in a
heap for each thread, between which nothing is shared: a hundred megabytes and more that nobody uses, and that count
against the limit of the container.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_ARENA_MAX: Final = -8
"""Names of options in `mallopt(3)`."""

_LARGE: Final = 256 * 1024
_HEAPS: Final = 2


def be_frugal() -> bool:
    """Have the C library of this process give back what is large as soon as it is free. To be called before there are
    threads. Returns whether the library knows how; nothing depends on it.
    """
    # Each of the two thresholds also keeps the library from raising it by itself.
    options = {_MMAP_THRESHOLD: _LARGE, _TRIM_THRESHOLD: _LARGE, _ARENA_MAX: _HEAPS}
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        taken = [mallopt(option, value) for option, value in options.items()]
        return all(taken)
    return False
