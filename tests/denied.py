"""Being somebody whom the kernel denies something: the tests run as root, whom it denies nothing."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - asyncio imports it when it is first needed, which nobody may
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534


@contextmanager
def as_nobody() -> Iterator[None]:
    """All threads of this process are another user inside, who owns nothing."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def open_directory() -> Iterator[Path]:
    """A directory that everybody may look into, unlike that of a test. Its path is short, for sockets."""
    path = Path(tempfile.mkdtemp(prefix="nd-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
