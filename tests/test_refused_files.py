"""Files that the agent is refused: each room says which file, which error, and what usually helps."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.config.reading import read_document, read_selected
from nodeagent.durable import atomic
from nodeagent.model.config import Unreadable
from nodeagent.model.node import NodeReport, Selection, SyncReason
from nodeagent.mps.disk import reason
from nodeagent.node.label_file import LabelFile
from nodeagent.store.state_dir import StateDir
from tests.commands.conftest import nodeagent
from tests.denied import as_nobody, open_directory
from tests.waiting import eventually

DENIED = "Permission denied (EACCES)"
WHO = "this process is user 65534 and not root"


@pytest.fixture
def top() -> Iterator[Path]:
    """A directory that everybody may look into."""
    with open_directory() as path:
        yield path


def unreadable(path: Path) -> str:
    """What is said of a config that cannot be read, though it may be there."""
    with as_nobody():
        found = read_document(path)
    assert isinstance(found, Unreadable)
    assert not found.missing
    return found.message


def test_a_config_that_may_not_be_read(top: Path) -> None:
    """It is said with its path, whether the config is named by its file or by its directory."""
    file = top / "sharing.yaml"
    file.write_text("{}")
    file.chmod(0o600)
    for given in (file, top):
        assert unreadable(given).startswith(f"cannot read config: {file}: {DENIED}: {WHO}")


def test_a_config_below_a_directory_that_is_closed(top: Path) -> None:
    """It is said which directory denies it: the mount itself, one above it, or the one that a link leads to."""
    file = top / "above" / "mount" / "sharing.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    for closed in (file.parent, file.parent.parent):
        closed.chmod(0o700)
        assert f"{DENIED} by {closed}: {WHO}" in unreadable(file)
        closed.chmod(0o755)
    real = top / "real"
    real.mkdir()
    file.rename(real / "sharing.yaml")
    file.symlink_to(real / "sharing.yaml")
    real.chmod(0o700)
    said = unreadable(file)
    assert said.startswith(f"cannot read config: {file}: {DENIED} by {real}: {WHO}")


def test_a_config_below_what_is_no_directory(top: Path) -> None:
    """That is not a config that is missing."""
    (top / "mount").write_text("")
    found = read_document(top / "mount" / "sharing.yaml")
    assert isinstance(found, Unreadable)
    assert found.message == (
        f"cannot read config: {top}/mount/sharing.yaml: Not a directory (ENOTDIR): a part of the path is no directory"
    )


def test_a_directory_of_configs_that_may_not_be_listed(top: Path) -> None:
    """What a label selects is not there, and which others are cannot be said: it is said why."""
    top.chmod(0o711)
    with as_nobody():
        found = read_selected(top, Selection("nodeagent.io/config", "a100"))
    assert isinstance(found, Unreadable)
    assert "there is no a100.yaml" in found.message
    assert f"{top} cannot be listed: {DENIED}" in found.message


def test_a_state_directory_that_may_not_be_used(top: Path) -> None:
    """Directory, error, and who we are."""
    store = StateDir(top / "state", identity="x", boot_id="y")
    with as_nobody(), pytest.raises(PermissionError) as caught:
        store.acquire()
    assert f"cannot use state directory: {DENIED}: {WHO}" in str(caught.value)
    assert f"{top}/state" in str(caught.value)


def test_an_agent_that_cannot_start_says_why(top: Path) -> None:
    """A state directory on a file system that is read-only ends the start with one line that says so."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", top], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("nothing can be mounted here")
    try:
        done = nodeagent(
            "run", "--config", top, "--state-dir", top / "state", "--kubelet-dir", top, "--listen", "127.0.0.1:0",
            "--driver", f"simulated:{top}/node.yaml",
        )  # fmt: skip
    finally:
        subprocess.run(["umount", "-l", top], check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "cannot start" in line]
    assert "cannot use state directory: Read-only file system (EROFS): mounted with readOnly" in line


def test_a_file_of_the_mps_root_that_may_not_be_read(top: Path) -> None:
    """In the words that the condition MpsReady repeats."""
    file = top / "desired.json"
    file.write_text("{}")
    file.chmod(0o600)
    with as_nobody(), pytest.raises(PermissionError) as caught:
        atomic.read(file)
    assert reason(caught.value).startswith(f"cannot read file: {DENIED}: {WHO}")
    assert reason(caught.value).endswith(f": {file}")


async def test_a_label_file_that_may_not_be_written(top: Path) -> None:
    """The condition LabelsSynced has the path, the error and who we are."""
    file = LabelFile(top, wake=lambda: None)
    file.want(NodeReport({"nvidia.com/gpu.count": "8"}))
    with as_nobody():
        task = asyncio.create_task(file.run())
        await eventually(lambda: file.status.reason is SyncReason.WRITE_FAILED)
        assert file.status.message.startswith(f"cannot write {top}/nodeagent: {DENIED}: {WHO}")
        task.cancel()
