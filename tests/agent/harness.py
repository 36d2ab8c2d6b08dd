"""A node for tests of the whole agent: the stand-in kubelet, a mounted ConfigMap, GPUs from a file, and agents on it.

Everything is real but the hardware: gRPC over unix sockets, file events, HTTP, signals. An agent runs in the test's own
loop (`Node.agent`: quick, and its snapshot can be read) or as a process of its own (`Node.process`: signals, SIGKILL).
When a node is closed it demands that the kubelet neither crashed nor saw a promise broken, and that no agent logged a
fault of its own, whatever else the test was about.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from prometheus_client.parser import text_string_to_metric_families

from nodeagent.agent import Agent
from nodeagent.devices.simulation_file import derived_uuid
from nodeagent.model.snapshot import Condition, Snapshot
from nodeagent.settings import Settings
from nodeagent.sim.git_mount import MountedConfigMap
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.pods import Pod
from nodeagent.state.holds import GRANT_SETTLED
from tests.agent.documents import SHARED
from tests.sim.plugin import TinyPlugin
from tests.waiting import WITHIN, eventually, longer

NODE_NAME = "node-a"
GPUS = 8

_ANSWERS_WITHIN = 10.0
_STOPS_WITHIN = 8.0


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer."""

    code: int
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401 - whatever the agent says
        return json.loads(self.body)


class Http:
    """Asks an agent over HTTP, as a probe, Prometheus or a person does."""

    port: int = 0

    async def get(self, path: str) -> Response:
        """Raises OSError when nobody answers."""
        return await asyncio.to_thread(self._get, path)

    async def status(self) -> Any:  # noqa: ANN401 - JSON
        """The status document; the agent must have one."""
        response = await self.get("/status")
        assert response.code == 200, response
        return response.json

    async def metric(self, name: str, **labels: str) -> float | None:
        """The value of `nodeagent_<name>` with these labels among others; None where there is none."""
        for family in text_string_to_metric_families((await self.get("/metrics")).body.decode()):
            for sample in family.samples:
                if sample.name == f"nodeagent_{name}" and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    async def condition(self, type_: str) -> tuple[bool, str, str]:
        """Status, reason and message of a condition, from /status."""
        found = next(entry for entry in (await self.status())["conditions"] if entry["type"] == type_)
        return found["status"], found["reason"], found["message"]

    async def ready(self) -> bool:
        """Whether the readiness probe succeeds."""
        return await self._ok("/readyz")

    async def live(self) -> bool:
        """Whether the liveness probe succeeds."""
        return await self._ok("/livez")

    async def _ok(self, path: str) -> bool:
        try:
            return (await self.get(path)).code == 200
        except OSError:
            return False

    def _get(self, path: str) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=longer(_ANSWERS_WITHIN))
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return Response(response.status, response.read())
        except http.client.HTTPException as error:
            raise OSError(f"cannot get {path}: {error!r}") from error
        finally:
            connection.close()


class InProcess(Http):
    """An agent in the test's loop. `log` has every line that agents have logged since this node was opened."""

    def __init__(self, settings: Settings, log: LogLines) -> None:
        self.agent = Agent(settings)
        self.log = log
        self.task = asyncio.create_task(self.agent.run())

    @property
    def snapshot(self) -> Snapshot:
        """The newest summary; the agent must have made one."""
        snapshot = self.agent.snapshot
        assert snapshot is not None, "the agent has no snapshot yet"
        return snapshot

    def says(self, type_: str) -> Condition:
        """A condition, from the snapshot."""
        condition = self.snapshot.condition(type_)
        assert condition is not None, f"no condition {type_}"
        return condition

    async def started(self) -> None:
        """Wait until HTTP is served, or raise what the agent ended with."""
        await eventually(lambda: self.agent.port or self.task.done())
        if self.task.done():
            await self.task
        self.port = self.agent.port

    async def stop(self) -> None:
        """Stop in order, as by SIGTERM. Nothing when it has ended."""
        self.agent.stop()
        await asyncio.wait_for(self.task, longer(_STOPS_WITHIN))


