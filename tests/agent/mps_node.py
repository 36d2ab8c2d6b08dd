"""A node whose GPUs come under MPS: the real control daemon, a real MPS host, and no GPU.

An agent on it runs with `--mps-host external` unless a test says otherwise. When the node is closed nothing of MPS is
left behind, whatever the test did.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from nodeagent.devices.compute_modes import ComputeModes
from nodeagent.model.config import Contract
from nodeagent.model.inventory import ComputeMode
from nodeagent.mps.control import Control, ControlError
from nodeagent.mps.files import Layout, Observed, decode_desired, decode_observed
from nodeagent.mps.process import MpsProcess, Process, mps_processes
from nodeagent.settings import Settings
from tests.agent.harness import Node, uuid
from tests.mps.support import unmount_below
from tests.waiting import WITHIN, eventually, longer

_STOPS_WITHIN = 8.0


class Host:
    """One MPS host as a process. With `init` it is the child of the tiny init that a container has as PID 1."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def child(self) -> Process | None:
        """The host that an init has started; None while there is none."""
        found = [pid for pid, _ in _hosts() if _parent(pid) == self.process.pid]
        return Process.find(found[0]) if found else None

    async def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does. Nothing when it has ended."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """SIGTERM. Nothing when it has ended."""
        await self._end(signal.SIGTERM)

    async def _end(self, number: signal.Signals) -> None:
        if self.process.returncode is None:
            self.process.send_signal(number)
            await asyncio.wait_for(self.process.wait(), longer(_STOPS_WITHIN))


class MpsNode(Node):
    """Eight GPUs, and daemons that are started by `control`, the path of nvidia-cuda-mps-control."""

    def __init__(self, control: Path, *, shm_size: str = "0", **options: Any) -> None:  # noqa: ANN401 - see Node
        super().__init__(**options)
        self.layout = Layout(self.directory / "mps")
        self._control = control
        self._shm_size = shm_size
        self._hosts: list[Host] = []

    def settings(self, **changes: Any) -> Settings:  # noqa: ANN401 - fields of Settings
        """The options of an agent on this node."""
        options: dict[str, Any] = {
            "mps_host": "external",
            "mps_root": self.layout.root,
            "mps_control": str(self._control),
            "mps_shm_size": self._shm_size,
        }
        return super().settings(**{**options, **changes})

    async def host(self, *, init: bool = False, release: Path | None = None) -> Host:
        """Start an MPS host, and wait for nothing. `release` is where the code of another one is."""
        log = self.directory / f"host-{len(self._hosts)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nodeagent", "mps-host", "--mps-root", str(self.layout.root)),
                *("--driver", f"simulated:{self.simulation}", "--node-name", "node-a"),
                *("--mps-control", str(self._control), "--shm-size", self._shm_size),
                *(["--init"] if init else []),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=release,
            )
        self._hosts.append(Host(process, log))
        return self._hosts[-1]

    # --- what is to be seen ---

    def daemons(self) -> dict[int, Process]:
        """The daemons that run, by index of their GPU. Fails where a GPU has two, or one is of no GPU."""
        found: dict[int, Process] = {}
        indices = {uuid(index): index for index in range(64)}
        for one in self.mps_processes():
            if one.kind == "daemon":
                assert one.uuid in indices, one
                assert indices[one.uuid] not in found, f"two daemons for one GPU: {one}"
                found[indices[one.uuid]] = one.process
        return found

    def mps_processes(self) -> list[MpsProcess]:
        """Every process of MPS whose pipe directory is on this node."""
        return mps_processes(self.layout.root)

    def control(self, index: int) -> Control:
        """Asks the daemon of a GPU, as anybody can."""
        return Control(self.layout.pipe(uuid(index)), program=str(self._control))

    async def has(self, index: int, memory: int, threads: int) -> bool:
        """Whether the daemon of a GPU allows a client so many MiB and percent, as far as it says."""
        return (await self.control(index).limits()).fits(memory, threads)

    async def are(self, indices: Iterable[int], memory: int, threads: int) -> bool:
        """Whether the daemons of these GPUs do, all of them."""
        try:
            return all([await self.has(index, memory, threads) for index in indices])
        except ControlError:
            return False

    async def runs(self, *indices: int, within: float = WITHIN) -> dict[int, Process]:
        """Wait until exactly these GPUs have a daemon; which."""

        def seen() -> bool:
            have = self.daemons()
            assert have.keys() == set(indices), f"daemons run for GPUs {sorted(have)}"
            return True

        await eventually(seen, within=within)
        return self.daemons()

    def observed(self) -> Observed:
        """What the host says."""
        return decode_observed(self.layout.observed.read_bytes())

    def desired(self) -> dict[str, Contract]:
        """The daemons that the host is asked for, by uuid."""
        try:
            return decode_desired(self.layout.desired.read_bytes())
        except FileNotFoundError:
            return {}

    def compute_modes(self) -> dict[int, str]:
        """The compute modes that were set on the simulated GPUs, by index; those that never were are left out."""
        file = self.simulation.with_name(f"{self.simulation.name}.compute-modes.json")
        if not file.exists():
            return {}
        modes = json.loads(file.read_bytes())
        return {index: modes[uuid(index)] for index in range(64) if uuid(index) in modes}

    def set_compute_mode(self, index: int, mode: ComputeMode) -> None:
        """As `nvidia-smi -c` does."""
        unset = ComputeMode.PROHIBITED if mode is ComputeMode.DEFAULT else ComputeMode.DEFAULT
        ComputeModes(self.simulation).keep(uuid(index), mode, unset)

    # --- life ---

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await asyncio.gather(*(agent.stop() for agent in self._agents))
            await asyncio.gather(*(host.stop() for host in self._hosts))
            # A host that an agent spawned outlives it, as it must: it is found by the root that it keeps.
            await _end([process for pid in _hosts_of(self.layout.root) if (process := Process.find(pid)) is not None])
            await _end([one.process for one in self.mps_processes()])
            unmount_below(self.layout.root)
        finally:
            logs = [host.log for host in self._hosts]
            await super().__aexit__(kind, error, trace)
        assert not any("Traceback" in log for log in logs), "\n".join(logs)


async def _end(processes: list[Process]) -> None:
    for process in processes:
        process.signal(signal.SIGKILL)
    await asyncio.gather(*(process.ended(_STOPS_WITHIN) for process in processes))


def _hosts() -> list[tuple[int, list[bytes]]]:
    """Every MPS host, and every init of one: pid and command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mps-host" in words:
                found.append((int(entry.name), words))
    return found


def _hosts_of(root: Path) -> list[int]:
    named = {os.fsencode(root), b"--mps-root=" + os.fsencode(root)}
    return [pid for pid, words in _hosts() if named & {*words}]


def _parent(pid: int) -> int | None:
    try:
        data = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(data[data.rfind(b")") + 1 :].split()[1])
