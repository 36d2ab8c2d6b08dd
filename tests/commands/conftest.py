"""Commands as they are used: typed as processes, and asked of an agent's real HTTP server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nodeagent.model.moment import Moment
from nodeagent.model.snapshot import Snapshot
from nodeagent.report.http import HttpServer
from nodeagent.report.metrics import Metrics
from nodeagent.state.labels import ACCEPTED, APPLIED, POOL, STATE
from tests.conftest import ROOT
from tests.fakes.api_server import ApiServer
from tests.report import builders
from tests.waiting import WITHIN, longer

EXAMPLES = ROOT / "examples"
H100X8 = EXAMPLES / "simulated" / "h100x8.yaml"

SHARED_BY_TEN = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata:
  name: h100-inference
spec:
  rules:
    - name: small-inference
      resource: nvidia.com/gpu.shared
      timeSlicing: {replicas: 10}
"""

WRONG_TWICE = SHARED_BY_TEN.replace("timeSlicing", "timeSlicin").replace("name: h100", "name: H100")

NVIDIAS = """\
version: v1
sharing:
  timeSlicing:
    renameByDefault: true
    resources: [{name: nvidia.com/gpu, replicas: 4, devices: [0]}]
"""


@pytest.fixture(autouse=True)
def columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text is 80 columns wide, as on a usual terminal."""
    monkeypatch.setenv("COLUMNS", "80")


def nodeagent(*arguments: object, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Type a command and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "nodeagent", *map(str, arguments)],
        input=stdin,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=longer(60),
        check=False,
    )


def config_map(config: str, name: str = "sharing") -> str:
    """A manifest with the config in it, as `kubectl kustomize` prints it."""
    inside = "".join(f"    {line}\n" for line in config.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\ndata:\n  sharing.yaml: |\n{inside}"


class Agent:
    """An agent's HTTP server; what it shows can be changed while it is asked."""

    def __init__(self, snapshot: Snapshot | None) -> None:
        self.snapshot = snapshot
        self._server = HttpServer(
            "127.0.0.1:0",
            snapshot=lambda: self.snapshot,
            alive=lambda: True,
            metrics=Metrics(lambda: self.snapshot, version="0.1.0", clock=self._now),
            strict_readiness=False,
            clock=self._now,
        )

    def _now(self) -> Moment:
        """It is asked at the moment that it shows, whose times are the Unix seconds that are told."""
        now = self.snapshot.at if self.snapshot is not None else builders.AT
        return Moment(now, now)

    @property
    def address(self) -> str:
        """What `--agent` is given."""
        return f"127.0.0.1:{self._server.port}"

    def start(self) -> None:
        self._server.start()

    def close(self) -> None:
        self._server.close()


Serve = Callable[[Snapshot | None], Agent]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve a snapshot as an agent does, until the end of the test."""
    agents: list[Agent] = []

    def start(snapshot: Snapshot | None) -> Agent:
        agent = Agent(snapshot)
        agent.start()
        agents.append(agent)
        return agent

    yield start
    for agent in agents:
        agent.close()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A valid sharing config."""
    path = tmp_path / "sharing.yaml"
    path.write_text(SHARED_BY_TEN, encoding="utf-8")
    return path


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ApiServer]:
    """An API server that runs beside the test, and knows a canary pool: three nodes have accepted blob 5beb4efc651e,
    and pods on one of them still have what it takes away.
    """
    server = ApiServer(tmp_path / "api")
    for number, state in enumerate(("applied", "applied", "draining"), start=1):
        applied = "5beb4efc651e" if state == "applied" else "76045d81ee80"
        labels = {POOL: "canary", STATE: state, ACCEPTED: "5beb4efc651e", APPLIED: applied}
        server.objects.add_node(f"node-{number}", labels)
    server.objects.add_node("node-4", {POOL: "rest", STATE: "applied", ACCEPTED: "76045d81ee80"})
    loop, serving, done = asyncio.new_event_loop(), threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with server:
            serving.set()
            await done.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[serve()])
    thread.start()
    assert serving.wait(longer(WITHIN))
    yield server
    loop.call_soon_threadsafe(done.set)
    thread.join()
    loop.close()
