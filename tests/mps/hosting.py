"""A node for tests of the MPS host: simulated GPUs, a root for daemons, and the wishes of an agent.

A host runs in the test's own loop (`Node.host`) or as a process of its own (`Node.process`: signals, SIGKILL). The
daemons are NVIDIA's own. When a node is closed nothing of MPS is left, whatever the test did, and no host has had a
fault of its own.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from nodeagent.devices.simulated import SimulatedDriver
from nodeagent.durable import atomic
from nodeagent.durable.formats import FORMATS, Formats
from nodeagent.model.config import Contract, Mode, MpsLimits
from nodeagent.model.mps import DaemonState
from nodeagent.mps.control import Control, ControlError
from nodeagent.mps.files import Layout, Observed, ObservedDaemon, decode_observed, encode_desired
from nodeagent.mps.host import MpsHost, Unusable
from nodeagent.mps.lifecycle import Timing
from nodeagent.mps.process import Process, mps_processes
from nodeagent.watcher import DirectoryWatch
from tests.mps.support import end_all, unmount_below
from tests.waiting import eventually, eventually_sync, longer

UUIDS = tuple(f"GPU-{number}0000000-0000-0000-0000-000000000000" for number in range(4))
UUID, OTHER, THIRD, FOURTH = UUIDS

# Checks come often. What bounds a daemon that does not answer is long: a busy machine is no daemon that hangs.
QUICK = Timing(
    check_every=0.1,
    answers_within=5.0,
    silent_at_most=30.0,
    look_again=0.1,
    first_pause=0.1,
    longest_pause=0.5,
    strays_every=0.5,
    tries_every=0.2,
)
IMPATIENT = Timing(check_every=0.1, answers_within=0.5, silent_at_most=1.5, ends_within=1.0, look_again=0.1)

_STOPS_WITHIN = 8.0


def contract(memory: int = 9216, threads: int = 25, *, most: int = 1) -> Contract:
    """What shares of these limits are."""
    return Contract("nvidia.com/gpu.mps", Mode.MPS, MpsLimits(memory, threads, most))


class Host:
    """A host in the loop of the test."""

    def __init__(self, node: Node, timing: Timing, program: str, shm_size: int, formats: Formats) -> None:
        self._watch = DirectoryWatch()
        driver = SimulatedDriver(
            node.simulation,
            node_name="node",
            subscribe=self._watch.subscribe,
            wake=lambda: self.host.look_again(),  # noqa: PLW0108 - it comes later
        )
        self.host = MpsHost(
            node.layout.root,
            gpus=driver,
            subscribe=self._watch.subscribe,
            program=program,
            shm_size=shm_size,
            timing=timing,
            formats=formats,
        )
        parts = (self._watch.run(), driver.run(), self.host.run())
        self._tasks = [asyncio.create_task(part) for part in parts]

    async def ended(self) -> None:
        """Wait for its end, and raise what it ended with: to be called once."""
        await self._tasks.pop()

    async def stop(self) -> None:
        """Cancel it, as SIGTERM does."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError, Unusable):
                await task


