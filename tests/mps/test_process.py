"""Processes known by pid and start time, and those of MPS among them."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.mps.process import (
    MpsProcess,
    Process,
    mps_processes,
    parse_command,
    parse_environment,
    parse_stat,
)
from tests.mps.support import OTHER, UUID, Daemons
from tests.waiting import eventually

STAT = b"S 1 1 1 0 -1 4194560 5 0 0 0 0 0 0 0 20 0 1 0 4711 12 34\n"


@contextmanager
def sleeper() -> Iterator[tuple[subprocess.Popen[bytes], Process]]:
    """A process that does nothing, and its identity."""
    with subprocess.Popen(["sleep", "600"]) as child:
        try:
            found = Process.find(child.pid)
            assert found is not None
            yield child, found
        finally:
            child.kill()


class TestIdentity:
    """A process is its pid and its start time."""

    def test_ourselves(self) -> None:
        """The process that asks is found and lives."""
        found = Process.find(os.getpid())
        assert found is not None
        assert found.pid == os.getpid()
        assert found.alive()
        assert Process.find(os.getpid()) == found

    @pytest.mark.parametrize("pid", [-1, 0, 2**22 + 1])
    def test_nobody(self, pid: int) -> None:
        """A number that no process has is nobody's."""
        assert Process.find(pid) is None

    def test_a_zombie_is_gone(self) -> None:
        """A process that has ended and is not reaped is gone: it is not found, does not live, cannot be signalled."""
        with sleeper() as (child, found):
            child.kill()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            assert Path(f"/proc/{child.pid}").exists()
            assert Process.find(child.pid) is None
            assert not found.alive()
            assert not found.signal(signal.SIGTERM)
            child.wait()
            assert not found.alive()
            assert not found.signal(signal.SIGTERM)

    def test_another_process_of_the_same_pid(self) -> None:
        """A pid that is another process's now is signalled no more: the start time tells."""
        with sleeper() as (child, found):
            before = Process(found.pid, found.start_time - 1)
            assert not before.alive()
            assert not before.signal(signal.SIGKILL)
            assert child.poll() is None
            assert found.signal(signal.SIGKILL)
            assert child.wait() == -signal.SIGKILL

    def test_an_odd_name(self, tmp_path: Path) -> None:
        """A process may be named like the rest of its line in /proc, and is found all the same."""
        odd = tmp_path / "a) Z 1 (b"
        shutil.copy(shutil.which("sleep") or "", odd)
        with subprocess.Popen([odd, "600"]) as child:
            try:
                found = Process.find(child.pid)
                ours = Process.find(os.getpid())
                assert found is not None
                assert ours is not None
                assert found.start_time >= ours.start_time
            finally:
                child.kill()

    @given(st.binary(max_size=15), st.sampled_from([b"R", b"S", b"D", b"T", b"t", b"I"]))
    def test_any_name(self, name: bytes, state: bytes) -> None:
        """Whatever the name holds, the start time is the one of the kernel."""
        assert parse_stat(b"17 (" + name + b") " + state + STAT[1:]) == 4711

    @pytest.mark.parametrize("state", [b"Z", b"X", b"x"])
    def test_states_of_the_dead(self, state: bytes) -> None:
        """What has ended has no start time any more, however far it is gone."""
        assert parse_stat(b"17 (sleep) " + state + STAT[1:]) is None

    @given(st.binary(max_size=200))
    def test_any_bytes(self, data: bytes) -> None:
        """Bytes that the kernel does not write are nobody's, and raise nothing."""
        parse_stat(data)
        parse_command(data)
        parse_environment(data)


