"""The shared memory of daemons and clients is a tmpfs of the size that was asked for."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.mps import shm
from nodeagent.mps.mounts import Mounted, mounted
from tests.mps.hosting import needs_mounts

SIZE = 4 * 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """Where it is to be mounted; nothing is mounted there afterwards."""
    path = tmp_path / "shared memory"
    yield path
    while path.is_mount():
        subprocess.run(["umount", path], check=True)


def size(path: Path) -> int:
    """The size of the file system at a path."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


def test_it_is_mounted_once_and_open_to_all(path: Path) -> None:
    """A second host finds it mounted, with what is in it."""
    needs_mounts()
    assert mounted(path) is None
    shm.mount(path, SIZE)
    (path / "segment").write_bytes(b"in use")
    shm.mount(path, SIZE)
    assert mounted(path) == Mounted("tmpfs", ours=True)
    assert size(path) == SIZE
    assert stat.S_IMODE(path.stat().st_mode) == 0o1777
    assert (path / "segment").read_bytes() == b"in use"


def test_it_holds_so_many_files_and_no_more(path: Path) -> None:
    """Empty files take memory that no size counts."""
    needs_mounts()
    shm.mount(path, SIZE)
    assert os.statvfs(path).f_files == 1024
    shm.mount(path, 16 * SIZE)
    assert os.statvfs(path).f_files == 4096


def test_another_size_keeps_what_is_in_it(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It grows and shrinks in place, by whole pages; below what is in it, it keeps its size, and says so."""
    needs_mounts()
    shm.mount(path, SIZE)
    (path / "segment").write_bytes(bytes(SIZE // 2))
    shm.mount(path, 2 * SIZE)
    assert size(path) == 2 * SIZE
    shm.mount(path, SIZE - 1)
    assert size(path) == SIZE
    shm.mount(path, SIZE // 4)
    assert size(path) == SIZE
    assert f"{path} keeps its size: cannot mount a tmpfs" in caplog.text
    assert (path / "segment").read_bytes() == bytes(SIZE // 2)


def test_other_mounts_are_left_alone(path: Path) -> None:
    """What somebody else has mounted there is not ours to cover."""
    needs_mounts()
    path.mkdir()
    subprocess.run(["mount", "--bind", "/proc", path], check=True)
    with pytest.raises(FileExistsError, match="there is a mount of type proc"):
        shm.mount(path, SIZE)
