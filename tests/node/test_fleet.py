"""What a fleet costs the API server: 300 agents in one process, and every request counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.fakes.api_server import ApiServer
from tests.node.fleet import AGENTS, DRAINING, NEW, OLD, asked, fleet
from tests.waiting import eventually


async def test_requests_of_a_fleet(tmp_path: Path) -> None:
    """At the start one watch and one write per agent; a reload is one write per agent, and one more where pods hold it
    up; a restart of the API server costs each a watch or two, and nothing is written.
    """
    async with ApiServer(tmp_path / "api") as server, fleet(server) as nodes:
        assert await asked(server, nodes, OLD) == {"watch nodes": AGENTS, "patch nodes": AGENTS}
        assert await asked(server, nodes, DRAINING, NEW) == {"patch nodes": AGENTS}
        assert await asked(server, nodes, DRAINING) == {"patch nodes": AGENTS}
        assert await asked(server, nodes, NEW) == {"patch nodes": AGENTS}
        before = len(server.asked)
        await server.stop()
        await server.start()
        await eventually(lambda: server.watches == AGENTS, within=120.0)
        again = Counter(entry.what for entry in server.asked[before:])
        assert again.keys() == {"watch nodes"}
        assert AGENTS <= again["watch nodes"] <= 2 * AGENTS