class TestEnding:
    """The end of a process that is not our child is known at once."""

    async def test_it_is_waited_for(self) -> None:
        """The end is told when it comes, reaped or not; waiting again says the same."""
        with sleeper() as (child, found):
            waiting = asyncio.create_task(found.ended())
            assert not await found.ended(0.01)
            assert not waiting.done()
            child.kill()
            assert await waiting
            assert await found.ended(0.0)
            child.wait()
            assert await found.ended()

    async def test_several_wait(self) -> None:
        """Several may wait for the same process, and one that gives up disturbs no other."""
        with sleeper() as (child, found):
            first, second = (asyncio.create_task(found.ended(60)) for _ in range(2))
            assert not await found.ended(0.01)
            first.cancel()
            child.kill()
            assert await second
            assert (await asyncio.gather(first, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    async def test_a_stopped_process_has_not_ended(self) -> None:
        """A process that is stopped lives, and dies of SIGKILL."""
        with sleeper() as (_, found):
            assert found.signal(signal.SIGSTOP)
            assert not await found.ended(0.05)
            assert found.signal(signal.SIGKILL)
            assert await found.ended(5)

    async def test_no_descriptor_is_left(self) -> None:
        """Neither a signal nor waiting leaves a descriptor open."""
        before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
        with sleeper() as (_, found):
            for _ in range(10):
                found.signal(signal.SIGCONT)
                await found.ended(0.0)
        await found.ended()
        assert len(os.listdir("/proc/self/fd")) == before  # noqa: PTH208


class TestProcessesOfMps:
    """Daemons, servers and clients below a root are found by what they are and where their sockets are."""

    async def test_daemons(self, daemons: Daemons) -> None:
        """Every daemon below the root is found with its GPU, and is gone from the list when it has ended."""
        one, other = daemons.start(UUID), daemons.start(OTHER)
        pipes = daemons.layout.pipe(UUID), daemons.layout.pipe(OTHER)
        found = mps_processes(daemons.root)
        assert sorted(found, key=lambda entry: entry.uuid or "") == [
            MpsProcess(one, "daemon", pipes[0], UUID),
            MpsProcess(other, "daemon", pipes[1], OTHER),
        ]
        one.signal(signal.SIGKILL)
        assert await one.ended(5)
        assert [entry.uuid for entry in mps_processes(daemons.root)] == [OTHER]

    def test_another_root(self, daemons: Daemons, tmp_path: Path) -> None:
        """What is below another root is nobody's business, also when that begins with the same letters."""
        daemons.start()
        assert mps_processes(tmp_path) == []
        assert mps_processes(Path(str(daemons.root)[:-1])) == []
        assert len(mps_processes(daemons.root.parent)) >= 1

    async def test_clients(self, daemons: Daemons) -> None:
        """A client that waits for its daemon is no daemon."""
        process = daemons.start()
        process.signal(signal.SIGSTOP)
        asking = asyncio.create_task(daemons.control(deadline=30).ask("ps"))
        await eventually(lambda: kinds(daemons.root) == ["client", "daemon"])
        asking.cancel()
        await eventually(lambda: kinds(daemons.root) == ["daemon"])

    async def test_servers(self, mps_root: Path) -> None:
        """A server is known by its name; one whose pipe directory is not that of a GPU has no uuid."""
        server = mps_root / "nvidia-cuda-mps-server"
        shutil.copy(shutil.which("sleep") or "", server)
        pipe = mps_root / UUID / "pipe" / "deeper"
        with subprocess.Popen([server, "600"], env={"CUDA_MPS_PIPE_DIRECTORY": str(pipe)}) as child:
            try:
                found = await eventually(lambda: mps_processes(mps_root))
                assert found == [MpsProcess(found[0].process, "server", pipe, None)]
                assert found[0].process.pid == child.pid
            finally:
                child.kill()

    def test_others_of_the_name(self, mps_root: Path) -> None:
        """A process that only has the name, or only the variable, is not of MPS."""
        named = mps_root / "nvidia-cuda-mps-other"
        shutil.copy(shutil.which("sleep") or "", named)
        environment = {"CUDA_MPS_PIPE_DIRECTORY": str(mps_root / UUID / "pipe"), "PATH": os.environ["PATH"]}
        with (
            subprocess.Popen([named, "600"], env=environment) as one,
            subprocess.Popen(["sleep", "600"], env=environment) as other,
        ):
            try:
                assert mps_processes(mps_root) == []
            finally:
                one.kill()
                other.kill()

    @pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which root alone can")
    def test_what_cannot_be_read(self, daemons: Daemons) -> None:
        """Who may not look into a process leaves it out."""
        daemons.start()
        looking = (
            "import os, sys; from pathlib import Path; from nodeagent.mps.process import mps_processes;"
            "os.setgroups([]); os.setuid(65534); print(mps_processes(Path(sys.argv[1])))"
        )
        told = subprocess.run(
            [sys.executable, "-c", looking, str(daemons.root)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
        )
        assert told.stdout == "[]\n"

    async def test_processes_that_come_and_go(self, mps_root: Path) -> None:
        """Processes that end while one looks do no harm."""
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            with subprocess.Popen(["true"]):
                assert mps_processes(mps_root) == []

    @pytest.mark.parametrize(
        ("command", "kind"),
        [
            (b"nvidia-cuda-mps-control\0-d\0", "daemon"),
            (b"/usr/bin/nvidia-cuda-mps-control\0-d\0", "daemon"),
            (b"/usr/bin/nvidia-cuda-mps-control\0-f\0", "daemon"),
            (b"nvidia-cuda-mps-control\0", "client"),
            (b"nvidia-cuda-mps-server\0", "server"),
            (b"nvidia-cuda-mps-other\0-d\0", None),
            (b"", None),
        ],
    )
    def test_kinds(self, command: bytes, kind: str | None) -> None:
        """A daemon is told from its server and its clients by the command line."""
        assert parse_command(command) == kind

    def test_the_variable(self) -> None:
        """The pipe directory is that of the variable of exactly this name; without it there is none."""
        assert parse_environment(b"X=1\0CUDA_MPS_PIPE_DIRECTORY=/run/m\xff\0") == Path(os.fsdecode(b"/run/m\xff"))
        assert parse_environment(b"MY_CUDA_MPS_PIPE_DIRECTORY=/x\0CUDA_MPS_PIPE_DIRECTORY_=/y\0") is None


def test_a_parent() -> None:
    """A process has the parent that the kernel says, and none when it has ended or was another one."""
    with sleeper() as (child, found):
        assert found.parent() == os.getpid()
        assert Process(found.pid, found.start_time - 1).parent() is None
        child.kill()
        child.wait()
        assert found.parent() is None


def test_who_cannot_look_at_all_sees_not_nobody(daemons: Daemons) -> None:
    """Where a process cannot be looked at for want of descriptors that is an error: it may be one of MPS."""
    daemons.start()
    # The last descriptor goes when the first process is looked at.
    looking = """
import resource, sys
from pathlib import Path
from nodeagent.mps.process import mps_processes

def use_up(event, arguments):
    if event == "open" and str(arguments[0]).endswith("/comm"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 4096))

sys.addaudithook(use_up)
try:
    print(mps_processes(Path(sys.argv[1])))
except OSError as error:
    print(error.strerror)
"""
    command = [sys.executable, "-c", looking, str(daemons.root)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert told.stdout == "Too many open files\n"


def kinds(root: Path) -> list[str]:
    """What runs below the root."""
    return sorted(entry.kind for entry in mps_processes(root))


def test_who_cannot_be_looked_at_is_not_dead() -> None:
    """Without a free descriptor nobody can tell whether a process lives: that is an error, no reason to replace it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            Process.find(os.getpid())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
