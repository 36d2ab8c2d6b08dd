"""The first process of the host's container, with real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeagent.mps.process import Process, mps_processes
from nodeagent.stopping import STOP_SECONDS
from tests.mps.support import UUID, Daemons
from tests.waiting import eventually_sync, longer

PROJECT = Path(__file__).parents[2]

INIT = """
import sys
from nodeagent.mps.init import run
sys.exit(run(sys.argv[2:], first_pause=float(sys.argv[1])))
"""

HOST = """
import os, signal, subprocess, sys, time
out = sys.argv[1]
def end(number, frame):
    with open(out, "a") as file:
        file.write(f"told {number}\\n")
    sys.exit(5)
def note(number, frame):
    with open(out, "a") as file:
        file.write(f"told {number}\\n")
signal.signal(signal.SIGHUP, note)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
# Grandchildren whose parent is gone at once, as a daemon's is.
for _ in range(2):
    subprocess.run(["sh", "-c", "sleep 600 2>/dev/null & echo orphan $! >>" + out])
with open(out, "a") as file:
    file.write(f"host {os.getpid()}\\n")
while True:
    time.sleep(600)
"""


class Story:
    """An init with a host that writes down what happens to it."""

    def __init__(self, directory: Path, host: str, *, pause: float = 0.05, prefix: tuple[str, ...] = ()) -> None:
        self._file = directory / "told"
        self._file.touch()
        command = [sys.executable, "-c", INIT, str(pause), sys.executable, "-c", host, str(self._file)]
        self.init = subprocess.Popen([*prefix, *command], stderr=subprocess.PIPE, text=True, cwd=PROJECT)

    def told(self, word: str) -> list[int]:
        """The numbers that were written behind this word."""
        lines = (line.split() for line in self._file.read_text().splitlines())
        return [int(line[1]) for line in lines if line[0] == word and len(line) == 2]

    def host(self, number: int = 1) -> Process:
        """The host after so many starts."""
        pid = eventually_sync(lambda: self.told("host")[number - 1 : number])[0]
        found = Process.find(pid)
        assert found is not None
        return found

    def orphan(self, number: int = 1) -> Process:
        """What the first host has left behind."""
        found = Process.find(eventually_sync(lambda: self.told("orphan")[number - 1 : number])[0])
        assert found is not None
        return found

    def end(self) -> None:
        """Nothing is left of it."""
        self.init.kill()
        for pid in (*self.told("host"), *self.told("orphan")):
            if (process := Process.find(pid)) is not None and b"sleep" in command(pid):
                process.signal(signal.SIGKILL)
        self.init.communicate()


@contextmanager
def playing(directory: Path, host: str = HOST, *, pause: float = 0.05) -> Iterator[Story]:
    """A story that ends, whatever happens."""
    story = Story(directory, host, pause=pause)
    try:
        yield story
    finally:
        story.end()


def test_a_host_that_crashes_is_started_again(tmp_path: Path) -> None:
    """A host that is killed is started again, each time; what it has started goes on."""
    with playing(tmp_path) as story:
        hosts = []
        for number in (1, 2, 3):
            host = story.host(number)
            hosts.append(host)
            assert host.signal(signal.SIGKILL)
        hosts.append(story.host(4))
        assert len({host.pid for host in hosts}) == 4
        assert story.orphan().alive()
        assert story.init.poll() is None
        story.init.send_signal(signal.SIGTERM)
        _, said = story.init.communicate(timeout=longer(10))
    assert said.count("nodeagent: init: the MPS host has ended with 137; its daemons go on") == 3


def test_orphans_are_reaped(tmp_path: Path) -> None:
    """What lost its parent is the init's, and leaves no zombie: neither while a host runs nor while none does."""
    with playing(tmp_path, pause=60) as story:
        host, orphan = story.host(), story.orphan()
        parent = Path(f"/proc/{orphan.pid}/stat").read_text().rpartition(")")[2].split()[1]
        assert int(parent) == story.init.pid
        other = story.orphan(2)
        for process in (other, host, orphan):
            process.signal(signal.SIGKILL)
            eventually_sync(lambda: not Path(f"/proc/{process.pid}").exists())  # noqa: B023
        assert story.init.poll() is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_as_the_host_does(tmp_path: Path, number: signal.Signals) -> None:
    """A signal to end is handed on, and the init ends with the host's exit code when the host has ended."""
    with playing(tmp_path) as story:
        story.host()
        story.init.send_signal(number)
        assert story.init.wait(longer(10)) == 5
        assert story.told("told") == [number]
        assert len(story.told("host")) == 1


