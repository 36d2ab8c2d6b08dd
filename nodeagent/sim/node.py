"""A whole node: simulated GPUs, the stand-in kubelet and the real agent in one process, on real sockets.

Where GPUs come under MPS the agent starts the real MPS host, and that the daemons: processes of their own, which
outlive an agent, and so are ended with the node.
"""

from __future__ import annotations

import asyncio
import errno
import http.client
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from nodeagent.agent import Agent
from nodeagent.devices.compute_modes import ComputeModes
from nodeagent.errors import CannotStart
from nodeagent.model.inventory import ComputeMode
from nodeagent.model.snapshot import Snapshot
from nodeagent.mps.control import PROGRAM
from nodeagent.ownership import Ending
from nodeagent.settings import Settings
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.mps import ControlProgram, Daemons, end_all
from nodeagent.sim.strips import Strip, strips

NODE_NAME = "demo-node"

GPUS = """\
# The GPUs of this node: edit it, and they appear, vanish, fail or are divided.
# What can become of one stands below the last: take the `#` away, and save.
apiVersion: nodeagent.io/v1alpha1
kind: SimulatedNode
driverVersion: "550.163.01"
cudaVersion: "12.4"
gpus:
  - model: NVIDIA H100 80GB HBM3
    memory: 81559Mi
    computeCapability: "9.0"
    count: 7
  - model: NVIDIA H100 80GB HBM3
    memory: 81559Mi
    computeCapability: "9.0"
    # xids: [{code: 79, seq: 1}]    # a fault; with another seq, one more
    # health: lost
    # mig: {devices: ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]}
"""

_EVERY_ADDRESS = ("", "0.0.0.0", "[::]")  # noqa: S104 - only compared with
_LOOK = 0.005
_STOP_SECONDS = 10.0
_TEMPORARY = "nodeagent-"
_LONGEST_TEMPORARY = 18
"""What is left for $TMPDIR of the 41 bytes that the path of an MPS root may have."""


class NotInTime(Exception):
    """Something that the node should have come to did not happen. The message tells what."""


class Node:
    """The kubelet and the agent. `work` is a folder of their own with a short path (it holds unix sockets).

    `config` is the agent's `--config`, `gpus` the simulation file, `mps` the control program of its daemons (None: no
    GPU comes under MPS). With `any_port` another port serves where that of `listen` is taken.
    """

    def __init__(
        self,
        work: Path,
        *,
        config: Path,
        gpus: Path,
        listen: str,
        any_port: bool = False,
        mps: ControlProgram | None = None,
    ) -> None:
        self.kubelet = StandInKubelet(work / "kubelet")
        self.mps = mps
        self.gpus = gpus
        self._modes = ComputeModes(gpus)
        control = mps.path if mps is not None else PROGRAM
        self.daemons = Daemons(work / "mps", control)
        self._settings = Settings(
            config=config,
            driver=f"simulated:{gpus}",
            device_plugins_dir=self.kubelet.device_plugins,
            pod_resources_dir=self.kubelet.pod_resources_dir,
            cgroup_root=work / "cgroups",
            state_dir=work / "state",
            listen=listen,
            node_name=NODE_NAME,
            pool=None,
            mps_host="off" if mps is None else "spawn",
            mps_root=work / "mps",
            mps_control=control,
            mps_shm_size="0",  # anything else has to be mounted
            log_format="text",
            log_level="error",  # of the host, whose log goes where ours does: what it says is shown from the agent
            strict_readiness=False,
        )
        self._any_port = any_port
        self._agent: Agent | None = None
        self._running: asyncio.Task[Ending] | None = None
        self.started_at = 0.0
        """When the agent was started, in monotonic seconds."""

    # --- life ---

    async def start(self) -> None:
        """Start the kubelet, then the agent, and wait for its first summary. Raises CannotStart, OSError."""
        await self.kubelet.start()
        try:
            await self._start_agent(self._settings)
        except CannotStart as error:
            cause = error.__cause__
            if not (self._any_port and isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE):
                raise
            host, _, _ = self._settings.listen.rpartition(":")
            await self._start_agent(replace(self._settings, listen=f"{host}:0"))

    async def stop(self) -> None:
        """Stop both, as far as they were started, and end what is left of MPS."""
        if self._agent is not None and self._running is not None:
            self._agent.stop()
            await asyncio.wait((self._running,), timeout=_STOP_SECONDS)
        await end_all(self._settings.mps_root)
        await self.kubelet.stop()

    async def _start_agent(self, settings: Settings) -> None:
        self.started_at = time.monotonic()
        self._agent = agent = Agent(settings)
        self._running = asyncio.create_task(agent.run(), name="agent")
        await self.until("the agent's first look at the node", lambda: agent.snapshot is not None)

    # --- what can be seen ---

    @property
    def snapshot(self) -> Snapshot:
        """The agent's newest summary, once the node has been started."""
        snapshot = self._agent.snapshot if self._agent is not None else None
        if snapshot is None:
            raise RuntimeError("cannot look at a node that has not been started")
        return snapshot

    @property
    def url(self) -> str:
        """Where the agent's status page is."""
        host, _, _ = self._settings.listen.rpartition(":")
        port = self._agent.port if self._agent is not None else 0
        return f"http://{'127.0.0.1' if host in _EVERY_ADDRESS else host}:{port}/"

    @property
    def state_dir(self) -> Path:
        """Where the agent keeps its state, and can be told what a person has to say."""
        return self._settings.state_dir

    def strips(self) -> tuple[Strip, ...]:
        """What the kubelet has of every GPU."""
        return strips(self.kubelet, self.snapshot)

    def compute_mode(self, uuid: str) -> ComputeMode:
        """What the GPU was set to last, which it is born with where nobody has set it."""
        return self._modes.read().get(uuid, ComputeMode.DEFAULT)

    def listed_at(self, resource: str) -> float:
        """When the kubelet got the newest list of a resource, in monotonic seconds."""
        newest = self.kubelet.record.newest(resource)
        return newest.at if newest is not None else 0.0

    async def metrics(self) -> str:
        """What Prometheus would scrape now. Raises OSError."""
        return await asyncio.to_thread(_get, self.url.split("/")[2], "/metrics")

    async def until(self, what: str, check: Callable[[], bool], *, within: float = 20.0) -> None:
        """Wait for something of this node. Raises NotInTime; and whatever the agent failed with, if it did."""
        deadline = time.monotonic() + within
        while True:
            if self._running is not None and self._running.done():
                self._running.result()
                raise NotInTime(f"the agent ended before {what}")
            if check():
                return
            if time.monotonic() > deadline:
                raise NotInTime(f"not within {within:.0f} s: {what}")
            await asyncio.sleep(_LOOK)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that is removed at the end; its path is short enough for unix sockets, wherever $TMPDIR points."""
    usual = tempfile.gettempdir()
    where = usual if len(usual) <= _LONGEST_TEMPORARY else "/tmp"  # noqa: S108 - mkdtemp makes a private one in it
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=where) as folder:
        yield Path(folder)


def _get(address: str, path: str) -> str:
    connection = http.client.HTTPConnection(address, timeout=5.0)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise OSError(f"cannot get {path}: {response.status} {response.reason}")
    return body
