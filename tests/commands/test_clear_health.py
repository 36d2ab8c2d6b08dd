"""`nodeagent clear-health` against an admin socket: what it prints, and how it exits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from nodeagent.admin import SOCKET, AdminSocket, CannotDo
from nodeagent.cli import main
from tests.waiting import eventually


async def clear(uuid: str) -> str:
    """What an agent does that has one faulty GPU."""
    if uuid != "GPU-1":
        raise CannotDo(f"cannot clear {uuid}: this node has no such GPU or MIG device")
    return "GPU 1 (GPU-1) is cleared of XID 79"


@pytest.fixture
async def state_dir(tmp_path: Path) -> AsyncIterator[Path]:
    """A state directory with an agent behind it."""
    serving = asyncio.create_task(AdminSocket(tmp_path, {"clear-health": clear}).run())
    await eventually((tmp_path / SOCKET).exists)
    yield tmp_path
    serving.cancel()
    await asyncio.wait((serving,))


async def test_it_says_what_was_done(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And exits with 0."""
    assert await asyncio.to_thread(main, ["clear-health", "GPU-1", "--state-dir", str(state_dir)]) == 0
    assert capsys.readouterr().out == "GPU 1 (GPU-1) is cleared of XID 79\n"


async def test_it_says_why_not(
    state_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And exits with 1. The directory may be in the environment, as that of the agent is."""
    monkeypatch.setenv("NODEAGENT_STATE_DIR", str(state_dir))
    assert await asyncio.to_thread(main, ["clear-health", "GPU-2"]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == "nodeagent clear-health: cannot clear GPU-2: this node has no such GPU or MIG device\n"


def test_without_an_agent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It exits with 3 and says where it looked."""
    assert main(["clear-health", "GPU-1", "--state-dir", str(tmp_path)]) == 3
    assert f"cannot reach an agent at {tmp_path}/{SOCKET}: " in capsys.readouterr().err