def test_a_host_that_cannot_end(tmp_path: Path) -> None:
    """One that hangs, here because it is stopped, is killed in time: the container ends as promised, with 0."""
    with playing(tmp_path) as story:
        host = story.host()
        host.signal(signal.SIGSTOP)
        begun = time.monotonic()
        story.init.send_signal(signal.SIGTERM)
        assert story.init.wait(longer(30)) == 0
        assert time.monotonic() - begun < longer(STOP_SECONDS)
        eventually_sync(lambda: not host.alive())


def test_a_host_that_does_not_listen(tmp_path: Path) -> None:
    """A host without a handler dies of the signal, since it gets signals unblocked, and is not started again."""
    with playing(tmp_path, HOST.replace("signal.signal(", "(lambda *_: None)(")) as story:
        story.host()
        story.init.send_signal(signal.SIGTERM)
        assert story.init.wait(longer(10)) == 128 + signal.SIGTERM
        assert len(story.told("host")) == 1


def test_a_host_that_was_told_to_end(tmp_path: Path) -> None:
    """A host that ends with 0 without the init having been told to is started again: daemons end with the init."""
    with playing(tmp_path, HOST.replace("sys.exit(5)", "sys.exit(0)")) as story:
        for number in (1, 2):
            story.host(number).signal(signal.SIGTERM)
        story.host(3)
        assert story.told("told") == [signal.SIGTERM, signal.SIGTERM]
        assert story.orphan().alive()
        story.init.send_signal(signal.SIGTERM)
        assert story.init.wait(longer(10)) == 0
        assert len(story.told("host")) == 3


def test_hangup_is_handed_on(tmp_path: Path) -> None:
    """SIGHUP tells the host to read again, as often as it comes, and ends neither of the two."""
    with playing(tmp_path) as story:
        host = story.host()
        for number in (1, 2):
            story.init.send_signal(signal.SIGHUP)
            eventually_sync(lambda: story.told("told") == [signal.SIGHUP] * number)  # noqa: B023
        assert host.alive()
        assert story.init.poll() is None


def test_a_hangup_too_early(tmp_path: Path) -> None:
    """A host that does not listen to SIGHUP yet does not die of it: it reads at its start anyway."""
    with playing(tmp_path, HOST.replace("signal.signal(signal.SIGHUP, note)", "")) as story:
        host = story.host()
        host.signal(signal.SIGHUP)
        host.signal(signal.SIGTERM)
        story.host(2)
        assert story.told("told") == [signal.SIGTERM]


@pytest.mark.parametrize(
    "number",
    [signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGALRM, signal.SIGRTMIN],
    ids=lambda number: number.name,
)
@pytest.mark.parametrize("between", [False, True])
def test_other_signals_do_nothing(tmp_path: Path, number: signal.Signals, between: bool) -> None:
    """What is no request to end ends nothing, neither while a host runs nor while none does."""
    with playing(tmp_path, pause=1.0 if between else 0.05) as story:
        host = story.host()
        if between:
            host.signal(signal.SIGKILL)
            assert story.init.stderr is not None
            assert "started again" in story.init.stderr.readline()
        story.init.send_signal(number)
        if not between:
            story.init.send_signal(signal.SIGHUP)
            eventually_sync(lambda: story.told("told") == [signal.SIGHUP])
            assert story.host().alive()
        else:
            assert story.host(2).alive()
        assert story.init.poll() is None


def test_no_room_for_another_process() -> None:
    """A host for which there is no process is said, and tried again after a pause."""
    full = """
import os
forks = iter([BlockingIOError(11, "Resource temporarily unavailable"), OSError(12, "Cannot allocate memory")])
fork = os.fork
def refused():
    for error in forks:
        raise error
    return fork()
os.fork = refused
"""
    command = [sys.executable, "-c", full + INIT, "0.05", "sh", "-c", "exit 3"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=PROJECT) as init:
        assert init.stderr is not None
        said = [init.stderr.readline().removeprefix("nodeagent: init: ") for _ in range(3)]
        init.terminate()
        init.communicate(timeout=longer(10))
    again = "its daemons go on, and it is started again in"
    assert said == [
        f"cannot start the MPS host: [Errno 11] Resource temporarily unavailable; {again} 0.05 s\n",
        f"cannot start the MPS host: [Errno 12] Cannot allocate memory; {again} 0.1 s\n",
        f"the MPS host has ended with 3; {again} 0.2 s\n",
    ]


