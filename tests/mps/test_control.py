"""Commands to a daemon and what it answers, on NVIDIA's own daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.mps.control import (
    Control,
    ControlError,
    Limits,
    NoAnswer,
    NoDaemon,
    Unexpected,
    check_root,
    parse_limits,
)
from tests.mps.support import UUID, Daemons, responsive_loop
from tests.waiting import eventually

memories = st.integers(1, 2**22)
percents = st.integers(1, 100)


def program(directory: Path, script: str) -> str:
    """A program that stands in for NVIDIA's client, to answer what NVIDIA's does not."""
    path = directory / "client"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


class TestAsking:
    """One client process asks, and its lines are the answer."""

    async def test_lines_of_several_commands(self, daemons: Daemons) -> None:
        """One client may send several commands; an answer is the lines of all of them in order."""
        daemons.start()
        answer = await daemons.control().ask("get_default_active_thread_percentage", "frobnicate", "get_server_list")
        assert answer == ["100.0", 'Unknown command "frobnicate"']

    async def test_no_daemon(self, daemons: Daemons) -> None:
        """Where no daemon is, and where none is any more, that is what is said."""
        with pytest.raises(NoDaemon):
            await daemons.control().ask("ps")
        process = daemons.start()
        process.signal(signal.SIGKILL)
        assert await process.ended(5)
        await eventually(daemons.gone)
        assert (daemons.layout.pipe(UUID) / "control").is_socket()
        with pytest.raises(NoDaemon):
            await daemons.control().ask("ps")

    async def test_a_stopped_daemon(self, daemons: Daemons) -> None:
        """A daemon that is stopped costs the deadline, not the loop, and its client is gone afterwards."""
        process = daemons.start()
        process.signal(signal.SIGSTOP)
        control = daemons.control(deadline=1.5)
        with responsive_loop(1.0), pytest.raises(NoAnswer, match=r"no answer within 1\.5 s"):
            await control.limits()
        assert children(daemons.layout.pipe(UUID)) == []
        process.signal(signal.SIGCONT)
        assert await eventually(control.limits) == Limits(100.0, None)

    async def test_no_program(self, mps_root: Path) -> None:
        """A client that cannot be run is told by its path."""
        control = Control(mps_root, program="/nonexistent/nvidia-cuda-mps-control")
        with pytest.raises(ControlError, match="cannot run /nonexistent/nvidia-cuda-mps-control: No such file"):
            await control.ask("ps")

    async def test_a_client_that_fails(self, tmp_path: Path) -> None:
        """Whatever else a client fails with is told, in its own words."""
        control = Control(tmp_path, program=program(tmp_path, "echo bad things >&2; exit 3"))
        with pytest.raises(NoAnswer, match="failed with 3: 'bad things'"):
            await control.ask("ps")

    async def test_a_connection_that_breaks(self, tmp_path: Path) -> None:
        """A daemon that goes while it is asked has not answered."""
        broken = program(tmp_path, "echo Cannot send command to MPS control daemon process >&2; exit 1")
        with pytest.raises(NoAnswer, match="the connection broke"):
            await Control(tmp_path, program=broken).quit()

    async def test_several_who_ask_at_once_are_all_answered(self, daemons: Daemons) -> None:
        """A daemon that serves one client drops others, who ask again: nobody takes that for a daemon in trouble."""
        daemons.start()
        await daemons.control().set_limits(9216, 25)

        async def ask() -> None:
            control = daemons.control(deadline=30)
            for _ in range(50):
                assert (await control.limits()).fits(9216, 25)
                control.peer()

        await asyncio.gather(*(ask() for _ in range(4)))

    @pytest.mark.parametrize("script", ["exit 0", "exit 1", "echo Cannot send command to MPS control >&2; exit 1"])
    async def test_a_daemon_that_drops_every_connection(self, tmp_path: Path, script: str) -> None:
        """Whose connections are dropped until the deadline has no answer."""
        control = Control(tmp_path, program=program(tmp_path, script), deadline=0.5)
        with pytest.raises(NoAnswer, match="it drops every connection"):
            await control.limits()

    async def test_nothing_is_inherited(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A client gets PATH, the pipe directory and three streams of ours, no variable and no file else."""
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
        reading, writing = os.pipe()
        os.set_inheritable(writing, True)
        lister = program(tmp_path, f"tr '\\0' '\\n' </proc/self/environ; ls {'/proc/self/fd'}")
        answer = await Control(tmp_path, program=lister).ask("ps")
        os.close(reading)
        os.close(writing)
        names = {line.partition("=")[0] for line in answer}
        assert names - {"PWD", "_", "SHLVL", "OLDPWD"} == {"PATH", "CUDA_MPS_PIPE_DIRECTORY", "0", "1", "2", "3"}

    async def test_endless_output(self, tmp_path: Path) -> None:
        """A client that says more than there is room for is ended, long before its deadline."""
        endless = Control(tmp_path, program=program(tmp_path, "yes"), deadline=60)
        with pytest.raises(NoAnswer, match="failed with -9"):
            await endless.ask("ps")

    async def test_what_a_client_starts_ends_with_it(self, tmp_path: Path) -> None:
        """A client that is a script leaves none of its own children behind when its deadline has passed."""
        pid = tmp_path / "pid"
        control = Control(tmp_path, program=program(tmp_path, f"sleep 600 & echo $! >{pid}; wait"), deadline=0.5)
        with pytest.raises(NoAnswer):
            await control.ask("ps")
        await eventually(lambda: not Path(f"/proc/{pid.read_text().strip()}/fd/0").exists())


