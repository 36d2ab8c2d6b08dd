"""Files are whole or absent."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.durable import atomic
from nodeagent.durable.atomic import Untrusted


def names(directory: Path) -> list[str]:
    """What is in the directory, sorted."""
    return sorted(entry.name for entry in directory.iterdir())


def test_a_written_file_is_read_back_and_is_for_its_owner_only(tmp_path: Path) -> None:
    """A file has mode 0600 whatever the umask and whatever was there before."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o644)
    previous = os.umask(0)
    try:
        atomic.write(path, b"new", sync=True)
    finally:
        os.umask(previous)
    assert atomic.read(path) == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["file"]


def test_a_file_that_is_not_there_is_none(tmp_path: Path) -> None:
    """Absence is an answer, not an error."""
    assert atomic.read(tmp_path / "file") is None


def test_a_leftover_of_a_killed_writer_is_replaced(tmp_path: Path) -> None:
    """Temporary files do not pile up."""
    path = tmp_path / "file"
    (tmp_path / ".file.tmp").write_bytes(b"half of something longer")
    atomic.write(path, b"new", sync=False)
    assert atomic.read(path) == b"new"
    assert names(tmp_path) == ["file"]


def test_a_full_disk_leaves_the_old_file_and_is_told_with_the_path(tmp_path: Path) -> None:
    """A write that fails half-way changes nothing; the error says what could not be done, to which file, and why.

    RLIMIT_FSIZE makes the kernel refuse the write in the middle, as a full disk would, with another errno.
    """
    path = tmp_path / "file"
    atomic.write(path, b"old", sync=True)
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from nodeagent.durable import atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    atomic.write(Path(sys.argv[1]), bytes(100_000), sync=True)\n"
        "except OSError as error:\n"
        "    print(error.errno, error)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{errno.EFBIG} ")
    assert "cannot write file" in result.stdout
    assert str(path) in result.stdout
    assert atomic.read(path) == b"old"
    assert names(tmp_path) == ["file"]


def test_the_error_keeps_its_kind(tmp_path: Path) -> None:
    """A directory that is gone stays a FileNotFoundError."""
    with pytest.raises(FileNotFoundError, match="cannot write file") as caught:
        atomic.write(tmp_path / "gone" / "file", b"", sync=True)
    assert caught.value.filename == str(tmp_path / "gone" / "file")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["fifo", "directory"])
def test_what_is_no_file_is_not_read(tmp_path: Path, make: object) -> None:
    """A fifo does not hang the reader, and a directory is not an I/O error."""
    assert callable(make)
    make(tmp_path / "file")
    with pytest.raises(Untrusted, match="not a regular file"):
        atomic.read(tmp_path / "file")


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path) -> None:
    """What is larger than anything that we write is not ours."""
    with (tmp_path / "file").open("wb") as file:
        file.truncate(atomic.MAX_SIZE + 1)
    with pytest.raises(Untrusted, match="larger than"):
        atomic.read(tmp_path / "file")


def test_files_that_are_set_aside_are_numbered_and_the_newest_few_are_kept(tmp_path: Path) -> None:
    """Set-aside files are evidence, but they never fill the disk."""
    path = tmp_path / "file"
    for number in range(1, 7):
        path.write_text(str(number))
        assert atomic.set_aside(path).name == f"file.corrupt-{number}"
    assert names(tmp_path) == ["file.corrupt-4", "file.corrupt-5", "file.corrupt-6"]
    assert (tmp_path / "file.corrupt-6").read_text() == "6"
