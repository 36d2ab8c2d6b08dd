"""The stand-in for NVIDIA's control program, side by side with the original: what holds here holds for both."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.mps.control import Control, Limits, NoAnswer, NoDaemon, Unexpected
from nodeagent.mps.process import MpsProcess, Process, mps_processes
from nodeagent.sim.mps import write_stand_in
from tests.mps.support import OTHER, UUID, Daemons, temporary_root
from tests.waiting import eventually, eventually_sync, longer

ASKED = (
    ("get_default_active_thread_percentage", "100.0"),
    ("set_default_active_thread_percentage 25", "25.0"),
    ("set_default_active_thread_percentage 33.3", "33.3"),
    ("set_default_active_thread_percentage 100", "100.0"),
    ("set_default_active_thread_percentage 25", "25.0"),
    ("set_default_active_thread_percentage 0", "25.0"),
    ("set_default_active_thread_percentage 101", "25.0"),
    ("set_default_active_thread_percentage -1", "25.0"),
    ("set_default_active_thread_percentage most", "25.0"),
    ("set_default_active_thread_percentage", "25.0"),
    ("get_default_active_thread_percentage", "25.0"),
    ("get_default_device_pinned_mem_limit 0", ""),
    ("set_default_device_pinned_mem_limit 0 9216M", ""),
    ("get_default_device_pinned_mem_limit 0", "9G"),
    ("get_default_device_pinned_mem_limit", "9G"),
    ("get_default_device_pinned_mem_limit 1", ""),
    ("set_default_device_pinned_mem_limit 1 2G", ""),
    ("get_default_device_pinned_mem_limit 1", "2G"),
    (f"set_default_device_pinned_mem_limit {OTHER} 7G", ""),
    ("get_default_device_pinned_mem_limit 0", ""),
    ("get_default_device_pinned_mem_limit 1", "2G"),
    ("get_server_list", ""),
    ("ps", "Server not found"),
    ("frobnicate the daemon", 'Unknown command "frobnicate"'),
    ("GET_SERVER_LIST", 'Unknown command "GET_SERVER_LIST"'),
    ("", 'Unknown command ""'),
)
"""Commands in their order, and what each is answered."""

SIZES = (
    ("1M", "1M"),
    ("1023M", "1023M"),
    ("1024M", "1G"),
    ("1536M", "1G"),
    ("2047M", "1G"),
    ("2G", "2G"),
    ("2g", "2G"),
    ("100000M", "97G"),
    ("9.5G", "9M"),
    ("512K", "512M"),
    ("4096K", "4G"),
    ("7", "7M"),
    ("0M", ""),
    ("nonsense", ""),
)
"""What is set, and what is read back."""


@pytest.fixture
def mps_root() -> Iterator[Path]:
    """A directory with a path that is short enough; what runs below it is ended afterwards."""
    with temporary_root() as root:
        yield root


@pytest.fixture(params=["nvidia", "stand-in"])
def daemons(request: pytest.FixtureRequest, mps_root: Path) -> Daemons:
    """Starts daemons of either program."""
    if request.param == "nvidia":
        program: Path = request.getfixturevalue("mps_control")
    else:
        program = write_stand_in(mps_root / "stand-in")
    return Daemons(mps_root, program)


def run(daemons: Daemons, *arguments: str, text: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program for the pipe directory of UUID, which need not exist."""
    pipe, log = daemons.layout.pipe(UUID), daemons.layout.log(UUID)
    variables = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log), **environment}
    return subprocess.run(
        [str(daemons.program), *arguments],
        input=text,
        env={"PATH": os.defpath, **variables},
        capture_output=True,
        text=True,
        timeout=longer(20),
        check=False,
    )


