"""What MPS costs: how soon GPUs come under it and leave it, how long a dead daemon is away, and what watching costs.

The daemons are NVIDIA's own, as everywhere; without them nothing is measured, and a line says why.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.footprint import idle
from benchmarks.node import AgentProcess, Node, node
from benchmarks.table import Row, percentile
from nodeagent.mps.control import PROGRAM
from nodeagent.mps.process import mps_processes

_SHARED, _MPS, _WHOLE = "nvidia.com/gpu.shared", "nvidia.com/gpu.mps", "nvidia.com/gpu"
_BROUGHT = Path(__file__).resolve().parent.parent / ".tools" / "bin" / PROGRAM
_CAUTION = 11.0
"""For so many seconds after its start an agent takes nothing away."""


async def measure(*, quick: bool) -> list[Row]:
    """Rows for two of eight GPUs that change their mode, daemons that are killed, and eight that are watched."""
    control = str(_BROUGHT) if os.access(_BROUGHT, os.X_OK) else shutil.which(PROGRAM)
    if control is None:
        print(f"{PROGRAM} is not here: nothing is measured of MPS (`make tools` brings it)", file=sys.stderr)
        return []
    times = 3 if quick else 15
    async with _serving(control) as (used, agent, host):
        into, out = await _changes(used, times)
        await _commit(used, {_MPS: 32}, _mps("[0, 1, 2, 3, 4, 5, 6, 7]"))
        away = await _deaths(used, 3 if quick else 8)
        window = 5.0 if quick else 30.0
        of_agent, of_host = await asyncio.gather(idle(agent, window), idle(host, window))
        memory = host.memory()
    return [
        Row("MPS: swap to list, into it, p50", percentile(into, 50) * 1000, "ms", 2000, f"2 of 8 GPUs, {times} times"),
        Row("MPS: swap to list, out of it, p50", percentile(out, 50) * 1000, "ms", 2000, "the fence's second included"),
        Row("MPS: longest of both", max(*into, *out) * 1000, "ms"),
        Row("MPS: kill of a daemon to its shares, p50", percentile(away, 50) * 1000, "ms", 2500, f"{len(away)} kills"),
        Row("MPS: idle CPU of the agent", statistics.median(of_agent), "%", None, "8 daemons"),
        Row("MPS: idle CPU of the host", statistics.median(of_host), "%", None, "8 daemons, asked every 2 s"),
        Row("MPS: PSS of the host", memory.pss, "MiB"),
    ]


@asynccontextmanager
async def _serving(control: str) -> AsyncIterator[tuple[Node, AgentProcess, AgentProcess]]:
    """A node with an agent and an MPS host, both of which have run for a while."""
    async with node() as found:
        root = found.directory / "mps"
        agent = await found.start_agent("--mps-host=external", f"--mps-root={root}", f"--mps-control={control}")
        host = await _start_host(found, root, control)
        try:
            await _commit(found, {_SHARED: 80})
            await asyncio.sleep(_CAUTION)
            yield found, agent, host
        finally:
            await agent.end(signal.SIGKILL)
            await host.end(signal.SIGKILL)
            for one in mps_processes(root):
                one.process.signal(signal.SIGKILL)


async def _start_host(found: Node, root: Path, control: str) -> AgentProcess:
    with found.log.open("ab") as log:
        started_at = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "nodeagent", "mps-host", f"--mps-root={root}", f"--driver=simulated:{found.gpus}"),
            *("--node-name=measured", f"--mps-control={control}", "--shm-size=0"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return AgentProcess(process, started_at, 0)


async def _changes(used: Node, times: int) -> tuple[list[float], list[float]]:
    """Seconds until two GPUs that nobody uses offer shares under MPS, and until they are whole again."""
    into, out = [], []
    for _ in range(times):
        into.append(await _commit(used, {_SHARED: 60, _MPS: 8}, _mps("[2, 3]")))
        out.append(await _commit(used, {_SHARED: 60, _WHOLE: 2}, _whole("[2, 3]")))
        await _commit(used, {_SHARED: 80})
    return into, out


async def _deaths(used: Node, times: int) -> list[float]:
    """Seconds from the kill of a daemon until its shares are healthy again, having been Unhealthy. Each is killed once:
    one that dies again soon is started after a pause.
    """
    root = used.directory / "mps"
    found = []
    for victim in mps_processes(root)[:times]:
        before = used.kubelet.record.message_count
        at = time.monotonic()
        victim.process.signal(signal.SIGKILL)
        await used.until(lambda before=before: used.kubelet.record.message_count >= before + 2)  # type: ignore[misc]
        await used.until(lambda: _offers(used, {_MPS: 32}))
        newest = used.kubelet.record.newest(_MPS)
        found.append((newest.at if newest is not None else time.monotonic()) - at)
    return found


async def _commit(used: Node, counts: dict[str, int], *rules: str) -> float:
    """Swap the config; the seconds until the lists have so many healthy shares and nothing else."""
    at = time.monotonic()
    used.mount.write({"sharing.yaml": _sharing(*rules)})
    await used.until(lambda: _offers(used, counts))
    newest = [used.kubelet.record.newest(resource) for resource in counts]
    return max(message.at for message in newest if message is not None) - at


def _offers(used: Node, counts: dict[str, int]) -> bool:
    return all(
        len(devices := used.kubelet.devices(resource)) == count and all(devices.values())
        for resource, count in counts.items()
    )


def _sharing(*rules: str) -> bytes:
    return f"""\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {{name: measured}}
spec:
  rules:
{"".join(f"    - {rule}" + chr(10) for rule in rules)}
    - {{name: others, resource: {_SHARED}, timeSlicing: {{replicas: 10}}}}
""".encode()


def _mps(indices: str) -> str:
    limits = "{replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 25}"
    return f"{{name: under-mps, match: {{indices: {indices}}}, resource: {_MPS}, mps: {limits}}}"


def _whole(indices: str) -> str:
    return f"{{name: whole, match: {{indices: {indices}}}, exclusive: {{}}}}"
