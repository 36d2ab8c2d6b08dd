"""What an agent says of itself in the middle of everything is well formed and complete."""

from __future__ import annotations

import subprocess
from pathlib import Path

import jsonschema

from nodeagent.documents.schema import load_schema
from tests.agent.documents import SHARED, exclusive, sharing, time_sliced, withheld
from tests.agent.harness import InProcess, Node
from tests.waiting import eventually


async def troubled(node: Node) -> InProcess:
    """An agent with a drain, a lost GPU, a withheld one and a document that it has rejected."""
    node.commit(sharing(time_sliced(4), suspend=False), revision="r1")
    agent = await node.agent(pool="a")
    await node.advertises({SHARED: 32})
    await node.hold(16)
    node.commit(sharing(time_sliced(1, at=[0, 1]), withheld(at=[2]), exclusive()), revision="r2")
    node.simulate(health={7: "lost"})
    await eventually(lambda: agent.says("Draining").status and not agent.says("InventoryReady").status)
    node.commit(b"spec: {rules: []}\n")
    await eventually(lambda: not agent.says("ConfigAccepted").status)
    return agent


async def test_the_status_keeps_to_its_schema(node: Node) -> None:
    """The status of a node in trouble is valid, and tells of each pod which share it has."""
    agent = await troubled(node)
    status = await agent.status()

    jsonschema.validate(status, load_schema("status-v1alpha1"))
    held = [share for gpu in status["gpus"] for share in gpu["shares"] if share["held"]]
    assert len(held) == 16
    await eventually(lambda: all(share.holder for gpu in agent.snapshot.gpus for share in gpu.shares if share.held))
    assert {drift["kind"] for drift in status["drift"]} == {"config", "shares", "hardware"}
    assert (await agent.get("/")).code == 200


async def test_the_metrics_pass_the_linter(node: Node, promtool: Path) -> None:
    """The metrics of a node in trouble have nothing that Prometheus' own linter objects to."""
    agent = await troubled(node)
    metrics = (await agent.get("/metrics")).body

    checked = subprocess.run([promtool, "check", "metrics"], input=metrics, capture_output=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