def children(pipe: Path) -> list[str]:
    """Clients of this pipe directory that are there, as zombies or not, below this very process."""
    found = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "comm="], capture_output=True, text=True, check=False
    ).stdout.split()
    return [name for name in found if name.startswith("nvidia-cuda")]


class TestLimits:
    """Limits are set, read back and compared as far as a daemon tells them."""

    async def test_there_are_none_at_first(self, daemons: Daemons) -> None:
        """A daemon begins with all threads and no memory limit."""
        daemons.start()
        limits = await daemons.control().limits()
        assert limits == Limits(100.0, None)
        assert not limits.fits(9216, 100)

    @pytest.mark.parametrize("memory", [1, 512, 1023, 1024, 1025, 1536, 2047, 2048, 9216, 81920, 100_000, 2**22])
    async def test_what_was_set_fits(self, daemons: Daemons, memory: int) -> None:
        """Whatever size is set is read back as fitting: exact below 1 GiB, in whole GiB above."""
        daemons.start()
        control = daemons.control()
        for threads in (1, 33, 100):
            await control.set_limits(memory, threads)
            assert (await control.limits()).fits(memory, threads)

    async def test_what_a_client_has_set_does_not_fit(self, daemons: Daemons) -> None:
        """Limits that somebody changed through the same socket are seen, each of them."""
        daemons.start()
        control = daemons.control()
        await control.set_limits(9216, 25)
        await control.ask("set_default_active_thread_percentage 26")
        assert not (await control.limits()).fits(9216, 25)
        await control.set_limits(9216, 25)
        for other in ("8G", "10G", "512M", "0M", "99999999999G", "-1M", "nonsense"):
            await control.ask(f"set_default_device_pinned_mem_limit 0 {other}")
            assert not (await control.limits()).fits(9216, 25), other

    @pytest.mark.parametrize("threads", [0, 101, -1])
    async def test_a_percentage_that_is_refused(self, daemons: Daemons, threads: int) -> None:
        """A daemon that refuses a percentage exits 0 and says the old one: that is an error."""
        daemons.start()
        with pytest.raises(Unexpected, match=r"answered '100\.0'"):
            await daemons.control().set_limits(9216, threads)

    @pytest.mark.parametrize("output", ['Unknown command "set_default_active_thread_percentage 25"', "25.0\nmore"])
    async def test_odd_answers_to_setting(self, tmp_path: Path, output: str) -> None:
        """Limits count as set only when the answer is exactly what it should be."""
        (tmp_path / "output").write_text(output)
        control = Control(tmp_path, program=program(tmp_path, f"cat {tmp_path}/output"))
        with pytest.raises(Unexpected):
            await control.set_limits(9216, 25)

    @given(memories, percents)
    def test_a_daemon_tells_whole_gib(self, memory: int, threads: int) -> None:
        """Limits fit what a daemon makes of them: `<n>M` below 1 GiB, else `<n>G` rounded down."""
        told = f"{memory}M" if memory < 1024 else f"{memory // 1024}G"
        assert parse_limits([f"{threads}.0", told]).fits(memory, threads)

    @given(memories, percents, memories, percents)
    def test_other_limits_do_not_fit(self, memory: int, threads: int, other: int, others: int) -> None:
        """Limits fit others only where a daemon tells both alike: same percentage, same GiB or same MiB below one."""
        alike = threads == others and (
            memory == other if min(memory, other) < 1024 else memory // 1024 == other // 1024
        )
        told = f"{memory}M" if memory < 1024 else f"{memory // 1024}G"
        assert parse_limits([f"{threads}.0", told]).fits(other, others) is alike

    @given(st.lists(st.text(max_size=30), max_size=3))
    def test_odd_answers_to_reading(self, lines: list[str]) -> None:
        """Any answer is either limits or an error of ours."""
        try:
            limits = parse_limits(lines)
        except Unexpected:
            return
        assert lines[0] == f"{limits.threads:.1f}"

    @pytest.mark.parametrize(
        "lines",
        [
            [],
            ["9G"],
            ["9G", "25.0"],
            ["25.0", "9G", "9G"],
            ["25.0", "9T"],
            ["25.0", "nonsense"],
            ["25.0", "9.5G"],
            ["25.0", "-9G"],
            ["25.0", ""],
            ["25.0", "٩G"],
            ["nan", "9G"],
            ["25", "9G"],
            ["-25.0"],
            ['Unknown command "get_default_active_thread_percentage"'],
            ["25.0", 'Unknown command "get_default_device_pinned_mem_limit 0"'],
        ],
    )
    def test_what_is_no_answer_to_reading(self, lines: list[str]) -> None:
        """Output that no reading gives is an error and never taken for limits."""
        with pytest.raises(Unexpected, match="reading the limits is answered"):
            parse_limits(lines)

    def test_in_words(self) -> None:
        """Limits are told with their units."""
        assert str(Limits(25.0, 9216)) == "9216 MiB and 25 % of threads"
        assert str(Limits(12.5, None)) == "no memory limit and 12.5 % of threads"


