"""Labels by Node Feature Discovery's file: whole at every moment, and put right when somebody else has changed it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from nodeagent.model.node import LabelDifference, NodeReport, SyncReason
from nodeagent.node import label_file
from nodeagent.node.label_file import LabelFile
from tests.waiting import eventually

COUNT = "nvidia.com/gpu.count"
EIGHT = NodeReport({COUNT: "8", "nvidia.com/cuda.driver.rev": ""}, {"nodeagent.io/config.error": "not for a file"})


class Woken:
    """How often the loop was woken."""

    times = 0

    def __call__(self) -> None:
        self.times += 1


@asynccontextmanager
async def keeping(directory: Path, *, again: float = 60.0, retry: float = 0.05) -> AsyncIterator[LabelFile]:
    """A file that is being kept."""
    file = LabelFile(directory, wake=Woken(), again=again, retry=retry)
    task = asyncio.create_task(file.run())
    try:
        yield file
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def synced(file: LabelFile) -> None:
    """Wait until the file is as it should be."""
    await eventually(lambda: file.status.reason is SyncReason.SYNCED)


async def test_what_is_written(tmp_path: Path) -> None:
    """A line for each label, readable by every user, and nothing else in the directory; no annotation. It stays when
    the agent ends.
    """
    async with keeping(tmp_path) as file:
        assert file.status.reason is SyncReason.PENDING
        file.want(EIGHT)
        await synced(file)
    (only,) = tmp_path.iterdir()
    assert only.name == "nodeagent"
    assert only.read_text(encoding="utf-8") == f"{COUNT}=8\nnvidia.com/cuda.driver.rev=\n"
    assert only.stat().st_mode & 0o777 == 0o644


async def test_nothing_is_written_twice(tmp_path: Path) -> None:
    """A file that is right is left alone, also by the next agent."""
    found = []
    for _ in range(2):
        async with keeping(tmp_path) as file:
            file.want(EIGHT)
            await synced(file)
            file.want(NodeReport(dict(EIGHT.labels)))
            found.append((tmp_path / "nodeagent").stat())
    first, second = found
    assert (first.st_ino, first.st_mtime_ns) == (second.st_ino, second.st_mtime_ns)


@pytest.mark.parametrize("harm", ["changed", "deleted", "a directory"])
async def test_what_somebody_else_does_to_it(tmp_path: Path, harm: str) -> None:
    """It is looked at again, and put right; where that cannot be, it is told until it can."""
    path = tmp_path / "nodeagent"
    async with keeping(tmp_path, again=0.05) as file:
        file.want(EIGHT)
        await synced(file)
        whole = path.read_bytes()
        if harm == "changed":
            path.write_text("x=y\n", encoding="utf-8")
        else:
            path.unlink()
        if harm == "a directory":
            path.mkdir()
            await eventually(lambda: file.status.reason is SyncReason.WRITE_FAILED)
            path.rmdir()
        await eventually(lambda: path.read_bytes() == whole if path.is_file() else False)


async def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    """It is not made, since nobody would look there: it is told, with every label that is missing."""
    directory = tmp_path / "features.d"
    async with keeping(directory) as file:
        file.want(NodeReport({COUNT: "8"}))
        await eventually(lambda: file.status.reason is SyncReason.WRITE_FAILED)
        assert file.status.message == f"cannot write {directory}/nodeagent: No such file or directory (ENOENT)"
        assert file.status.differences == (LabelDifference(COUNT, "8", None),)
        assert not directory.exists()
        directory.mkdir()
        await synced(file)


async def test_it_is_never_missing_for_a_moment(tmp_path: Path) -> None:
    """Whoever reads it while it changes finds one report or the other, whole."""
    path = tmp_path / "nodeagent"
    reports = [NodeReport({f"nodeagent.io/gpus.{key}": str(number) for key in "abcdefgh"}) for number in range(200)]
    expected = {"".join(f"{key}={value}\n" for key, value in report.labels.items()) for report in reports}
    wrong: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                text = path.read_text(encoding="utf-8")
            except FileNotFoundError:
                text = "missing"
            if text not in expected:
                wrong.append(text)

    async with keeping(tmp_path) as file:
        file.want(reports[0])
        await synced(file)
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for report in reports:
                file.want(report)
                said = "".join(f"{key}={value}\n" for key, value in report.labels.items())
                await shown(path, said)
        finally:
            done.set()
            reader.join()
    assert wrong == []


async def shown(path: Path, text: str) -> None:
    """Wait until the file says this."""
    await eventually(lambda: path.read_text(encoding="utf-8") == text, every=0.001)


async def test_a_disk_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and the write is tried again when it has come back."""
    monkeypatch.setattr(label_file, "DEADLINE", 0.05)
    pipe = tmp_path / ".nodeagent.tmp"
    os.mkfifo(pipe)
    async with keeping(tmp_path) as file:
        file.want(EIGHT)
        await eventually(lambda: file.status.reason is SyncReason.WRITE_FAILED)
        assert file.status.message == f"cannot write {tmp_path}/nodeagent: no answer within 0.05 s"
        end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
        pipe.unlink(missing_ok=True)  # what was opened may have been put in the file's place already
        await eventually((tmp_path / "nodeagent").is_file)
        os.close(end)
        await synced(file)
