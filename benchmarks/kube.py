"""What the Kubernetes API costs the agent, and what a fleet of agents costs the API."""

from __future__ import annotations

import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.footprint import start
from benchmarks.node import RESOURCE, node
from benchmarks.table import Row
from tests.fakes.api_server import ApiServer
from tests.node.fleet import AGENTS, DRAINING, NEW, OLD, asked, fleet

_NODE = "measured"
_LABEL = "nodeagent.io/config"
_SPAN = 0.1
"""Seconds in which the most writes are counted."""


async def measure(*, quick: bool) -> list[Row]:
    """Rows for memory with and without the API, and for what 300 agents ask of it."""
    times = 1 if quick else 3
    await _memory(api=True)  # makes the bytecode
    without = statistics.median([await _memory(api=False) for _ in range(times)])
    with_api = statistics.median([await _memory(api=True) for _ in range(times)])
    return [
        Row("Kubernetes API: PSS more", with_api - without, "MiB", 12, f"{with_api:.1f} instead of {without:.1f} MiB"),
        await _by_label(3 if quick else 9),
        *await _fleet(),
    ]


async def _memory(*, api: bool) -> float:
    """MiB of an agent after some reloads and Allocates, that labels its node or does not."""
    with tempfile.TemporaryDirectory(prefix="api-") as directory:
        async with AsyncExitStack() as stack:
            options: list[str] = []
            if api:
                server = await stack.enter_async_context(ApiServer(Path(directory)))
                server.objects.add_node(_NODE)
                options = ["--kube-api=on", f"--kubeconfig={server.kubeconfig}", "--labels=api"]
            used = await stack.enter_async_context(node())
            agent = await used.start_agent(*options)
            stack.push_async_callback(agent.end)
            for replicas in (10, 9, 10, 4, 10):
                await used.reload(replicas)
            for number in range(100):
                await used.kubelet.end(await used.kubelet.admit(f"pod-{number}", containers={"main": {RESOURCE: 1}}))
            if api:
                await used.until(lambda: server.objects.labels(_NODE).get("nvidia.com/gpu.replicas") == "10")
            return agent.memory().pss


async def _by_label(times: int) -> Row:
    """How much later the first list comes where it is a label of the Node that says which config is its own."""
    with tempfile.TemporaryDirectory(prefix="api-") as directory:
        async with ApiServer(Path(directory)) as server:
            server.objects.add_node(_NODE, {_LABEL: "sharing"})
            options = ["--kube-api=on", f"--kubeconfig={server.kubeconfig}"]
            without = statistics.median([await start(*options, "--config-label=off") for _ in range(times)])
            chosen = statistics.median([await start(*options, f"--config-label={_LABEL}") for _ in range(times)])
    note = f"{chosen * 1000:.0f} instead of {without * 1000:.0f} ms, {times} starts of each"
    return Row("start to first list, by label: later", (chosen - without) * 1000, "ms", 300, note)


async def _fleet() -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="api-") as directory:
        async with ApiServer(Path(directory)) as server, fleet(server) as nodes:
            await asked(server, nodes, OLD)
            before = len(server.asked)
            count = sum((await asked(server, nodes, DRAINING, NEW)).values())
            writes = sorted(entry.at for entry in server.asked[before:])
    most = max(sum(at <= other < at + _SPAN for other in writes) for at in writes)
    return [
        Row("requests per agent and reload", count / AGENTS, "", 1, f"{AGENTS} agents at once"),
        Row("most writes in 0.1 s", most, "", None, f"of {len(writes)}, within {writes[-1] - writes[0]:.1f} s"),
    ]