class TestProbing:
    """What a daemon can do is known by asking it."""

    async def test_a_daemon_that_can(self, daemons: Daemons) -> None:
        """NVIDIA's 535 knows all that is needed, and probing changes nothing."""
        daemons.start()
        control = daemons.control()
        await control.set_limits(2048, 50)
        await control.probe()
        assert (await control.limits()).fits(2048, 50)

    async def test_a_daemon_that_cannot(self, tmp_path: Path) -> None:
        """A daemon that does not know a command says so and exits 0: probing raises, naming the command."""
        old = 'while read -r line; do case $line in *pinned*) echo "Unknown command \\"$line\\"";; esac; done'
        with pytest.raises(Unexpected, match="get_default_device_pinned_mem_limit"):
            await Control(tmp_path, program=program(tmp_path, old)).probe()


class TestQuitting:
    """A daemon is asked to end."""

    async def test_it_ends(self, daemons: Daemons) -> None:
        """After quit the daemon ends, a little later."""
        process = daemons.start()
        await daemons.control().quit()
        assert await process.ended(5)

    async def test_failed_servers_do_not_matter(self, daemons: Daemons) -> None:
        """A daemon whose server has failed ends with another exit code; it has ended all the same."""
        process = daemons.start()
        await daemons.control().ask("start_server -uid 0")  # which fails without a GPU
        log = daemons.layout.log(UUID) / "control.log"
        await eventually(lambda: "exited with status" in log.read_text())
        await daemons.control().quit()
        assert await process.ended(5)

    @pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
    async def test_others_may_not(self, daemons: Daemons) -> None:
        """A daemon that refuses to quit has not been told to: the error says what it said."""
        process = daemons.start()
        for directory in (daemons.root, daemons.layout.directory(UUID)):
            directory.chmod(0o755)
        asking = (
            "import asyncio, os, sys; from pathlib import Path; from nodeagent.mps.control import Control;"
            "os.setgroups([]); os.setuid(65534);"
            "c = Control(Path(sys.argv[1]), program=sys.argv[2]);"
            "asyncio.run(c.set_limits(1024, 7));"
            "asyncio.run(c.quit())"
        )
        # The program may be in a directory that only we can enter.
        copy = daemons.root / "client"
        copy.write_bytes(daemons.program.read_bytes())
        copy.chmod(0o755)
        told = subprocess.run(
            [sys.executable, "-c", asking, str(daemons.layout.pipe(UUID)), str(copy)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[2],
        )
        assert "Not enough privilege to execute quit command" in told.stderr, told.stderr
        assert process.alive()
        assert (await daemons.control().limits()).fits(1024, 7)


class TestPeer:
    """Whose socket it is, known from the kernel."""

    async def test_the_daemons_pid(self, daemons: Daemons) -> None:
        """The peer is the daemon; a socket that it left behind has none."""
        process = daemons.start()
        control = daemons.control()
        assert control.peer() == process.pid
        process.signal(signal.SIGKILL)
        assert await process.ended(5)

        await eventually(daemons.gone)

    def test_no_socket(self, mps_root: Path) -> None:
        """Without a socket, a directory or anything there is no daemon."""
        for pipe in (mps_root, mps_root / "gone", mps_root / "file" / "pipe"):
            (mps_root / "file").touch()
            with pytest.raises(NoDaemon):
                Control(pipe).peer()

    async def test_a_stopped_daemon_has_a_pid(self, daemons: Daemons) -> None:
        """Finding the peer waits for nobody, not even for a daemon that is stopped."""
        process = daemons.start()
        process.signal(signal.SIGSTOP)
        assert daemons.control().peer() == process.pid

    async def test_it_holds_nobody_up(self, daemons: Daemons) -> None:
        """A connection for the pid is closed at once: a command right behind it is answered."""
        daemons.start()
        control = daemons.control()
        for _ in range(20):
            control.peer()
            assert (await control.limits()).memory is None

    def test_a_full_backlog(self, mps_root: Path) -> None:
        """A socket whose backlog is full is one that does not answer; nobody waits for it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(mps_root / "control"))
            listener.listen(0)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as first:
                first.connect(str(mps_root / "control"))
                with pytest.raises(NoAnswer, match="does not accept connections"):
                    Control(mps_root).peer()

    def test_a_socket_of_another_kind(self, mps_root: Path) -> None:
        """What is no socket of a daemon is an error that says why."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(mps_root / "control"))
            listener.listen()
            with pytest.raises(ControlError, match="cannot connect to its socket: Protocol wrong type"):
                Control(mps_root).peer()

    @pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace, which root alone can")
    async def test_a_daemon_of_another_pid_namespace(self, daemons: Daemons) -> None:
        """A daemon in a pid namespace that we do not see has the pid 0."""
        daemons.start()
        asking = (
            "import sys; from pathlib import Path; from nodeagent.mps.control import Control;"
            "print(Control(Path(sys.argv[1])).peer())"
        )
        told = subprocess.run(
            ["unshare", "--pid", "--fork", sys.executable, "-c", asking, str(daemons.layout.pipe(UUID))],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        assert told.stdout == "0\n"


class TestRoot:
    """A root is refused when sockets below it would have paths that are too long."""

    def of_length(self, root: Path, length: int) -> Path:
        """A directory below `root` whose path has so many bytes."""
        path = root / ("r" * (length - len(str(root)) - 1))
        path.mkdir()
        return path

    async def test_the_longest(self, mps_root: Path, mps_control: Path) -> None:
        """NVIDIA's daemon starts below the longest root that is accepted, and nowhere below a longer one."""
        longest = Daemons(self.of_length(mps_root, 41), mps_control)
        check_root(longest.root)
        longest.start()
        assert await longest.control().limits() == Limits(100.0, None)
        longer = Daemons(self.of_length(mps_root, 42), mps_control)
        with pytest.raises(ValueError, match=r"cannot use .*: its path has 42 bytes.* leave room for 41"):
            check_root(longer.root)
        with pytest.raises(subprocess.CalledProcessError):
            longer.start()

    def test_bytes_count(self) -> None:
        """Bytes count, not characters, and of the absolute path."""
        check_root(Path("/" + "r" * 40))
        with pytest.raises(ValueError, match="has 43 bytes"):
            check_root(Path("/" + "ü" * 21))
        with pytest.raises(ValueError, match="cannot use"):
            check_root(Path("r" * 41))
