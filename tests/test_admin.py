"""The admin socket: one request and one answer per connection, for the owner of the state directory alone."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodeagent.admin import MOST_BYTES, SOCKET, AdminSocket, Answer, CannotDo, Unreachable, ask
from tests.waiting import eventually


async def paint(argument: str) -> str:
    """What the tests ask for."""
    if argument == "black":
        raise CannotDo("cannot paint it black: the shop is closed")
    return f"it is {argument} now"


@pytest.fixture
async def directory(tmp_path: Path) -> AsyncIterator[Path]:
    """A state directory, with the socket of an agent, in a path that is longer than that of a socket may be."""
    long = tmp_path / ("d" * 120)
    long.mkdir()
    serving = asyncio.create_task(AdminSocket(long, {"paint": paint}).run())
    await eventually((long / SOCKET).exists)
    yield long
    serving.cancel()
    await asyncio.wait((serving,))
    assert not (long / SOCKET).exists()


async def told(directory: Path, line: bytes) -> Answer:
    """What is answered to these very bytes."""
    (directory.parent / "s").symlink_to(directory / SOCKET)
    reader, writer = await asyncio.open_unix_connection(directory.parent / "s")
    writer.write(line)
    writer.write_eof()
    reply = json.loads(await reader.readline())
    writer.close()
    return Answer(reply["done"], reply["message"])


async def test_a_request_is_answered(directory: Path) -> None:
    """With what was done, or with why it was not."""
    assert await asyncio.to_thread(ask, directory, "paint", "red") == Answer(True, "it is red now")
    refused = await asyncio.to_thread(ask, directory, "paint", "black")
    assert refused == Answer(False, "cannot paint it black: the shop is closed")
    unknown = await asyncio.to_thread(ask, directory, "sing", "loud")
    assert unknown == Answer(False, "cannot do 'sing': this agent knows paint")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"paint red\n",
        b"[]\n",
        b'{"command": "paint"}\n',
        b'{"command": "paint", "argument": 7}\n',
        b"\xff\n",
        b"{",
    ],
    ids=lambda line: line.decode(errors="replace").strip(),
)
async def test_what_is_no_request_is_told_so(directory: Path, line: bytes) -> None:
    """Whatever comes, it is answered, and the next request is served."""
    answer = await told(directory, line)
    assert not answer.done
    assert answer.message.startswith("cannot understand the request: expected ")
    assert (await asyncio.to_thread(ask, directory, "paint", "red")).done


async def test_a_request_without_end_is_hung_up_on(directory: Path) -> None:
    """What is longer than any request costs its bound in memory and no answer."""
    (directory.parent / "s").symlink_to(directory / SOCKET)
    reader, writer = await asyncio.open_unix_connection(directory.parent / "s")
    writer.write(b"x" * (MOST_BYTES * 4))
    with suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
    assert (await asyncio.to_thread(ask, directory, "paint", "red")).done


async def test_only_the_owner_may_ask(directory: Path) -> None:
    """The socket is closed to everybody else."""
    mode = (directory / SOCKET).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_a_socket_that_was_left_is_replaced(directory: Path) -> None:
    """That of an agent which was killed is in nobody's way."""
    second = asyncio.create_task(AdminSocket(directory, {"paint": paint}).run())
    before = (directory / SOCKET).stat().st_ino
    await eventually(lambda: (directory / SOCKET).exists() and (directory / SOCKET).stat().st_ino != before)
    assert (await asyncio.to_thread(ask, directory, "paint", "red")).done
    second.cancel()
    await asyncio.wait((second,))


async def test_a_socket_that_cannot_be_made_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in its place is told once; when that has gone the socket is served."""
    monkeypatch.setattr("nodeagent.admin._AGAIN_AFTER", 0.02)
    (tmp_path / SOCKET).mkdir()
    serving = asyncio.create_task(AdminSocket(tmp_path, {"paint": paint}).run())
    await eventually(lambda: "cannot serve" in caplog.text)
    (tmp_path / SOCKET).rmdir()
    await eventually((tmp_path / SOCKET).is_socket)
    assert (await asyncio.to_thread(ask, tmp_path, "paint", "red")).done
    assert caplog.text.count("cannot serve") == 1
    serving.cancel()
    await asyncio.wait((serving,))


def test_nobody_there(tmp_path: Path) -> None:
    """Without an agent, or without the directory, it is said where one was looked for."""
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(Unreachable, match=f"cannot reach an agent at {directory}/{SOCKET}: No such file"):
            ask(directory, "paint", "red")


async def test_a_socket_that_has_gone_is_made_anew(tmp_path: Path) -> None:
    """Also after its directory was away; one that another agent has put in its place is left to that one at the end."""
    made: list[bool] = []
    directory = tmp_path / "state"
    directory.mkdir()
    admin = AdminSocket(directory, {"paint": paint}, made=lambda: made.append(True))
    serving = asyncio.create_task(admin.run())
    await eventually(lambda: len(made) == 1)
    directory.rename(tmp_path / "elsewhere")
    admin.serve_anew()
    directory.mkdir()
    admin.serve_anew()
    await eventually(lambda: len(made) >= 2)
    assert await asyncio.to_thread(ask, directory, "paint", "red") == Answer(True, "it is red now")
    (directory / SOCKET).unlink()
    (directory / SOCKET).write_text("another's")
    serving.cancel()
    await asyncio.wait((serving,))
    assert (directory / SOCKET).exists()
