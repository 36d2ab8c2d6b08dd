"""What is slow or hangs holds up nobody: documents, mounts, and the parts of an agent that is to stop."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nodeagent.admin import AdminSocket
from nodeagent.config.by_label import ByLabel
from nodeagent.config.judging import Judge
from nodeagent.config.source import ConfigSource
from nodeagent.devices.host_files import HostLook
from nodeagent.model.config import Document
from nodeagent.mps.off import NoMps
from nodeagent.node.off import NoNode
from nodeagent.reconciler import Reconciler
from nodeagent.stopping import STOP_SECONDS
from nodeagent.store.state_dir import StateDir
from tests.agent.documents import SHARED, shares
from tests.agent.harness import Node
from tests.config.support import SLOW, reads_slowly
from tests.waiting import eventually, longer


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that bear a slow document for less long."""
    monkeypatch.setattr("nodeagent.agent.Judge", partial(Judge, reads_slowly, bound=0.5))


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agents that bear a slow document for as long as they usually do."""
    monkeypatch.setattr("nodeagent.agent.Judge", partial(Judge, reads_slowly))


@pytest.mark.usefixtures("patient")
async def test_a_slow_document_holds_up_no_other(node: Node) -> None:
    """A good document is applied while the reader would still be busy with the one before it for minutes."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    node.commit(SLOW)
    await eventually(lambda: any(thread.name == "judge" for thread in threading.enumerate()))
    node.commit(shares(6))
    await node.allocatable(48)
    await eventually(lambda: [reload.result.value for reload in agent.snapshot.reloads] == ["accepted", "accepted"])


@pytest.mark.usefixtures("impatient")
async def test_a_slow_document_is_rejected(node: Node) -> None:
    """With what is wrong with it; the agent lives, and what is applied stays."""
    node.commit(shares(4))
    agent = await node.agent()
    await node.advertises({SHARED: 32})
    node.commit(SLOW)
    await eventually(lambda: agent.says("ConfigAccepted").reason == "ParseError")
    assert "cannot be judged within 0.5 s of computing" in agent.says("ConfigAccepted").message
    assert await agent.metric("config_reload_failures_total", stage="parse") == 1
    assert await agent.live()
    assert await agent.ready()
    node.commit(shares(6))
    await node.allocatable(48)


@pytest.mark.usefixtures("impatient")
async def test_a_slow_last_known_good_document(node: Node) -> None:
    """One that an earlier agent accepted, however long it took, does not keep this one from starting."""
    store = StateDir(node.state_dir, identity="/sharing.yaml", boot_id="boot")
    assert store.acquire()
    store.save_last_known_good(Document("sharing.yaml", SLOW))
    store.release()
    agent = await node.agent()
    await eventually(lambda: agent.says("Ready").reason == "NothingAccepted")
    assert node.log.having("cannot use the last known good config", "cannot be judged within 0.5 s")
    node.commit(shares(4))
    await node.advertises({SHARED: 32})


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, *paths: Path) -> Iterator[None]:
    """Whoever looks for these paths, or below them, waits."""
    go = threading.Event()
    really = os.stat

    def look(path: Any, **options: Any) -> os.stat_result:  # noqa: ANN401 - those of os.stat
        if isinstance(path, str | Path) and any(Path(path).is_relative_to(one) for one in paths):
            go.wait()
        return really(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", look)
        try:
            yield
        finally:
            go.set()


async def test_a_mount_that_hangs_from_the_start(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP is served before anybody looks at the mount; what is applied stays, the reason is told, and it stops in
    time. When the mount answers it is read.
    """
    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    await first.stop()
    with hanging(monkeypatch, node.mount.directory):
        agent = await node.agent()
        assert await agent.live()
        await node.advertises({SHARED: 32})
        await eventually(lambda: agent.says("ConfigAccepted").message.startswith("cannot read config: no answer from"))
        begun = time.monotonic()
        await agent.stop()
        assert time.monotonic() - begun < longer(STOP_SECONDS)
        again = await node.agent()
    node.commit(shares(6))
    await node.allocatable(48)
    await eventually(lambda: again.says("ConfigAccepted").status)


@pytest.mark.parametrize("part", [None, Reconciler], ids=["all but the loop", "the loop too"])
async def test_parts_that_do_not_end(node: Node, monkeypatch: pytest.MonkeyPatch, part: type | None) -> None:
    """Parts that do not end when they are told to are ended together: the streams end before them, the port and the
    lock are free after them, and all of that takes less than a stop may take.
    """
    go = asyncio.Event()

    async def stubborn(_part: object) -> None:
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await go.wait()

    node.commit(shares(4))
    first = await node.agent()
    await node.advertises({SHARED: 32})
    await first.stop()
    for one in (ConfigSource, ByLabel, HostLook, NoMps, NoNode, AdminSocket, *([part] if part else [])):
        monkeypatch.setattr(one, "run", stubborn)
    agent = await node.agent()
    if part is None:
        await node.advertises({SHARED: 32})
    begun = time.monotonic()
    await agent.stop()
    assert time.monotonic() - begun < longer(STOP_SECONDS)
    assert [end.by_kubelet for end in node.kubelet.streams_ended] == [False] * (1 if part else 2)
    monkeypatch.undo()
    again = await node.agent(listen=f"127.0.0.1:{agent.port}")
    await node.advertises({SHARED: 32})
    assert await again.live()
    go.set()
