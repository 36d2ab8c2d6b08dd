"""How commands read a status: what they need of it, and no more than they can hold."""

from __future__ import annotations

import json
from typing import Any

import pytest

from nodeagent.cli import main
from nodeagent.commands import client, status_report
from nodeagent.commands.client import Unreachable, fetch_status
from nodeagent.commands.terminal import Terminal
from nodeagent.model.snapshot import Snapshot
from nodeagent.report.status import to_json
from nodeagent.report.status_reader import applied_from_status
from tests.commands.conftest import Serve
from tests.report import builders
from tests.report.builders import AT

SNAPSHOTS = {
    "in sync": builders.snapshot(),
    "in trouble": builders.troubled(),
    "mps": builders.sharing_by_mps(),
    "mig": builders.partitioned(),
    "large": builders.large(2, 1000),
}


@pytest.mark.parametrize("snapshot", SNAPSHOTS.values(), ids=SNAPSHOTS)
def test_what_is_told_of_a_node_does_not_depend_on_how_it_is_read(snapshot: Snapshot, serve: Serve) -> None:
    """Free shares that are one say the same as each by itself: to people, and of what is applied and held."""
    agent = serve(snapshot).address
    brief, whole = (fetch_status(client.agent_url(agent), whole=each) for each in (False, True))
    assert whole == json.loads(json.dumps(to_json(snapshot)))
    texts = [list(status_report.text(status, agent, Terminal(80), AT)) for status in (brief, whole)]
    assert texts[0] == texts[1]
    assert applied_from_status(brief) == applied_from_status(whole)


def test_free_shares_are_one_in_memory(serve: Serve) -> None:
    """Where only that they are free is of interest; whoever has a share, and whatever else it is, is told of each."""
    status = fetch_status(client.agent_url(serve(builders.large(2, 3000)).address))
    shares: list[dict[str, Any]] = [share for gpu in status["gpus"] for share in gpu["shares"]]
    assert len({id(share) for share in shares if share["state"] == "free"}) == 1
    assert len({share["id"] for share in shares if share["state"] != "free"}) == 2000
    assert len(shares) == 6000


def test_the_json_of_a_status_has_every_share(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    """It is all of it, whatever is free."""
    snapshot = builders.large(1, 30)
    assert main(["status", "-o", "json", "--agent", serve(snapshot).address]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(to_json(snapshot)))


def test_a_status_has_a_size(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What answers without end is no agent, and is not read to its end."""
    monkeypatch.setattr(client, "MOST", 1 << 20)
    agent = client.agent_url(serve(builders.large(2, 10_000)).address)
    with pytest.raises(Unreachable, match=f"cannot read the status of {agent}: it has more than 1 MiB"):
        fetch_status(agent)
