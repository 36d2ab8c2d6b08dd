"""Two hundred connections a second come and stay, of an agent that may have 1,024 file descriptors."""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.agent.documents import SHARED, shares
from tests.agent.harness import GPUS, Node, Process
from tests.conftest import Soak
from tests.soak.crowd import RATE

SECONDS = 60.0
TIMEOUT = 3.0
"""That of the kubelet's probes, which come every 5 s; these here come every 0.1 s."""

EVERY = 0.1
DESCRIPTORS = 1024
CORES = 2

CROWDS = {
    "half-open": b"G",
    "silent": b"",
    "slow readers": b"GET /status HTTP/1.1\r\n\r\n",
    "scrapes": b"GET /metrics HTTP/1.1\r\n\r\n",
    "probes": b"GET /readyz HTTP/1.1\r\n\r\n",
}


@pytest.mark.soak
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("says", CROWDS.values(), ids=CROWDS)
async def test_no_probe_fails(soak: Soak, tell: Callable[[str], None], says: bytes) -> None:
    """None of the probes fails, and the kubelet keeps its devices."""
    seconds = SECONDS * soak.scale
    async with Node() as node:
        node.commit(shares(10))
        agent = await node.process()
        resource.prlimit(agent.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        for thread in Path(f"/proc/{agent.process.pid}/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended
                os.sched_setaffinity(int(thread.name), sorted(os.sched_getaffinity(0))[:CORES])
        await node.advertises({SHARED: 10 * GPUS}, within=30.0)
        crowd = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.soak.crowd", str(agent.port), str(seconds), says.hex(),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            took, failed = await _probe_until(crowd, agent)
        finally:
            with suppress(ProcessLookupError):
                crowd.kill()
        assert crowd.stdout is not None
        made = int(await crowd.stdout.read())
        await node.advertises({SHARED: 10 * GPUS})
    assert made >= 0.9 * RATE * seconds
    tell(f"{made} connections, {len(took)} probes, slowest {max(took) * 1000:.0f} ms, {len(failed)} failed")
    assert failed == []


async def _probe_until(crowd: asyncio.subprocess.Process, agent: Process) -> tuple[list[float], list[str]]:
    """Probe until the crowd has gone: how long each took, and what failed."""
    took: list[float] = []
    failed: list[str] = []
    while crowd.returncode is None:
        for path in ("/livez", "/readyz"):
            begun = time.monotonic()
            failure = await asyncio.to_thread(_probe, agent.port, path)
            took.append(time.monotonic() - begun)
            failed += [failure] if failure else []
        await asyncio.sleep(EVERY)
    return took, failed


def _probe(port: int, path: str) -> str:
    """What is wrong with the answer; nothing if it is right."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return "" if response.status == 200 else f"{path}: {response.status} {response.read()!r}"
    except (OSError, http.client.HTTPException) as error:
        return f"{path}: {error!r}"
    finally:
        connection.close()