class Process(Http):
    """An agent in a process of its own. `log` is what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process, port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal; nothing when it has ended."""
        with suppress(ProcessLookupError):
            self.process.send_signal(number)

    async def ended(self, within: float = _STOPS_WITHIN) -> int:
        """Wait for its end; its exit code, negative for a signal. Raises TimeoutError."""
        return await asyncio.wait_for(self.process.wait(), longer(within))

    async def started(self) -> None:
        """Wait until HTTP is served."""

        async def served() -> bool:
            assert self.process.returncode is None, f"the agent has ended:\n{self.log}"
            return await self.live()

        await eventually(served, within=30.0)

    async def kill(self) -> None:
        """End it by SIGKILL, in the middle of whatever it does."""
        self.signal(signal.SIGKILL)
        await self.ended()

    async def stop(self) -> None:
        """End it by SIGTERM; by SIGKILL when that takes too long. Nothing when it has ended."""
        self.signal(signal.SIGTERM)
        try:
            await self.ended()
        except TimeoutError:
            await self.kill()
            raise


class LogLines(logging.Handler):
    """What agents in this process log: `lines` as text, `faults` those that carry a stack."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    @property
    def lines(self) -> list[str]:
        return [record.getMessage() for record in self.records]

    @property
    def faults(self) -> list[str]:
        formatter = logging.Formatter()
        return [formatter.format(record) for record in self.records if record.exc_info]

    def having(self, *parts: str) -> list[str]:
        """Lines in which all of the parts occur."""
        return [line for line in self.lines if all(part in line for part in parts)]


class Node:
    """One node. Use with `async with`; the kubelet runs unless told otherwise, agents are started by the test.

    `kubelet` options are those of StandInKubelet. `gpus` is how many GPUs the simulation file has at first.
    """

    def __init__(self, *, gpus: int = GPUS, kubelet_runs: bool = True, **kubelet: Any) -> None:  # noqa: ANN401 - see there
        # Short, since a socket's path is.
        self.directory = Path(tempfile.mkdtemp(prefix="na-"))
        self.kubelet = StandInKubelet(self.directory / "kubelet", **kubelet)
        self.mount = MountedConfigMap(self.directory / "config")
        self.state_dir = self.directory / "state"
        self.simulation = self.directory / "gpus" / "node.yaml"
        self.simulation.parent.mkdir()
        self.log = LogLines()
        self._kubelet_runs = kubelet_runs
        self._agents: list[InProcess | Process] = []
        self._foreign: list[TinyPlugin] = []
        self._level = logging.NOTSET
        self.simulate(gpus)

    # --- what Git and the hardware say ---

    def commit(self, document: bytes, revision: str | None = None) -> None:
        """Have the mount say this, by one swap."""
        files = {"sharing.yaml": document}
        if revision is not None:
            files["revision"] = revision.encode()
        self.mount.write(files)

    def simulate(
        self,
        count: int = GPUS,
        *,
        health: Mapping[int, str] | None = None,
        without: Collection[int] = (),
        processes: Mapping[int, list[dict[str, object]]] | None = None,
        xids: Mapping[int, Sequence[int]] | None = None,
        mig: Mapping[int, Sequence[str]] | None = None,
        driver_loads: int = 1,
    ) -> None:
        """Have this many GPUs, `health` (ok, lost, hang) and the processes that compute on them by index. Those in
        `without` are not listed at all, so that the ones behind them move up, as under NVML. `xids` are all that each
        has reported since the driver was first asked, oldest first; `mig` are the profiles of its MIG devices.
        """
        entries = [
            {
                "model": "NVIDIA H100 80GB HBM3",
                "memory": "80Gi",
                "computeCapability": "9.0",
                "uuid": uuid(index),
                "health": (health or {}).get(index, "ok"),
                **({"processes": processes[index]} if processes and index in processes else {}),
                **({"xids": numbered(xids[index])} if xids and index in xids else {}),
                **({"mig": {"devices": list(mig[index])}} if mig and index in mig else {}),
            }
            for index in range(count)
            if index not in without
        ]
        document = {
            "apiVersion": "nodeagent.io/v1alpha1",
            "kind": "SimulatedNode",
            "driverLoads": driver_loads,
            "gpus": entries,
        }
        self.write(self.simulation, json.dumps(document).encode())

    @staticmethod
    def write(path: Path, data: bytes) -> None:
        """Replace a file in one step, as an editor does."""
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_bytes(data)
        fresh.rename(path)

    # --- agents ---

    def settings(self, **changes: Any) -> Settings:  # noqa: ANN401 - fields of Settings
        """The options of an agent on this node."""
        options: dict[str, Any] = {
            "config": self.mount.directory,
            "driver": f"simulated:{self.simulation}",
            "device_plugins_dir": self.kubelet.device_plugins,
            "pod_resources_dir": self.kubelet.pod_resources_dir,
            "state_dir": self.state_dir,
            "listen": "127.0.0.1:0",
            "node_name": NODE_NAME,
            "pool": None,
            "mps_host": "off",
            "cgroup_root": self.directory / "cgroups",
            "mps_root": self.directory / "mps",
            "mps_control": "nvidia-cuda-mps-control",
            "mps_shm_size": "64Mi",
            "log_format": "text",
            "log_level": "info",
            "strict_readiness": False,
        }
        return Settings(**{**options, **changes})

    async def agent(self, **changes: Any) -> InProcess:  # noqa: ANN401 - fields of Settings
        """Start an agent in this loop; it serves HTTP when this returns."""
        agent = InProcess(self.settings(**changes), self.log)
        await agent.started()
        self._agents.append(agent)
        return agent

    async def process(self, *, release: Path | None = None, **changes: Any) -> Process:  # noqa: ANN401 - see spawn
        """Start an agent as a process; it serves HTTP when this returns."""
        agent = await self.spawn(release=release, **changes)
        await agent.started()
        return agent

    async def spawn(self, *, release: Path | None = None, **changes: Any) -> Process:  # noqa: ANN401 - fields of Settings
        """Start an agent as a process, and wait for nothing. `release` is where the code of another one is."""
        port = free_port()
        settings = self.settings(**{"listen": f"127.0.0.1:{port}", **changes})
        log = self.directory / f"agent-{len(self._agents)}.log"
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nodeagent", "run", *arguments(settings)),
                stdout=output,
                stderr=output,
                cwd=release,
            )
        agent = Process(process, port, log)
        self._agents.append(agent)
        return agent

    async def foreign(self, resource: str = SHARED) -> TinyPlugin:
        """Somebody else's plugin for a resource; it serves, and has not registered yet."""
        plugin = TinyPlugin(self.kubelet.device_plugins, resource=resource)
        self._foreign.append(plugin)
        await plugin.serve()
        return plugin

    # --- what is to be seen ---

    async def advertises(self, counts: Mapping[str, int], *, within: float = WITHIN) -> None:
        """Wait until the kubelet has exactly these resources, each with so many devices and all of them healthy."""

        def seen() -> bool:
            have = {name: self.kubelet.devices(name) for name in self.kubelet.resources()}
            assert {name: sum(devices.values()) for name, devices in have.items()} == counts, have
            assert {name: len(devices) for name, devices in have.items()} == counts, have
            return True

        await eventually(seen, within=within)

    async def allocatable(self, count: int, resource: str = SHARED, *, within: float = WITHIN) -> None:
        """Wait until the kubelet has so many healthy devices of a resource; others may be on their way out."""

        def seen() -> bool:
            have = self.kubelet.allocatable(resource)
            assert have == count, f"{have} of {resource} are allocatable"
            return True

        await eventually(seen, within=within, every=0.005)

    async def hold(self, count: int, resource: str = SHARED, *, each: int = 1, prefix: str = "pod") -> list[Pod]:
        """Admit `count` pods that hold `each` shares."""
        return [
            await self.kubelet.admit(f"{prefix}-{number}", containers={"main": {resource: each}})
            for number in range(count)
        ]

    async def fill(self, index: int, count: int, resource: str = SHARED) -> list[Pod]:
        """Have exactly `count` shares of one GPU held: pods are admitted everywhere, and those elsewhere end again."""
        kept: list[Pod] = []
        others: list[Pod] = []
        while len(kept) < count:
            (pod,) = await self.hold(1, resource, prefix=f"fill-{len(kept) + len(others)}")
            (kept if gpu_of(pod) == index else others).append(pod)
        for pod in others:
            await self.kubelet.end(pod)
        return kept

    async def looked(self) -> None:
        """Wait until an agent with something to drain has looked at the pods so late that it no longer takes a grant of
        before this call for one whose pod `List` cannot show yet.
        """
        settled = time.monotonic() + GRANT_SETTLED
        await eventually(lambda: time.monotonic() >= settled)
        # Each look has one such call; the second after this is answered when the first look is over.
        before = self.kubelet.allocatable_calls
        await eventually(lambda: self.kubelet.allocatable_calls >= before + 3)

    def of_gpu(self, index: int, resource: str = SHARED) -> dict[str, bool]:
        """The shares of one GPU on the kubelet's list, healthy or not."""
        devices = self.kubelet.devices(resource)
        return {id_: healthy for id_, healthy in devices.items() if id_.partition("::")[0] == uuid(index)}

    # --- life ---

    async def __aenter__(self) -> Self:
        logger = logging.getLogger("nodeagent")
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self.log)
        if self._kubelet_runs:
            await self.kubelet.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await asyncio.gather(*(part.stop() for part in (*self._agents, *self._foreign)))
            await self.kubelet.stop()
        finally:
            logger = logging.getLogger("nodeagent")
            logger.removeHandler(self.log)
            logger.setLevel(self._level)
            logs = [agent.log for agent in self._agents if isinstance(agent, Process)]
            shutil.rmtree(self.directory, ignore_errors=True)
        broken = [str(broken) for broken in (*self.kubelet.crashes, *self.kubelet.violations)]
        stacks = [*self.log.faults, *(log for log in logs if "Traceback" in log)]
        assert not broken, "; ".join(broken)
        assert not stacks, "\n".join(stacks)


