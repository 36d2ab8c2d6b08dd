"""`nodeagent run` as a process: how it starts, what it never ends for, and what it says when it cannot start."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from nodeagent.cli import main
from tests.agent.documents import SHARED, shares
from tests.agent.harness import Node
from tests.commands.conftest import nodeagent
from tests.waiting import eventually


async def test_no_config_ends_it() -> None:
    """A missing config, then a broken one, leave it running; SIGTERM ends it with 0."""
    async with Node() as node:
        agent = await node.process()
        await eventually(lambda: "cannot read config" in agent.log)
        node.commit(b"\0binary")
        await eventually(lambda: "config rejected" in agent.log)
        node.commit(shares(4))
        await node.advertises({SHARED: 32})
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0


async def test_json_logs_are_json_to_the_last_line() -> None:
    """With --log-format json every line is an object, and a reload's has its facts as fields."""
    async with Node() as node:
        node.commit(shares(4), revision="main@sha1:abc")
        agent = await node.process(log_format="json")
        await node.advertises({SHARED: 32})
        await eventually(lambda: "config accepted" in agent.log)
        agent.signal(signal.SIGTERM)
        assert await agent.ended() == 0
        entries = [json.loads(line) for line in agent.log.splitlines()]
    (reload,) = (entry for entry in entries if entry["message"].startswith("config accepted"))
    assert reload["revision"] == "main@sha1:abc"
    assert reload["change"] == "live"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_an_address_in_use(tmp_path: Path, log_format: str) -> None:
    """What keeps it from starting is one line, in the format of the log, and exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = nodeagent(
            "run", "--config", tmp_path, "--state-dir", tmp_path, "--driver", f"simulated:{tmp_path}/node.yaml",
            "--kubelet-dir", tmp_path, "--listen", address, "--log-format", log_format,
        )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    said = json.loads(line)["message"] if log_format == "json" else line
    assert f"cannot listen on {address}" in said
    assert "Address already in use" in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--driver", "cuda"], 'cannot open driver \'cuda\': expected "nvml" or "simulated:FILE"'),
        (["--listen", "9400"], "expected host:port, got '9400'"),
    ],
)
def test_options_that_cannot_work(arguments: list[str], said: str, tmp_path: Path) -> None:
    """An option that no agent can start with exits with 1 and is named."""
    done = nodeagent("run", "--config", tmp_path, "--state-dir", tmp_path, "--kubelet-dir", tmp_path, *arguments)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_bad_environment_is_a_usage_error(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable with an impossible value is named, exit code 64."""
    monkeypatch.setenv("NODEAGENT_LOG_FORMAT", "xml")
    assert main(["run", "--config", "x"]) == 64
    told = capsys.readouterr().err
    assert told == "nodeagent run: NODEAGENT_LOG_FORMAT must be one of text, json, got 'xml'\n"
