"""A node to measure on: the stand-in kubelet in this process, the agent in one of its own, as on a real node.

What an agent costs can only be seen from outside of it, and only where nothing else runs in its process.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http.client
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nodeagent.sim.git_mount import MountedConfigMap
from nodeagent.sim.kubelet import StandInKubelet

RESOURCE = "nvidia.com/gpu.shared"
GPUS = 8
COMMAND: Sequence[str] = (sys.executable, "-m", "nodeagent", "run")

_TICKS = os.sysconf("SC_CLK_TCK")
_SIMULATED = f"""\
apiVersion: nodeagent.io/v1alpha1
kind: SimulatedNode
gpus:
  - {{model: NVIDIA H100 80GB HBM3, memory: 80Gi, computeCapability: "9.0", count: {GPUS}}}
"""


def sharing(replicas: int) -> bytes:
    """A config that makes this many shares of every GPU."""
    return f"""\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {{name: measured}}
spec:
  rules:
    - name: every-gpu
      resource: {RESOURCE}
      timeSlicing: {{replicas: {replicas}}}
""".encode()


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process takes, in MiB. In `pss` a page that two processes map counts by half, in `rss` it counts whole."""

    pss: float
    rss: float


class AgentProcess:
    """One `nodeagent run`. `started_at` in monotonic seconds, just before the process was made."""

    def __init__(self, process: asyncio.subprocess.Process, started_at: float, port: int) -> None:
        self._process = process
        self.started_at = started_at
        self.port = port

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time of the process since its start, all threads together."""
        text = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        user, system = text.rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / _TICKS

    def memory(self) -> Memory:
        """What the process takes now."""
        found = dict(
            re.findall(r"^(\w+): +(\d+) kB", Path(f"/proc/{self.pid}/smaps_rollup").read_text("ascii"), re.MULTILINE)
        )
        return Memory(int(found["Pss"]) / 1024, int(found["Rss"]) / 1024)

    async def reload_seconds(self) -> float:
        """How long the last reload took from the watcher's wake-up on, as the agent says itself."""
        answer = await asyncio.to_thread(self._get, "/status")
        seconds: float = json.loads(answer)["reloads"][0]["durationSeconds"]
        return seconds

    def _get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10.0)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return connection.getresponse().read()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait until the process is gone. Returns its status; nothing is sent to one that is gone."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)
        return await self._process.wait()


class Node:
    """A directory with everything an agent needs: a mounted config, GPUs, a kubelet, and a place for its state."""

    def __init__(self, directory: Path, kubelet: StandInKubelet, gpus: str) -> None:
        self.directory = directory
        self.kubelet = kubelet
        self.mount = MountedConfigMap(directory / "config")
        self.gpus = directory / "node" / "gpus.yaml"
        self.gpus.parent.mkdir()
        self.gpus.write_text(gpus, encoding="utf-8")
        self.log = directory / "log" / "agent.log"  # in no directory that the agent watches
        self.log.parent.mkdir()

    def commit(self, replicas: int) -> float:
        """Swap the mounted config; the monotonic second just before it."""
        at = time.monotonic()
        self.mount.write({"sharing.yaml": sharing(replicas)})
        return at

    async def start_agent(self, *options: str) -> AgentProcess:
        """Start an agent on this node, with further options. It has not necessarily done anything when this returns."""
        port = _free_port()
        with self.log.open("ab") as log:
            started_at = time.monotonic()
            process = await asyncio.create_subprocess_exec(
                *COMMAND,
                f"--config={self.mount.directory}",
                f"--driver=simulated:{self.gpus}",
                f"--kubelet-dir={self.kubelet.directory}",
                f"--state-dir={self.directory / 'state'}",
                f"--cgroup-root={self.directory / 'cgroups'}",
                f"--listen=127.0.0.1:{port}",
                "--node-name=measured",
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(),
            )
        return AgentProcess(process, started_at, port)

    def _converged(self, count: int) -> bool:
        """Whether the newest list is exactly this many healthy shares, and the kubelet has it."""
        devices = self.kubelet.devices(RESOURCE)
        return len(devices) == count and all(devices.values())

    async def reload(self, replicas: int) -> float:
        """Commit, and wait until nothing leaves the list any more. Returns the seconds from the swap until the list
        came.
        """
        at = self.commit(replicas)
        arrival = 0.0

        def arrived() -> bool:
            nonlocal arrival
            newest = self.kubelet.record.newest(RESOURCE)
            if not arrival and newest is not None and len(newest.healthy) == replicas * GPUS:
                arrival = newest.at
            return bool(arrival)

        await self.until(arrived)
        await self.until(lambda: self._converged(replicas * GPUS))
        return arrival - at

    async def until(self, condition: Callable[[], bool], within: float = 30.0) -> None:
        """Wait for a condition. Raises TimeoutError, with the end of the agent's log."""
        deadline = time.monotonic() + within
        while not condition():
            if time.monotonic() > deadline:
                lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
                raise TimeoutError("the node did not get there; the agent's log ends:\n" + "\n".join(lines))
            await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def node(*, calls_per_second: float | None = 100.0, gpus: str = _SIMULATED) -> AsyncIterator[Node]:
    """A node with a running kubelet and no agent, in a directory that goes when it ends. `gpus` is its simulation
    file.
    """
    with tempfile.TemporaryDirectory(prefix="node-") as directory:
        kubelet = StandInKubelet(Path(directory) / "k", calls_per_second=calls_per_second, history_limit=100)
        async with kubelet:
            yield Node(Path(directory), kubelet, gpus)


@contextlib.asynccontextmanager
async def serving(replicas: int) -> AsyncIterator[tuple[Node, AgentProcess]]:
    """A node whose agent has made this many shares of every GPU, and has taken some away before: for a while after its
    start an agent takes nothing away.
    """
    async with node() as found:
        agent = await found.start_agent()
        try:
            for count in (replicas, replicas - 1, replicas):
                await found.reload(count)
            yield found, agent
        finally:
            await agent.end(signal.SIGKILL)


@functools.cache
def _bytecode() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bytecode-")


def _environment() -> dict[str, str]:
    """Ours, with a place for bytecode: it is warm from the second agent on, whatever the installation allows."""
    ours = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**ours, "PYTHONPYCACHEPREFIX": _bytecode().name}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
