"""What the largest node that a config may make takes of memory: the peak of each thing that happens to it.

The limit of the agent's container (`kustomize/base`) ends it when it takes more even for a moment. So each row is the
highest that the resident memory (`VmHWM`) came to since the row before, which Linux sets back on request.
"""

from __future__ import annotations

import asyncio
import http.client
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.node import GPUS, AgentProcess, Node, node
from benchmarks.table import Row
from nodeagent.sim.pods import Pod
from nodeagent.state.desired import MAX_SHARES

LIMIT = 256
"""MiB that the agent's container may take."""

READERS = 20
_REPLICAS = MAX_SHARES // GPUS
_NAMES = ("nvidia.com/gpu.even", "nvidia.com/gpu.odd")
"""Two, since the kubelet takes no list with as many shares."""

_OTHER_NAMES = ("nvidia.com/gpu.left", "nvidia.com/gpu.right")
_PODS, _EACH = 20, 1000
_WITHIN = 180.0
_COMPARED = 12.0
"""Seconds in which an agent that has just started, or changed, looks at what the kubelet makes of its lists."""


async def measure(*, quick: bool) -> list[Row]:
    """Rows for one agent, to which all of it happens; the first half of it where it is to be `quick`."""
    rows: list[Row] = []
    async with node(calls_per_second=None) as used:
        _commit(used, _NAMES, _REPLICAS)
        agent = await used.start_agent()
        try:
            async for what, note in _story(used, agent, quick=quick):
                rows.append(Row(f"{MAX_SHARES:,} shares: {what}", _peak(agent.pid), "MiB", LIMIT, note))
                print(f"  {rows[-1].what}: {rows[-1].value:.0f} MiB {note}", file=sys.stderr, flush=True)
                _set_back(agent.pid)
        finally:
            await agent.end(signal.SIGKILL)
    return rows


async def _story(used: Node, agent: AgentProcess, *, quick: bool) -> AsyncIterator[tuple[str, str]]:
    """One thing after another, with what is to be said of it."""
    await _reach(used, _NAMES, _REPLICAS)
    yield "start", ""
    await asyncio.sleep(_COMPARED)
    yield "looks at the kubelet", ""
    for path in ("/status", "/metrics", "/"):
        yield f"first {path}", _told(await _read(agent, (path,)))
    yield f"{READERS} readers of /status", _told(await _read(agent, ["/status"] * READERS))
    if not quick:
        pods = await _admit(used)
        yield f"{_PODS} pods take {_EACH:,} each", ""
        yield f"{READERS} readers of /metrics then", _told(await _read(agent, ["/metrics"] * READERS))
        for pod in pods:
            await used.kubelet.end(pod)
        await asyncio.sleep(_COMPARED)
        yield "the pods end", ""
        await _change(used, _OTHER_NAMES, _REPLICAS)
        yield "all change their name at once", ""
    names = _NAMES if quick else _OTHER_NAMES
    shrink = asyncio.create_task(_change(used, names, 10))
    told = []
    while not shrink.done():
        told += await _read(agent, ["/status"] * READERS)
    await shrink
    yield f"10 of each GPU are left, {READERS} readers", _told(told)
    await asyncio.sleep(_COMPARED)
    yield "afterwards", ""


def _commit(used: Node, names: tuple[str, str], replicas: int) -> None:
    """So many shares of each GPU, of one half of them under one name, of the others under another."""
    half = GPUS // 2
    rules = "".join(
        f"    - name: {name.rpartition('.')[2]}\n"
        f"      match: {{indices: {indices}}}\n"
        f"      resource: {name}\n"
        f"      timeSlicing: {{replicas: {replicas}}}\n"
        for name, indices in zip(names, (list(range(half)), list(range(half, GPUS))), strict=True)
    )
    used.mount.write(
        {
            "sharing.yaml": (
                "apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata: {name: large}\n"
                f"spec:\n  transition: {{maxUnavailable: 100%}}\n  rules:\n{rules}"
            ).encode()
        }
    )


async def _change(used: Node, names: tuple[str, str], replicas: int) -> None:
    _commit(used, names, replicas)
    await _reach(used, names, replicas)


async def _reach(used: Node, names: tuple[str, str], replicas: int) -> None:
    """Wait until the kubelet has all of them, and no others."""

    def there() -> bool:
        found = [used.kubelet.devices(name) for name in names]
        return all(len(one) == replicas * GPUS // 2 and all(one.values()) for one in found)

    await used.until(there, _WITHIN)


async def _admit(used: Node) -> list[Pod]:
    return [
        await used.kubelet.admit(f"pod-{number}", containers={"main": {_NAMES[number % 2]: _EACH}})
        for number in range(_PODS)
    ]


async def _read(agent: AgentProcess, paths: Sequence[str]) -> list[tuple[int, float]]:
    """Size and seconds of each answer, all asked for at once; of one that was refused or cut off a size of 0."""
    return list(await asyncio.gather(*(asyncio.to_thread(_get, agent.port, path) for path in paths)))


def _get(port: int, path: str) -> tuple[int, float]:
    begun, size = time.monotonic(), 0
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_WITHIN)) as connection:
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            while data := response.read(1 << 16):
                size += len(data)
        except (OSError, http.client.HTTPException):
            return 0, time.monotonic() - begun
    return (size if response.status == 200 else 0), time.monotonic() - begun


def _told(answers: Sequence[tuple[int, float]]) -> str:
    whole = [answer for answer in answers if answer[0]]
    size, longest = (max(part) for part in zip(*whole, strict=True)) if whole else (0, 0.0)
    number = f"{len(whole)} of {len(answers)} answers, " if len(answers) > 1 else ""
    return f"{number}{size / 1e6:.3g} MB in {longest:.1f} s"


def _peak(pid: int) -> float:
    """MiB."""
    text = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def _set_back(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5", "ascii")