class HostProcess:
    """A host as a process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    async def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    async def ended(self) -> int:
        """The exit code."""
        return await asyncio.wait_for(self.process.wait(), longer(30))

    async def _end(self, number: signal.Signals) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), longer(_STOPS_WITHIN))


class Node:
    """Four GPUs without an agent. Use with `async with`; hosts are started by the test."""

    def __init__(self, program: Path) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="na-"))  # a socket's path is short
        self.layout = Layout(self.directory / "mps")
        self.simulation = self.directory / "node.yaml"
        self.program = program
        self.hosts: list[Host | HostProcess] = []
        self._faults = _Faults()
        self._wanted: dict[str, Contract] = {}
        self.simulate()

    # --- what there is, and what is asked for ---

    def simulate(
        self,
        processes: Mapping[str, Sequence[Mapping[str, object]]] | None = None,
        *,
        hanging: str | None = None,
        mode: str = "default",
    ) -> None:
        """Have GPUs with these processes by uuid, `hanging` one that does not answer, all in this compute mode."""
        document = {
            "apiVersion": "nodeagent.io/v1alpha1",
            "kind": "SimulatedNode",
            "gpus": [
                {
                    "uuid": uuid,
                    "model": "NVIDIA H100 80GB HBM3",
                    "memory": "80Gi",
                    "computeCapability": "9.0",
                    "health": "hang" if uuid == hanging else "ok",
                    "computeMode": mode,
                    "processes": list((processes or {}).get(uuid, ())),
                }
                for uuid in UUIDS
            ],
        }
        atomic.write(self.simulation, json.dumps(document).encode(), sync=False)

    def want(self, daemons: Mapping[str, Contract]) -> None:
        """Ask for exactly these, as the agent does."""
        self.layout.root.mkdir(exist_ok=True)
        atomic.write(self.layout.desired, encode_desired(daemons), sync=False)

    # --- hosts ---

    async def host(
        self,
        timing: Timing = QUICK,
        *,
        program: str | None = None,
        shm_size: int = 0,
        second: bool = False,
        formats: Formats = FORMATS,
    ) -> Host:
        """Start a host in this loop. What is told from now on is told by it, unless it is the second one."""
        if not second:
            self.layout.observed.unlink(missing_ok=True)
        host = Host(self, timing, program or str(self.program), shm_size, formats)
        self.hosts.append(host)
        return host

    async def process(
        self, *flags: str, shm_size: str = "0", second: bool = False, by: Sequence[str] = ()
    ) -> HostProcess:
        """Start a host as a process, by way of another program or not, and wait for nothing."""
        if not second:
            self.layout.observed.unlink(missing_ok=True)
        log = self.directory / f"host-{len(self.hosts)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(*by, sys.executable, "-m", "nodeagent", "mps-host", "--mps-root", str(self.layout.root)),
                *("--driver", f"simulated:{self.simulation}", "--node-name", "node", "--shm-size", shm_size),
                *("--mps-control", str(self.program), *flags),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        host = HostProcess(process, log)
        self.hosts.append(host)
        return host

    # --- what is to be seen ---

    def observed(self) -> Observed:
        """What the host says."""
        data = atomic.read(self.layout.observed)
        assert data is not None, "no host has told anything"
        return decode_observed(data)

    def daemon(self, uuid: str = UUID) -> ObservedDaemon:
        """What the host says of one daemon."""
        found = self.observed().daemons
        assert uuid in found, f"there is none among {found}"
        return found[uuid]

    async def told(
        self, state: DaemonState, uuid: str = UUID, *, message: str | None = None, within: float = 10.0
    ) -> ObservedDaemon:
        """Wait until the host says this of a daemon."""

        def seen() -> bool:
            found = self.daemon(uuid)
            assert found.state is state, found
            assert message is None or message in found.message, found
            return True

        await eventually(seen, within=within)
        return self.daemon(uuid)

    async def ready(self, wanted: Mapping[str, Contract], *, within: float = 20.0) -> dict[str, Process]:
        """Wait until exactly these daemons are told to be ready, run, and have their limits; which processes."""

        async def seen() -> bool:
            found = self.observed().daemons
            assert found.keys() == wanted.keys(), found
            for uuid, asked in wanted.items():
                assert (found[uuid].state, found[uuid].contract) == (DaemonState.READY, asked), found[uuid]
            running = self.running()
            assert running.keys() == wanted.keys(), running
            for uuid, asked in wanted.items():
                told = found[uuid]
                assert told.pid is not None
                assert told.start_time is not None
                assert running[uuid] == Process(told.pid, told.start_time)
                assert asked.limits is not None
                try:
                    limits = await self.control(uuid).limits()
                except ControlError as error:  # it has gone since
                    raise AssertionError(str(error)) from error
                assert limits.fits(*asked.limits.times(asked.limits.most)), limits
            return True

        await eventually(seen, within=within, every=0.05)
        return self.running()

    async def gone(self, *, within: float = 20.0) -> None:
        """Wait until there is no daemon, none is told of, and each GPU has the compute mode that it had."""

        def seen() -> bool:
            assert self.observed().daemons == {}
            assert self.running() == {}
            assert self.modes() == {}, self.modes()
            return True

        await eventually(seen, within=within)

    def running(self) -> dict[str, Process]:
        """The daemons that run, by uuid. Fails where a GPU has two, or one is of no GPU."""
        found: dict[str, Process] = {}
        for one in mps_processes(self.layout.root):
            if one.kind == "daemon":
                assert one.uuid in UUIDS, one
                assert one.uuid not in found, f"two daemons for one GPU: {one}"
                found[one.uuid] = one.process
        return found

    def control(self, uuid: str = UUID) -> Control:
        """Talks to a daemon, as anybody can."""
        return Control(self.layout.pipe(uuid), program=str(self.program), deadline=5.0)

    def modes(self) -> dict[str, str]:
        """The compute modes that are not what the simulation file says, by uuid."""
        file = self.simulation.with_name(f"{self.simulation.name}.compute-modes.json")
        entries = json.loads(self.simulation.read_bytes())["gpus"]
        told = {entry["uuid"]: entry["computeMode"] for entry in entries}
        found = json.loads(file.read_bytes()) if file.exists() else {}
        return {uuid: mode for uuid, mode in found.items() if mode != told[uuid]}

    # --- life ---

    async def __aenter__(self) -> Self:
        logging.getLogger("nodeagent").addHandler(self._faults)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logs = []
        try:
            for host in self.hosts:
                await host.stop()
                logs += [host.log] if isinstance(host, HostProcess) else []
        finally:
            logging.getLogger("nodeagent").removeHandler(self._faults)
            eventually_sync(lambda: end_all(self.layout.root))
            unmount_below(self.layout.root)
            shutil.rmtree(self.directory, ignore_errors=True)
        stacks = [*self._faults.told, *(log for log in logs if "Traceback" in log)]
        assert not stacks, "\n".join(stacks)


class _Faults(logging.Handler):
    """Collects what was logged with a stack."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.told.append(logging.Formatter().format(record))


@asynccontextmanager
async def stand_in_server(node: Node, uuid: str = UUID) -> AsyncIterator[Process]:
    """A process that looks as an MPS server does: its name, and the environment of its daemon, which has none here."""
    script = node.directory / "nvidia-cuda-mps-server"
    if not script.exists():
        # A copy of a program that waits: a script would have the name of its interpreter.
        shutil.copy(shutil.which("sleep") or "/bin/sleep", script)
    server = subprocess.Popen(
        [str(script), "1000"],
        env={"CUDA_MPS_PIPE_DIRECTORY": str(node.layout.pipe(uuid)), "CUDA_VISIBLE_DEVICES": uuid},
        stdin=subprocess.DEVNULL,
    )
    try:
        found = Process.find(server.pid)
        assert found is not None
        await eventually(lambda: any(one.process == found for one in mps_processes(node.layout.root)))
        yield found
    finally:
        server.kill()
        server.wait()


def needs_mounts() -> None:
    """Skip a test where this process may not mount."""
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        reason = f"mounting is not allowed here: {tried.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
