"""The agent as a process: signals, exit codes, and how it ends when something hangs."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import signal
import sys
import termios
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

import pytest

from nodeagent.sim.pod_resources import Fault
from nodeagent.stopping import STOP_SECONDS
from tests.agent.documents import SHARED, shares
from tests.agent.harness import Node, arguments, free_port
from tests.waiting import eventually, longer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
async def test_a_signal_stops_in_order(node: Node, number: signal.Signals) -> None:
    """SIGTERM and SIGINT end the streams, remove our sockets and exit with 0; what pods hold stays theirs."""
    node.commit(shares(4))
    agent = await node.process()
    await node.advertises({SHARED: 32})
    await node.hold(1)

    agent.signal(number)
    assert await agent.ended() == 0
    assert [end.by_kubelet for end in node.kubelet.streams_ended] == [False]
    assert {path.name for path in node.kubelet.device_plugins.iterdir()} == {
        "kubelet.sock",
        "kubelet_internal_checkpoint",
    }
    assert f"{number.name}: stopping" in agent.log
    assert agent.log.endswith("stopped\n")


async def test_it_stops_in_time_whatever_hangs(node: Node) -> None:
    """With a GPU and PodResources that hang and a drain under way, SIGTERM still ends the agent within five seconds."""
    node.commit(shares(4))
    agent = await node.process()
    await node.advertises({SHARED: 32})
    await node.hold(16)
    node.simulate(health={3: "hang"})
    await node.allocatable(28)
    node.kubelet.pod_resources_fault = Fault.HANG
    node.commit(shares(1))

    async def told() -> bool:
        return (await agent.condition("PodResourcesReady"))[1] == "Timeout"

    await eventually(told)
    begun = time.monotonic()
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert time.monotonic() - begun < longer(STOP_SECONDS)


PIPE = 4096


@asynccontextmanager
async def unread(*command: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A process whose log goes to a pipe that nobody reads, and the end that nobody reads from."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, PIPE)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "nodeagent", *command, stdout=writing, stderr=writing
    )
    os.close(writing)
    try:
        yield process, reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        os.close(reading)


async def clogged(process: asyncio.subprocess.Process, reading: int) -> None:
    """Have it log more than there is room for: its loop then waits for somebody to read."""

    def unread_bytes() -> int:
        return int.from_bytes(fcntl.ioctl(reading, termios.FIONREAD, bytes(4)), sys.byteorder)

    def more_than(before: int) -> bool:
        return unread_bytes() > before

    await eventually(unread_bytes)  # it has begun to log: signals are heard before that
    while (before := unread_bytes()) < PIPE * 3 // 4:
        process.send_signal(signal.SIGHUP)
        await eventually(partial(more_than, before))
    for _ in range(PIPE):
        process.send_signal(signal.SIGHUP)


@pytest.mark.parametrize("who", ["an agent", "an agent that waits", "an MPS host"])
async def test_it_stops_in_time_with_a_loop_that_hangs(node: Node, who: str) -> None:
    """A loop that cannot take the signal, here because nobody reads its log, does not keep the process from its end."""
    node.commit(shares(4))
    settings = node.settings(listen=f"127.0.0.1:{free_port()}")
    command = ["run", *arguments(settings)]
    if who == "an agent that waits":
        await node.agent()
        await node.advertises({SHARED: 32})
    if who == "an MPS host":
        command = ["mps-host", "--mps-root", str(settings.mps_root), "--driver", settings.driver, "--shm-size", "0"]
    async with unread(*command) as (process, reading):
        await clogged(process, reading)
        begun = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), longer(30.0)) == 0
        assert time.monotonic() - begun < longer(STOP_SECONDS)


async def test_it_stops_in_time_with_a_large_node(node: Node) -> None:
    """In the middle of a turn of 40,000 shares as well."""
    node.commit(shares(5000))
    agent = await node.process()
    await node.allocatable(40_000, within=60.0)
    node.commit(shares(4000))
    node.simulate(health={3: "lost"})
    begun = time.monotonic()
    agent.signal(signal.SIGTERM)
    assert await agent.ended() == 0
    assert time.monotonic() - begun < longer(STOP_SECONDS)


async def test_hangup_looks_again(node: Node) -> None:
    """SIGHUP looks at config and GPUs again, and ends nothing."""
    node.commit(shares(4))
    agent = await node.process()
    await node.advertises({SHARED: 32})

    agent.signal(signal.SIGHUP)
    await eventually(lambda: "SIGHUP: looking again" in agent.log)
    node.commit(shares(5))
    await node.allocatable(40)
    assert await agent.live()
    assert node.kubelet.streams_ended == []


async def test_it_says_why_it_cannot_start(node: Node) -> None:
    """An address in use is exit code 1 and one line; a bad config is no reason not to start."""
    node.commit(b"nonsense: [")
    agent = await node.process()

    async def told() -> bool:
        return (await agent.condition("ConfigAccepted"))[1] == "ParseError"

    await eventually(told)
    other = await node.spawn(listen=f"127.0.0.1:{agent.port}", state_dir=node.directory / "other")
    assert await other.ended() == 1
    assert len(other.log.splitlines()) == 1
    assert "cannot listen on" in other.log


async def test_json_logs(node: Node) -> None:
    """With --log-format json the one line of a reload can be asked for its parts."""
    node.commit(shares(4), revision="r1")
    agent = await node.process(log_format="json")
    await node.advertises({SHARED: 32})
    node.commit(shares(6), revision="r2")
    await node.allocatable(48)

    def told() -> dict[str, object]:
        lines = [cast("dict[str, object]", json.loads(line)) for line in agent.log.splitlines()]
        return next((line for line in lines if line.get("revision") == "r2"), {})

    line = await eventually(told)
    assert (line["result"], line["change"], line["draining"]) == ("accepted", "live", 0)