class TestCommands:
    """What is answered to what the MPS host and the agent ask, and to what a person may type."""

    def test_answers(self, daemons: Daemons) -> None:
        """Each command has its answer, and an unknown one fails nothing."""
        daemons.start()
        for command, answer in ASKED:
            done = run(daemons, text=f"{command}\n")
            assert (done.returncode, done.stdout, done.stderr) == (0, f"{answer}\n" if answer else "", ""), command

    def test_several_commands_of_one_client(self, daemons: Daemons) -> None:
        """A client may send many commands, the last one without an end of line; the answers come in their order."""
        daemons.start()
        done = run(daemons, text="\n".join(command for command, _ in ASKED))
        assert done.returncode == 0
        assert done.stdout.splitlines() == [answer for _, answer in ASKED[:-1] if answer]

    @pytest.mark.parametrize(("size", "told"), SIZES)
    def test_sizes(self, daemons: Daemons, size: str, told: str) -> None:
        """A size is read, and rounded when it is read back, as nobody would guess."""
        daemons.start()
        text = f"set_default_device_pinned_mem_limit 0 {size}\nget_default_device_pinned_mem_limit 0\n"
        assert run(daemons, text=text).stdout == (f"{told}\n" if told else "")

    async def test_the_questions_of_the_host(self, daemons: Daemons) -> None:
        """What the MPS host does with a daemon can be done: probe, limits there and back, the peer, quit."""
        process = daemons.start()
        control = daemons.control()
        await control.probe()
        assert await control.limits() == Limits(100.0, None)
        for memory, threads in ((9216, 25), (512, 100), (1536, 1)):
            await control.set_limits(memory, threads)
            assert (await control.limits()).fits(memory, threads)
        with pytest.raises(Unexpected):
            await control.set_limits(9216, 0)
        assert control.peer() == process.pid
        await control.quit()
        assert await process.ended(5)

    def test_limits_are_a_daemons_own(self, daemons: Daemons) -> None:
        """Daemons know nothing of each other, and a new one nothing of the one before."""
        first, second = daemons.start(UUID), daemons.start(OTHER)
        run(daemons, text="set_default_active_thread_percentage 25\n")
        assert first != second
        assert run(daemons, text="get_default_active_thread_percentage\n").stdout == "25.0\n"
        pipe = str(daemons.layout.pipe(OTHER))
        other = run(daemons, text="get_default_active_thread_percentage\n", CUDA_MPS_PIPE_DIRECTORY=pipe)
        assert other.stdout == "100.0\n"
        first.signal(signal.SIGKILL)
        eventually_sync(lambda: not first.alive())
        daemons.start(UUID)
        assert run(daemons, text="get_default_active_thread_percentage\n").stdout == "100.0\n"

    def test_usage(self, daemons: Daemons) -> None:
        """The program tells its usage, by which it is seen whether it runs."""
        done = run(daemons, "--help")
        assert done.returncode == 0
        assert "MPS" in done.stdout


class TestLife:
    """How daemons come and go."""

    def test_a_daemon_listens_when_its_start_returns(self, daemons: Daemons) -> None:
        """`-d` detaches: a session of its own, nobody's child, nothing of the starter's streams, and its socket is for
        everybody.
        """
        pipe = daemons.layout.pipe(UUID)
        pipe.parent.mkdir()
        started = run(daemons, "-d")  # which would wait for a daemon that has its streams
        assert (started.returncode, started.stdout, started.stderr) == (0, "", "")
        process = Process.find(daemons.control().peer())
        assert process is not None
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        assert int(fields[3]) == process.pid, "its session"
        assert int(fields[1]) != os.getpid()
        assert {str(Path(f"/proc/{process.pid}/fd/{stream}").readlink()) for stream in range(3)} == {os.devnull}
        found = (pipe / "control").stat()
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o666

    def test_it_makes_its_directories(self, daemons: Daemons) -> None:
        """A daemon makes the directories that are not there, and two logs."""
        daemons.layout.directory(UUID).mkdir()
        assert run(daemons, "-d").returncode == 0
        assert {entry.name for entry in daemons.layout.log(UUID).iterdir()} == {"control.log", "server.log"}

    def test_it_is_recognised(self, daemons: Daemons) -> None:
        """A daemon is known by its name, its command line and its environment; so is a client that is waited for."""
        process = daemons.start()
        daemon = MpsProcess(process, "daemon", daemons.layout.pipe(UUID), UUID)
        assert mps_processes(daemons.root) == [daemon]
        with subprocess.Popen(
            [str(daemons.program)],
            env={"CUDA_MPS_PIPE_DIRECTORY": str(daemons.layout.pipe(UUID))},
            stdin=subprocess.PIPE,
        ) as client:
            eventually_sync(
                lambda: (
                    [(one.process.pid, one.kind) for one in mps_processes(daemons.root) if one != daemon]
                    == [(client.pid, "client")]
                )
            )

    def test_one_daemon_for_a_directory(self, daemons: Daemons) -> None:
        """A second daemon is refused as long as the first one lives, whatever that has left behind."""
        process = daemons.start()
        second = run(daemons, "-d")
        assert second.returncode == 1
        assert "An instance of this daemon is already running" in second.stdout + second.stderr
        assert daemons.control().peer() == process.pid
        process.signal(signal.SIGKILL)
        eventually_sync(lambda: not process.alive())
        assert (daemons.layout.pipe(UUID) / "control").exists()
        assert daemons.start() != process

    def test_a_path_that_is_too_long(self, daemons: Daemons) -> None:
        """Where no socket can be, no daemon starts."""
        pipe = str(daemons.root / ("p" * 120))
        assert run(daemons, "-d", CUDA_MPS_PIPE_DIRECTORY=pipe).returncode == 1
        assert mps_processes(daemons.root) == []

    async def test_quit(self, daemons: Daemons) -> None:
        """A daemon that is told to quit ends a little later."""
        process = daemons.start()
        done = run(daemons, text="quit\n")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert await process.ended(5)
        await eventually(daemons.gone)
        with pytest.raises(NoDaemon):
            await daemons.control().limits()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    async def test_signals(self, daemons: Daemons, number: signal.Signals) -> None:
        """A daemon ends by a signal, and then there is none."""
        process = daemons.start()
        process.signal(number)
        assert await process.ended(5)
        await eventually(daemons.gone)

    @pytest.mark.parametrize("text", ["", "ps\n"])
    def test_no_daemon(self, daemons: Daemons, text: str) -> None:
        """A client without a daemon says so, and fails, also when it has nothing to ask."""
        done = run(daemons, text=text)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == "Cannot find MPS control daemon process\n"


