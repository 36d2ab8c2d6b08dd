"""A host that the agent starts and that outlives it, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from nodeagent.mps.process import Process
from nodeagent.mps.spawn import SpawnedHost, host_command
from tests.waiting import eventually, eventually_sync, longer

PROJECT = Path(__file__).parents[2]

HOST = """
import os, sys, time
with open(sys.argv[1], "a") as file:
    file.write(f"{os.getpid()} {os.getsid(0)} {os.readlink('/proc/self/fd/0')} {len(os.listdir('/proc/self/fd'))}\\n")
time.sleep(600)
"""


class Hosts:
    """The hosts that were started, by what they have written down."""

    def __init__(self, directory: Path, program: str = HOST) -> None:
        self._file = directory / "started"
        self._file.touch()
        self.command = [sys.executable, "-c", program, str(self._file)]

    @property
    def told(self) -> list[list[str]]:
        """What each has said of itself."""
        return [line.split() for line in self._file.read_text().splitlines()]

    async def nth(self, number: int) -> Process:
        """The one after so many starts."""
        await eventually(lambda: len(self.told) >= number)
        found = Process.find(int(self.told[number - 1][0]))
        assert found is not None
        return found

    def end(self) -> None:
        """None is left."""
        for pid, *_ in self.told:
            if (process := Process.find(int(pid))) is not None and str(self._file) in command(process.pid):
                process.signal(signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(int(pid), 0)


def command(pid: int) -> str:
    """The command line of a process; nothing when it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


@asynccontextmanager
async def keeping(hosts: Hosts, *, first_pause: float = 0.01) -> AsyncIterator[SpawnedHost]:
    """Keeps a host while it is needed; every host is gone afterwards."""
    host = SpawnedHost(hosts.command, first_pause=first_pause)
    task = asyncio.create_task(host.run())
    try:
        yield host
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.wait([task])
        hosts.end()


async def test_one_is_started_when_it_is_needed(tmp_path: Path) -> None:
    """One host is started, however often it is said that one is needed."""
    hosts = Hosts(tmp_path)
    async with keeping(hosts) as host:
        host.need(needed=True)
        first = await hosts.nth(1)
        for _ in range(10):
            host.need(needed=True)
            host.need(needed=False)
        host.need(needed=True)
        await asyncio.sleep(0)
        assert first.alive()
        assert len(hosts.told) == 1
        assert host.message == ""


async def test_none_is_started_before(tmp_path: Path) -> None:
    """Nothing is started as long as no host is needed."""
    hosts = Hosts(tmp_path)
    hosts.command[0] = "/nonexistent/python"  # which would be told at once
    async with keeping(hosts) as host:
        host.need(needed=False)
        for _ in range(10):
            await asyncio.sleep(0)
        assert host.message == ""


async def test_what_it_gets(tmp_path: Path) -> None:
    """A host has a session of its own, nothing to read, and no file of the agent's but where to log."""
    hosts = Hosts(tmp_path)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(descriptor, True)
    async with keeping(hosts) as host:
        host.need(needed=True)
        first = await hosts.nth(1)
        # stdin, stdout, stderr, its own file, and the directory that it lists
        assert hosts.told == [[str(first.pid), str(first.pid), "/dev/null", "5"]]
    os.close(descriptor)


async def test_one_that_ends_is_started_again(tmp_path: Path) -> None:
    """A host that ends is reaped, and started again while one is needed; why none runs is told until then."""
    hosts = Hosts(tmp_path)
    async with keeping(hosts) as host:
        host.need(needed=True)
        for number in (1, 2, 3):
            (await hosts.nth(number)).signal(signal.SIGKILL)
            await eventually(lambda: host.message == "the MPS host has ended with exit code -9")
        last = await hosts.nth(4)
        for pid, *_ in hosts.told[:3]:
            assert not Path(f"/proc/{pid}").exists()
        host.need(needed=False)  # the lock is held
        assert host.message == ""
        last.signal(signal.SIGKILL)
        await eventually(lambda: host.message != "")
        assert len(hosts.told) == 4


async def test_it_is_not_started_in_a_hurry(tmp_path: Path) -> None:
    """A host that cannot start is tried again after a pause, which doubles."""
    hosts = Hosts(tmp_path, "import os, sys; open(sys.argv[1], 'a').write(f'{os.getpid()}\\n'); sys.exit(7)")
    async with keeping(hosts, first_pause=0.2) as host:
        host.need(needed=True)
        begun = asyncio.get_running_loop().time()
        await eventually(lambda: len(hosts.told) == 4)
        assert asyncio.get_running_loop().time() - begun >= 0.2 + 0.4 + 0.8
        assert host.message == "the MPS host has ended with exit code 7"


async def test_one_that_cannot_be_executed(tmp_path: Path) -> None:
    """A program that is not there is told, and tried again until it is."""
    hosts = Hosts(tmp_path)
    program = tmp_path / "python"
    hosts.command[0] = str(program)
    async with keeping(hosts) as host:
        host.need(needed=True)
        await eventually(lambda: host.message.startswith("cannot start the MPS host: "))
        program.symlink_to(sys.executable)
        assert (await hosts.nth(1)).alive()


def test_it_outlives_the_agent(tmp_path: Path) -> None:
    """A host goes on when the agent is killed, when it ends, and when its terminal says so."""
    hosts = Hosts(tmp_path)
    agent = (
        "import asyncio, signal, sys; from nodeagent.mps.spawn import SpawnedHost\n"
        # A shell starts what it runs in the background without it.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "async def main():\n"
        "    host = SpawnedHost(sys.argv[1:]); host.need(needed=True)\n"
        "    await host.run()\n"
        "asyncio.run(main())\n"
    )
    try:
        for number, ending in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGINT), start=1):
            with subprocess.Popen(
                [sys.executable, "-c", agent, *hosts.command],
                cwd=PROJECT,
                stdin=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            ) as running:
                eventually_sync(lambda: len(hosts.told) == number)  # noqa: B023
                os.killpg(running.pid, ending)
                running.wait(longer(10))
            found = Process.find(int(hosts.told[number - 1][0]))
            assert found is not None
            assert found.alive()
            assert hosts.told[number - 1][2] == "/dev/null"
    finally:
        hosts.end()


async def test_one_left_alone_is_no_complaint(tmp_path: Path) -> None:
    """An agent that ends leaves its host behind without a warning: here every warning is an error."""
    hosts = Hosts(tmp_path)
    async with keeping(hosts) as host:
        host.need(needed=True)
        first = await hosts.nth(1)
        assert first.alive()


def test_its_command() -> None:
    """The host of an agent is the same program, with the options that they have in common."""
    command = host_command(
        Path("/run/nodeagent/mps"),
        driver="simulated:node.yaml",
        driver_root=Path("/run/nvidia/driver"),
        nvml_library=None,
        program="nvidia-cuda-mps-control",
        shm_size="1Gi",
        node_name="node-1",
        log_format="json",
        log_level="debug",
    )
    assert command[:4] == [sys.executable, "-m", "nodeagent", "mps-host"]
    assert command[4:] == [
        "--mps-root=/run/nodeagent/mps",
        "--driver=simulated:node.yaml",
        "--driver-root=/run/nvidia/driver",
        "--nvml-library=",
        "--mps-control=nvidia-cuda-mps-control",
        "--shm-size=1Gi",
        "--node-name=node-1",
        "--log-format=json",
        "--log-level=debug",
    ]
