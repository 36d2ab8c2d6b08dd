"""A fleet of agents in one process, as the Kubernetes API sees it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from nodeagent.model.node import NodeReport, SyncReason
from nodeagent.node.api_client import ApiClient
from nodeagent.node.api_node import ApiNode
from tests.fakes.api_server import ApiServer
from tests.waiting import eventually

AGENTS = 300
BLOB, ACCEPTED, STATE = "nodeagent.io/config.blob", "nodeagent.io/config.accepted-blob", "nodeagent.io/config.state"
OLD = NodeReport({STATE: "applied", ACCEPTED: "76045d81ee80", BLOB: "76045d81ee80"}, settled=True)
DRAINING = NodeReport({STATE: "draining", ACCEPTED: "5beb4efc651e", BLOB: "76045d81ee80"}, settled=True)
NEW = NodeReport({STATE: "applied", ACCEPTED: "5beb4efc651e", BLOB: "5beb4efc651e"}, settled=True)


@asynccontextmanager
async def fleet(server: ApiServer) -> AsyncIterator[list[ApiNode]]:
    """Agents on as many nodes, with the pace that they have in a cluster."""
    names = [f"node-{number}" for number in range(AGENTS)]
    for name in names:
        server.objects.add_node(name)
    nodes = [
        ApiNode(
            name,
            connect=lambda: ApiClient(server.kubeconfig),
            labels=True,
            taint=None,
            on_labels=lambda labels: None,
            wake=lambda: None,
        )
        for name in names
    ]
    tasks = [asyncio.create_task(node.run()) for node in nodes]
    try:
        yield nodes
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks)


async def asked(server: ApiServer, nodes: list[ApiNode], *reports: NodeReport) -> Counter[str]:
    """What is asked until all of them say the last of these reports."""
    before = len(server.asked)
    for report in reports:
        for node in nodes:
            node.want(report)
    labels = dict(reports[-1].labels)
    await eventually(
        lambda: all(
            node.status.reason is SyncReason.SYNCED and server.objects.labels(f"node-{number}") == labels
            for number, node in enumerate(nodes)
        ),
        within=120.0,
        every=0.2,
    )
    return Counter(entry.what for entry in server.asked[before:])
