"""One agent per node."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.durable.lock import FileLock
from tests.waiting import eventually_sync

HOLDER = """
import sys
from pathlib import Path
from nodeagent.durable.lock import FileLock
lock = FileLock(Path(sys.argv[1]))
print(lock.acquire(), flush=True)
sys.stdin.read()
"""


def test_one_of_two_gets_it(tmp_path: Path) -> None:
    """The second waits until the first lets go, and asking twice does no harm."""
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    assert first.acquire()
    assert first.acquire()
    assert not second.acquire()
    assert not second.held
    first.release()
    first.release()
    assert second.acquire()
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    second.release()


def test_it_ends_with_its_process(tmp_path: Path) -> None:
    """A killed agent leaves no stale lock."""
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        lock = FileLock(path)
        assert not lock.acquire()
        other.send_signal(signal.SIGKILL)
    eventually_sync(lock.acquire, within=5)
    lock.release()


def test_a_child_process_does_not_inherit_it(tmp_path: Path) -> None:
    """What the agent starts and leaves behind does not keep the next agent out."""
    path = tmp_path / "lock"
    reading, writing = os.pipe()
    program = (
        HOLDER.replace("sys.stdin.read()", "")
        + "import subprocess\n"
        + "subprocess.Popen([sys.executable, '-c', 'import sys; sys.stdin.read()'], close_fds=False)\n"
        + "print('started', flush=True)\n"
        + "import signal; signal.pause()\n"
    )
    with (
        os.fdopen(writing, "wb"),
        subprocess.Popen(
            [sys.executable, "-c", program, str(path)], stdin=reading, stdout=subprocess.PIPE, text=True
        ) as other,
    ):
        os.close(reading)
        assert other.stdout is not None
        assert [other.stdout.readline(), other.stdout.readline()] == ["True\n", "started\n"]
        lock = FileLock(path)
        assert not lock.acquire()
        other.kill()
        other.wait()
        eventually_sync(lock.acquire, within=5)
        lock.release()


def test_a_lock_file_that_was_removed_is_made_anew(tmp_path: Path) -> None:
    """The lock is the file at the path: one that somebody unlinked keeps nobody out."""
    path = tmp_path / "lock"
    first = FileLock(path)
    assert first.acquire()
    path.unlink()
    second = FileLock(path)
    assert second.acquire()
    assert not FileLock(path).acquire()
    first.release()
    second.release()


def test_a_path_that_cannot_be_locked_is_told(tmp_path: Path) -> None:
    """An error names the lock."""
    with pytest.raises(OSError, match="cannot lock file"):
        FileLock(tmp_path / "gone" / "lock").acquire()
