"""Commands that ask an agent, against a real one: it follows a real mount and serves a real socket of the kubelet."""

from __future__ import annotations

import asyncio
import json
import subprocess

from nodeagent.model.config import Document
from tests.agent.documents import GPU, SHARED, exclusive, shares, sharing, time_sliced
from tests.agent.harness import Node
from tests.commands.conftest import nodeagent


async def ask(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Type a command while the node goes on."""
    return await asyncio.to_thread(nodeagent, *arguments)


async def test_a_commit_from_plan_to_applied() -> None:
    """What plan foretells is what happens: status and wait tell it step by step, and at last nothing is left to do."""
    async with Node(gpus=2) as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 20})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        pods = await node.fill(0, 6)

        new = node.directory / "new.yaml"
        new.write_bytes(sharing(time_sliced(4, at=[0]), exclusive()))
        blob = Document("", new.read_bytes()).git_blob
        # A share that was let go counts as held for a while after its grant: until then the plan is a careful one.
        plan = await ask("plan", "--config", new, *where, "-o", "json")
        assert plan.returncode == 2, plan.stderr
        first = json.loads(plan.stdout)["gpus"][0]
        assert (first["before"]["shares"], first["after"]["shares"], len(first["draining"])) == (10, 4, 2)

        node.commit(new.read_bytes())
        done = await ask("wait", "--blob", blob, *where, "--timeout", "30s")
        assert done.returncode == 0, done.stderr
        assert (await ask("wait", "--blob", blob, *where, "--applied", "--timeout", "500ms")).returncode == 1
        status = await ask("status", *where)
        assert status.returncode == 1
        assert "Draining, PodsHoldShares" in status.stdout

        for pod in pods:
            await node.kubelet.end(pod)
        done = await ask("wait", "--blob", blob[:12], *where, "--applied", "--timeout", "60s")
        assert done.returncode == 0, done.stderr
        await node.advertises({SHARED: 4, GPU: 1})
        assert (await ask("status", *where)).returncode == 0
        plan = await ask("plan", "--config", new, *where)
        assert plan.returncode == 0, plan.stdout
        assert "nothing would change" in plan.stdout


async def test_a_rejected_commit() -> None:
    """A rejection ends `wait` at once, with the errors of the document; `status` shows them, exit code 1."""
    async with Node(gpus=1) as node:
        node.commit(shares(10))
        agent = await node.agent()
        await node.advertises({SHARED: 10})
        where = ["--agent", f"127.0.0.1:{agent.port}"]
        bad = shares(10).replace(b"replicas", b"replica")
        node.commit(bad)
        done = await ask("wait", "--blob", Document("", bad).git_blob, *where, "--timeout", "1h")
        assert done.returncode == 1
        assert 'got "replica"; did you mean "replicas"?' in done.stderr
        status = await ask("status", *where)
        assert status.returncode == 1
        assert 'got "replica"; did you mean "replicas"?' in " ".join(status.stdout.split())
        await node.advertises({SHARED: 10})
