"""A root for daemons, and daemons below it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mps.support import Daemons, temporary_root


@pytest.fixture
def mps_root() -> Iterator[Path]:
    """A directory with a path that is short enough; what runs below it is ended afterwards."""
    with temporary_root() as root:
        yield root


@pytest.fixture
def daemons(mps_root: Path, mps_control: Path) -> Daemons:
    """Starts daemons below `mps_root`."""
    return Daemons(mps_root, mps_control)