def test_told_to_end_between_two_hosts(tmp_path: Path) -> None:
    """An init that waits before it starts the next host ends at once, and with 0: nothing runs that could fail."""
    with playing(tmp_path, pause=600) as story:
        story.host().signal(signal.SIGKILL)
        assert story.init.stderr is not None
        assert "started again in 600 s" in story.init.stderr.readline()
        story.init.send_signal(signal.SIGTERM)
        assert story.init.wait(longer(10)) == 0


def test_the_host_does_not_outlive_it(tmp_path: Path) -> None:
    """A host whose init is killed is told to end: the next one is not to wait for its lock."""
    with playing(tmp_path) as story:
        host = story.host()
        story.init.kill()
        eventually_sync(lambda: not host.alive())
        assert story.told("told") == [signal.SIGTERM]
        assert story.orphan().alive()


def test_a_host_that_cannot_be_started() -> None:
    """A program that is not there is said, and tried again."""
    with subprocess.Popen(
        [sys.executable, "-c", INIT, "0.05", "/nonexistent/host"], stderr=subprocess.PIPE, text=True, cwd=PROJECT
    ) as init:
        assert init.stderr is not None
        for pause in ("0.05", "0.1", "0.2"):
            assert "cannot start the MPS host: [Errno 2]" in init.stderr.readline()
            assert f"has ended with 127; its daemons go on, and it is started again in {pause} s" in (
                init.stderr.readline()
            )
        init.terminate()
        init.communicate(timeout=longer(10))
        assert init.returncode in {0, 127}


def test_children_that_nobody_was_to_wait_for(tmp_path: Path) -> None:
    """Whoever starts the init may ignore the ends of children; the init does not."""
    ignoring = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    story = Story(tmp_path, HOST, prefix=(sys.executable, "-c", ignoring))
    try:
        story.host().signal(signal.SIGKILL)
        story.host(2)
    finally:
        story.end()


def test_only_the_standard_library(tmp_path: Path) -> None:
    """The process that must not fail loads nothing of ours but itself."""
    listing = "import nodeagent.mps.init, sys; print(*(n for n in sys.modules if n.partition('.')[0] == 'nodeagent'))"
    told = subprocess.run([sys.executable, "-c", listing], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert told.stdout.split() == ["nodeagent", "nodeagent.mps", "nodeagent.mps.init"]
    loaded = "import sys; before = set(sys.modules); import nodeagent.mps.init; print(*(set(sys.modules) - before))"
    told = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True, cwd=PROJECT)
    tops = {name.partition(".")[0] for name in told.stdout.split()}
    assert tops - {"nodeagent"} <= sys.stdlib_module_names


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pid namespace, which root alone can")
def test_as_process_1(daemons: Daemons, tmp_path: Path) -> None:
    """In a container the daemon outlives each crash of the host, keeps its pid, and ends with the container."""
    pipe, log = daemons.layout.pipe(UUID), daemons.layout.log(UUID)
    for directory in (pipe, log):
        directory.mkdir(parents=True)
    environment = f"CUDA_MPS_PIPE_DIRECTORY={pipe} CUDA_MPS_LOG_DIRECTORY={log} CUDA_VISIBLE_DEVICES={UUID}"
    start = f"env {environment} {daemons.program} -d"
    host = f"import os, sys, time; os.system({start!r}); open(sys.argv[1], 'a').write('host 0\\n'); time.sleep(600)"
    story = Story(tmp_path, host, prefix=("unshare", "--pid", "--fork", "--mount-proc", "--kill-child"))
    try:
        eventually_sync(lambda: len(story.told("host")) == 1)
        (daemon,) = mps_processes(daemons.root)
        for number in (2, 3):
            (running,) = hosts(story)
            running.signal(signal.SIGKILL)
            eventually_sync(lambda: len(story.told("host")) == number)  # noqa: B023
            assert [one.process for one in mps_processes(daemons.root)] == [daemon.process]
        story.init.kill()
        eventually_sync(lambda: not daemon.process.alive())
    finally:
        story.end()


def hosts(story: Story) -> list[Process]:
    """The hosts of a story in a pid namespace, whose pids only we know: children of a child of what we have started."""
    (init,) = children(story.init.pid)
    found = [Process.find(pid) for pid in children(init) if b"time.sleep(600)" in command(pid)]
    return [process for process in found if process is not None]


def children(pid: int) -> list[int]:
    """The processes that this one is the parent of."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command(pid: int) -> bytes:
    """The command line of a process; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
