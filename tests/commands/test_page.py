"""What docs/commands.md shows of commands that ask an agent is what they print.

Its `console` blocks are run by tests/test_docs.py. Those that need a node are `text` blocks there, and run here,
against the node of `shown.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent.model.config import Document
from nodeagent.model.snapshot import DocumentInfo, Snapshot
from nodeagent.settings import MPS_HOST_OPTIONS, OPTIONS, Option
from tests.commands import shown
from tests.commands.conftest import EXAMPLES, Serve
from tests.conftest import ROOT
from tests.fakes.api_server import ApiServer
from tests.markdown import Command, blocks, commands, matches
from tests.waiting import longer

PAGE = ROOT / "docs" / "commands.md"
IN_TABLES = (
    *("--driver-root", "--nvml-library", "--cgroup-root", "--mps-"),
    *("--device-list-", "--device-id-", "--pass-device-specs", "--dev-root"),
    *("--gds-", "--mofed-", "--gdrcopy-", "--imex-", "--cdi-"),
    *("--labels", "--machine-type-", "--kube-api", "--kubeconfig", "--config-label", "--config-default", "--startup-"),
)
AS_OF_RUN = {"--node-name", "--log-format", "--log-level"}
TYPED = [
    command
    for block in blocks(PAGE.read_text(encoding="utf-8"))
    if block.language == "text"
    for command in commands(block)
]


def line(command: Command) -> str:
    """What a test of one command is called."""
    return f"line {command.line}"


def run(typed: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Type it in a shell."""
    return subprocess.run(
        ["bash", "-c", typed],
        cwd=directory,
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "COLUMNS": "80",
            **environment,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=longer(60),
        check=False,
    )


def typo() -> DocumentInfo:
    """The document that the page makes of an example with `sed`."""
    data = (EXAMPLES / "time-slicing.yaml").read_bytes().replace(b"replicas", b"replica")
    document = Document(shown.PATH, data)
    return DocumentInfo(shown.PATH, document.sha256, document.git_blob, None, None, len(data))


def node(command: Command) -> Snapshot:
    """How the node stands when the page types a command."""
    if "typo.yaml" in command.text:
        return shown.rejecting(typo())
    if "gpu-node-12" in command.text:
        return shown.partitioned()
    if "gpu-node-9" in command.text:
        return shown.under_mps()
    return shown.before() if " plan " in command.text else shown.draining()


@pytest.mark.parametrize("command", [one for one in TYPED if "--pool" not in one.text], ids=line)
def test_the_page_shows_what_really_happens(command: Command, serve: Serve, tmp_path: Path) -> None:
    """A command of the page, typed against the node that it speaks of, prints and exits as shown."""
    agent = serve(node(command))
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "typo.yaml").write_bytes((EXAMPLES / "time-slicing.yaml").read_bytes().replace(b"replicas", b"replica"))
    typed = command.text.partition(" # exits ")[0] + f" --agent {agent.address}"
    done = run(typed, tmp_path)
    output = done.stdout.replace(agent.address, "127.0.0.1:9400")
    assert matches(command.output, output), output
    assert done.returncode == command.exits


@pytest.mark.parametrize("command", [one for one in TYPED if "--pool" in one.text], ids=line)
def test_the_page_shows_a_pool(command: Command, cluster: ApiServer, tmp_path: Path) -> None:
    """The same of commands that ask an API server, which knows the canary pool that the page speaks of."""
    done = run(command.text.partition(" # exits ")[0], tmp_path, KUBECONFIG=str(cluster.kubeconfig))
    assert matches(command.output, done.stdout), done.stdout
    assert done.returncode == command.exits
    assert {asked.what for asked in cluster.asked} == {"list nodes"}


def test_the_page_shows_an_agent() -> None:
    """The commands that need one are all on the page."""
    assert {command.text.split()[1] for command in TYPED} == {"plan", "status", "wait"}


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("run", [option for option in OPTIONS if option.flag.startswith(IN_TABLES)]),
        ("mps-host", [option for option in MPS_HOST_OPTIONS if option.flag not in AS_OF_RUN]),
    ],
)
def test_the_options_are_told(command: str, options: list[Option]) -> None:
    """Flag and default of each are in the tables of the command."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {command}\n")
    rows = re.findall(r"^\| `(--[a-z-]+)` \| `?([^`|]+?)`? \| .+ \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert rows == [(option.flag, option.default or ("off" if option.switch else "none")) for option in options]
