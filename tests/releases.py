"""The code of earlier releases, to run beside this one: `python -m nodeagent` in one of their directories.

They are files of the tests, since a clone need not have the history that they are from.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from tests.conftest import ROOT

BEFORE = "0.1.0"
"""The release before this one: what it writes is read here, and what is written here it reads."""


def unpack(version: str, directory: Path) -> Path:
    """Put the package of a release into a directory, and give it."""
    with tarfile.open(ROOT / "tests" / "data" / "releases" / f"nodeagent-{version}.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory
