"""The daemons' logs, told in ours and kept small."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.mps.logs import LARGEST, LONGEST_LINE, MOST_LINES, PER_SECONDS, DaemonLogs, RateLimit, shown
from tests.mps.support import UUID, Daemons
from tests.waiting import eventually

HEAD = "[2026-02-03 04:05:06.789 Control  4711] "


@pytest.fixture(autouse=True)
def _all_levels(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    with caplog.at_level(logging.DEBUG, logger="nodeagent.mps.logs"):
        yield


async def begun(directory: Path, largest: int = LARGEST) -> DaemonLogs:
    """Follows the logs in this directory; what is there now is not told any more."""
    logs = DaemonLogs(directory, UUID, interval=0.01, largest=largest)
    await logs.look()
    return logs


def told(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """What was logged from this level on."""
    return [record.getMessage() for record in caplog.records if record.levelno >= level]


def append(path: Path, text: str) -> None:
    """Write as the daemon does."""
    with path.open("a") as file:
        file.write(text)


class TestFollowing:
    """What a daemon logs is told, with its GPU."""

    async def test_a_daemon(self, daemons: Daemons, caplog: pytest.LogCaptureFixture) -> None:
        """A server that fails and limits that are set are told; what our own questions leave is not."""
        logs = await begun(daemons.layout.log(UUID))
        process = daemons.start()
        control = daemons.control()
        await control.probe()
        await control.set_limits(9216, 25)
        await control.limits()
        control.peer()
        await control.ask("start_server -uid 0")
        file = daemons.layout.log(UUID) / "control.log"
        await eventually(lambda: "Server not found" in file.read_text() or "exited with status" in file.read_text())
        await logs.look()
        lines = [line.removeprefix(f"{UUID}: control {process.pid}: ") for line in told(caplog)]
        assert lines[:4] == [
            f"Starting control daemon using socket {daemons.layout.pipe(UUID)}/control",
            f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={daemons.layout.pipe(UUID)}",
            "Cmd:set_default_active_thread_percentage 25",
            "Cmd:set_default_device_pinned_mem_limit 0 9216M",
        ]
        assert lines[4] == "Cmd:start_server -uid 0"
        assert [line for line in lines[5:] if "server" not in line.lower() and "Removed Shm" not in line] == []
        assert any("exited with status" in line for line in told(caplog, logging.WARNING))

    async def test_it_goes_on(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Logs are looked at again and again, also before their directory is there, which is no fault."""
        logs = await begun(tmp_path / "log")
        task = asyncio.create_task(logs.run())
        (tmp_path / "log").mkdir()
        for number in range(3):
            append(tmp_path / "log" / "control.log", f"{HEAD}Server {number} is up\n")
            await eventually(lambda: told(caplog)[-1:] == [f"{UUID}: control 4711: Server {number} is up"])  # noqa: B023
        assert len(told(caplog)) == 3
        task.cancel()

    async def test_what_was_there_before(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Lines from before the first look are not told again; those of a file that comes later all are."""
        append(tmp_path / "control.log", "old\n")
        logs = await begun(tmp_path)
        append(tmp_path / "control.log", "new\n")
        append(tmp_path / "server.log", "first\n")
        await logs.look()
        await logs.look()
        assert told(caplog) == [f"{UUID}: new", f"{UUID}: first"]

    async def test_lines_are_whole(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A line is told when it has ended, once."""
        logs = await begun(tmp_path)
        append(tmp_path / "server.log", "one\ntw")
        await logs.look()
        assert told(caplog) == [f"{UUID}: one"]
        append(tmp_path / "server.log", "o\n")
        await logs.look()
        assert told(caplog) == [f"{UUID}: one", f"{UUID}: two"]

    async def test_a_new_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A file that was replaced, or emptied by somebody, is told from its beginning."""
        logs = await begun(tmp_path)
        log = tmp_path / "server.log"
        append(log, "a long first line\n")
        await logs.look()
        log.write_text("two\n")
        await logs.look()
        (tmp_path / "fresh").write_text("another three\n")
        (tmp_path / "fresh").rename(log)
        await logs.look()
        assert told(caplog) == [f"{UUID}: a long first line", f"{UUID}: two", f"{UUID}: another three"]

    async def test_too_many_lines(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Of a flood only so many lines are told; our own questions do not count."""
        logs = await begun(tmp_path)
        append(tmp_path / "control.log", f"{HEAD}NEW UI\n" * 100)
        append(tmp_path / "control.log", "".join(f"line {number}\n" for number in range(MOST_LINES + 70)))
        await logs.look()
        assert told(caplog) == [f"{UUID}: line {number}" for number in range(MOST_LINES)]

    async def test_more_than_is_read_at_once(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Of a file that grows faster than it is read the newest part is told, and how much is not."""
        logs = await begun(tmp_path)
        append(tmp_path / "control.log", "x" * 500_000 + f"\n{HEAD}NEW UI\nlast\n")
        await logs.look()
        size = (tmp_path / "control.log").stat().st_size
        missing = f"{UUID}: {size - 256 * 1024} bytes of {tmp_path}/control.log are not told"
        assert told(caplog) == [missing, f"{UUID}: last"]

    async def test_an_endless_line(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A line without an end is cut, and does not stop what comes after it."""
        logs = await begun(tmp_path)
        append(tmp_path / "control.log", "x" * 256 * 1024)
        await logs.look()
        append(tmp_path / "control.log", "\nafter\n")
        await logs.look()
        assert told(caplog) == [f"{UUID}: {'x' * LONGEST_LINE}…", f"{UUID}: ", f"{UUID}: after"]

    @pytest.mark.parametrize("kind", ["link", "fifo", "directory"])
    async def test_what_is_no_file(self, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
        """A link is not followed and a fifo not waited for; that is told once, and the other log is followed on."""
        secret, log = tmp_path / "secret", tmp_path / "control.log"
        secret.write_text("secret\n")
        logs = await begun(tmp_path)
        if kind == "link":
            log.symlink_to(secret)
        elif kind == "fifo":
            os.mkfifo(log)
        else:
            log.mkdir()
        await logs.look()
        append(tmp_path / "server.log", "goes on\n")
        await logs.look()
        first, second = told(caplog)
        assert first.startswith(f"{UUID}: cannot follow its logs: ")
        assert str(log) in first
        assert second == f"{UUID}: goes on"

    async def test_whatever_is_wrong(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A machine that can start no thread is told once, and the logs are followed when it can."""
        logs = await begun(tmp_path)
        looked: list[threading.Thread] = []

        def refuse(thread: threading.Thread) -> None:
            looked.append(thread)
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            task = asyncio.create_task(logs.run())
            await eventually(lambda: len(looked) >= 3)
            assert not task.done()
        append(tmp_path / "server.log", "goes on\n")
        await eventually(lambda: told(caplog)[-1:] == [f"{UUID}: goes on"])
        assert told(caplog)[:-1] == [f"{UUID}: cannot follow its logs: RuntimeError: can't start new thread"]
        task.cancel()


class TestSize:
    """Logs are kept small while their writer goes on."""

    async def test_a_daemon_writes_on(self, daemons: Daemons) -> None:
        """A log that has grown too large is truncated under the daemon, which goes on at its beginning."""
        daemons.start()
        log, control = daemons.layout.log(UUID) / "control.log", daemons.control()
        logs = await begun(log.parent, largest=5_000)
        while log.stat().st_size <= 5_000:
            await control.limits()
        await logs.look()
        assert log.stat().st_size <= 500  # the end of the last command may come later than its answer
        kept = log.with_name("control.log.1")
        assert 4_000 < kept.stat().st_size <= 5_000
        assert kept.stat().st_mode & 0o777 == 0o600
        await control.ask("frobnicate")
        assert "frobnicate" in log.read_text()
        assert b"\0" not in log.read_bytes()

    async def test_what_is_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The newest part is kept aside, instead of the one before, and every line is told once."""
        log = tmp_path / "server.log"
        logs = await begun(tmp_path, largest=100)
        for begin in (0, 20):
            append(log, "".join(f"line {number:04}\n" for number in range(begin, begin + 20)))
            await logs.look()
            assert log.stat().st_size == 0
            kept = [f"line {number:04}\n" for number in range(begin + 10, begin + 20)]
            assert log.with_name("server.log.1").read_text() == "".join(kept)
        assert told(caplog) == [f"{UUID}: line {number:04}" for number in range(40)]

    async def test_a_writer_that_does_not_append(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """A hole where a file was truncated is neither told nor counted: the file is not truncated for ever."""
        log = tmp_path / "server.log"
        log.touch()
        logs = await begun(tmp_path, largest=100_000)
        with log.open("wb", buffering=0) as writer:
            writer.write((b"x" * 99 + b"\n") * 5000)
            await logs.look()
            assert log.stat().st_size == 0
            kept = log.with_name("server.log.1").stat().st_ino
            caplog.clear()
            logs = DaemonLogs(tmp_path, UUID, largest=100_000)
            await logs.look()
            for word in ("one", "two"):
                writer.write(f"{word}\n".encode())
                await logs.look()
        assert log.stat().st_size > 500_000
        assert log.with_name("server.log.1").stat().st_ino == kept
        assert told(caplog) == [f"{UUID}: one", f"{UUID}: two"]

    async def test_no_link_is_written_through(self, tmp_path: Path) -> None:
        """A link in the place of the copy is replaced, not followed."""
        victim, copy = tmp_path / "victim", tmp_path / "control.log.1"
        victim.write_text("precious")
        copy.symlink_to(victim)
        logs = await begun(tmp_path, largest=10)
        append(tmp_path / "control.log", "more than ten bytes\n")
        await logs.look()
        assert (tmp_path / "control.log").stat().st_size == 0
        assert victim.read_text() == "precious"
        assert not copy.is_symlink()

    async def test_a_copy_that_cannot_be_written(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Where the newest part cannot be kept, as on a full disk, the log is told and truncated all the same."""
        log = tmp_path / "server.log"
        logs = await begun(tmp_path, largest=50)
        log.with_name("server.log.1").mkdir()
        for word in ("one", "two"):
            append(log, f"{word}\n" * 20)
            await logs.look()
            assert log.stat().st_size == 0
            append(log, f"after {word}\n")
            await logs.look()
        complaint = f"{UUID}: cannot follow its logs: cannot write file: Is a directory (EISDIR): {log}.1"
        lines = [[*[f"{UUID}: {word}"] * 20, f"{UUID}: after {word}"] for word in ("one", "two")]
        assert told(caplog) == [complaint, *lines[0], complaint, *lines[1]]


class TestLines:
    """How a line of a daemon is told."""

    @pytest.mark.parametrize(
        ("line", "level", "text"),
        [
            (
                f"{HEAD}Starting new server 12 for user 0",
                logging.INFO,
                "control 4711: Starting new server 12 for user 0",
            ),
            (
                "[2026-02-03 04:05:06.789 Server    12] Client 34 connected",
                logging.INFO,
                "server 12: Client 34 connected",
            ),
            ("[2026-02-03 04:05:06.789 Legacy Server 12] up", logging.INFO, "legacy server 12: up"),
            (f"{HEAD}Server 12 exited with status 1", logging.WARNING, "control 4711: Server 12 exited with status 1"),
            (f"{HEAD}Server 12 exited with status 0", logging.INFO, "control 4711: Server 12 exited with status 0"),
            (f"{HEAD}Server encountered a fatal exception. Shutting down", logging.WARNING, None),
            (f"{HEAD}NEW UI", logging.DEBUG, "control 4711: NEW UI"),
            (f"{HEAD}Cmd:get_default_active_thread_percentage", logging.DEBUG, None),
            (f"{HEAD}Cmd:set_default_active_thread_percentage 77", logging.INFO, None),
            (f"{HEAD}25.0", logging.DEBUG, None),
            (f"{HEAD}9G", logging.DEBUG, None),
            (f"{HEAD}NEW CLIENT 12 from user 0: Server already exists", logging.INFO, None),
            ("no head at all", logging.INFO, "no head at all"),
            ("", logging.INFO, ""),
        ],
    )
    def test_levels(self, line: str, level: int, text: str | None) -> None:
        """Failures are warnings, what our own questions leave is for debugging, all else is information."""
        assert shown(line)[0] == level
        assert text is None or shown(line)[1] == text

    @given(st.text(max_size=2 * LONGEST_LINE))
    def test_any_line(self, line: str) -> None:
        """Whatever a client has a daemon log is one line of bounded length without control characters."""
        _, text = shown(HEAD + line)
        assert text.isprintable()
        assert len(text) < LONGEST_LINE * 10 + 50

    def test_escapes(self) -> None:
        """What could pass for something else on a terminal is shown as what it is."""
        assert shown("a\x1b[31mb\rc\u202ed")[1] == "a\\x1b[31mb\\rc\\u202ed"


class TestRate:
    """So many lines in so many seconds."""

    def test_some_are_refused_and_told(self) -> None:
        """What is beyond the number is refused and told once, when the time is over; then it begins anew."""
        limit = RateLimit(2, PER_SECONDS)
        assert [limit.admits(100.0) for _ in range(5)] == [True, True, False, False, False]
        assert limit.passed_over(100.0 + PER_SECONDS - 1) == 0
        assert limit.passed_over(100.0 + PER_SECONDS) == 3
        assert limit.passed_over(100.0 + PER_SECONDS) == 0
        assert limit.admits(100.0 + PER_SECONDS)

    @given(st.lists(st.floats(0, 5), max_size=60))
    def test_never_more(self, pauses: list[float]) -> None:
        """Whenever lines come, in no window are more told than allowed, and none is neither told nor counted."""
        limit, now, admitted, refused = RateLimit(3, 10.0), 0.0, [], 0
        for pause in pauses:
            now += pause
            refused += limit.passed_over(now)
            if limit.admits(now):
                admitted.append(now)
        refused += limit.passed_over(now + 10.0)
        assert len(admitted) + refused == len(pauses)
        for begin in admitted:
            assert sum(begin <= at < begin + 10.0 for at in admitted) <= 6