class TestTrouble:
    """How a daemon is when something is wrong."""

    async def test_a_stopped_daemon(self, daemons: Daemons) -> None:
        """A daemon that is stopped answers nobody; its socket takes connections, and it goes on as if nothing was."""
        process = daemons.start()
        process.signal(signal.SIGSTOP)
        control = daemons.control(deadline=0.5)
        with pytest.raises(NoAnswer, match="no answer within"):
            await control.limits()
        assert control.peer() == process.pid
        process.signal(signal.SIGCONT)
        await eventually(control.limits)

    async def test_who_says_nothing_holds_everybody_up(self, daemons: Daemons) -> None:
        """A client that connects and says nothing blocks the daemon until it leaves."""
        daemons.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as silent:
            silent.connect(str(daemons.layout.pipe(UUID) / "control"))
            with pytest.raises(NoAnswer):
                await Control(daemons.layout.pipe(UUID), program=str(daemons.program), deadline=0.5).limits()
        assert await daemons.control().limits() == Limits(100.0, None)

    async def test_looks_at_the_peer_hold_nobody_up(self, daemons: Daemons) -> None:
        """A connection that is closed at once costs nothing."""
        daemons.start()
        for _ in range(20):
            daemons.control().peer()
        assert await daemons.control().limits() == Limits(100.0, None)


def test_the_log(daemons: Daemons) -> None:
    """Everything that a daemon is asked, and its answers, are in its log, in lines that the MPS host can read."""
    daemons.layout.directory(UUID).mkdir()
    run(daemons, "-d")
    (process,) = (one.process for one in mps_processes(daemons.root))
    run(daemons, text="set_default_active_thread_percentage 0\nget_default_device_pinned_mem_limit 0\nfrobnicate\n")
    run(daemons, text="quit\n")
    eventually_sync(lambda: not process.alive())
    lines = (daemons.layout.log(UUID) / "control.log").read_text().splitlines()
    heads = [re.fullmatch(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} Control +(\d+)\] (.*)", line) for line in lines]
    assert {head[1] for head in heads if head} == {str(process.pid)}, lines
    assert [head[2] for head in heads if head] == [
        f"Starting control daemon using socket {daemons.layout.pipe(UUID)}/control",
        f"To connect CUDA applications to this daemon, set env CUDA_MPS_PIPE_DIRECTORY={daemons.layout.pipe(UUID)}",
        "Accepting connection...",
        "NEW UI",
        "Cmd:set_default_active_thread_percentage 0",
        "Invalid percentage, expected between (0.0, 100.0]",
        "100.0",
        "Cmd:get_default_device_pinned_mem_limit 0",
        "No default pinned memory limit set for the device!",
        "Cmd:frobnicate",
        'Unknown command "frobnicate"',
        "UI closed",
        "Accepting connection...",
        "NEW UI",
        "Cmd:quit",
        "Exit with status 0",
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
def test_other_users(mps_root: Path) -> None:
    """Anybody may ask the stand-in and change limits, quit is for its own user: as tests/mps shows of the original."""
    daemons = Daemons(mps_root, write_stand_in(mps_root / "stand-in"))
    process = daemons.start()
    for directory in (daemons.root, daemons.layout.directory(UUID)):
        directory.chmod(0o755)
    # Another user may not be able to run our interpreter: it becomes one when it runs.
    asking = (
        "import os, sys; from pathlib import Path; from nodeagent.sim import mps_control;"
        "os.setgroups([]); os.setuid(65534);"
        "sys.exit(mps_control.ask(Path(sys.argv[1]), sys.stdin.buffer))"
    )
    done = subprocess.run(
        [sys.executable, "-c", asking, str(daemons.layout.pipe(UUID))],
        input="set_default_active_thread_percentage 7\nquit\nget_default_active_thread_percentage\n",
        capture_output=True,
        text=True,
        timeout=longer(20),
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["7.0", "Not enough privilege to execute quit command", "7.0"]
    assert process.alive()


def test_the_stand_in_needs_to_know_where(mps_root: Path) -> None:
    """The stand-in has no pipe directory of its own choice: where NVIDIA's would be there may be a real daemon."""
    program = write_stand_in(mps_root)
    for arguments in ([], ["-d"], ["-f"], ["ps"]):
        done = subprocess.run([program, *arguments], env={}, capture_output=True, text=True, check=False, input="")
        assert (done.returncode, done.stdout) == (1, "")
        assert "see --help" in done.stderr