def numbered(codes: Sequence[int]) -> list[dict[str, int]]:
    """XIDs as a simulation file has them."""
    return [{"code": code, "seq": seq} for seq, code in enumerate(codes, start=1)]


def uuid(index: int) -> str:
    """Which GPU has this index on a node where none is missing."""
    return derived_uuid(NODE_NAME, index)


def gpu_of(pod: Pod) -> int:
    """The index of the GPU of which a pod's one share is."""
    (id_,) = pod.ids()
    return next(index for index in range(64) if uuid(index) == id_.partition("::")[0])


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def arguments(settings: Settings) -> list[str]:
    """The flags of `run` that make these settings."""
    given = {
        "--config": settings.config,
        "--driver": settings.driver,
        "--device-plugins-dir": settings.device_plugins_dir,
        "--pod-resources-dir": settings.pod_resources_dir,
        "--state-dir": settings.state_dir,
        "--listen": settings.listen,
        "--node-name": settings.node_name,
        "--pool": settings.pool,
        "--driver-root": settings.driver_root,
        "--nvml-library": settings.nvml_library,
        "--mps-host": settings.mps_host,
        "--mps-root": settings.mps_root,
        "--mps-control": settings.mps_control,
        "--mps-shm-size": settings.mps_shm_size,
        "--log-format": settings.log_format,
        "--log-level": settings.log_level,
        "--labels": settings.labels,
        "--machine-type-file": settings.machine_type_file,
        "--kube-api": "on" if settings.kube_api else "off",
        "--kubeconfig": settings.kubeconfig,
        "--config-label": ",".join(settings.config_labels),
        "--config-default": settings.config_default,
        "--startup-taint": settings.startup_taint,
    }
    flags = [part for flag, value in given.items() if value is not None for part in (flag, str(value))]
    switches = {
        "--strict-readiness": settings.strict_readiness,
        "--restart-on-driver-change": settings.restart_on_driver_change,
    }
    return [*flags, *(flag for flag, on in switches.items() if on)]
