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
from tests.markdown import Command, blocks, commands, matches

PAGE = ROOT / "docs" / "commands.md"
IN_TABLES = (
    *("--driver-root", "--nvml-library", "--mps-"),
    *("--device-list-", "--device-id-", "--pass-device-specs", "--dev-root"),
    *("--gds-", "--mofed-", "--gdrcopy-", "--imex-", "--cdi-"),
)
AS_OF_RUN = {"--node-name", "--log-format", "--log-level"}
TYPED = [
    command
    for block in blocks(PAGE.read_text(encoding="utf-8"))
    if block.language == "text"
    for command in commands(block)
]


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


@pytest.mark.parametrize("command", TYPED, ids=lambda command: f"line {command.line}")
def test_the_page_shows_what_really_happens(command: Command, serve: Serve, tmp_path: Path) -> None:
    """A command of the page, typed against the node that it speaks of, prints and exits as shown."""
    agent = serve(node(command))
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "typo.yaml").write_bytes((EXAMPLES / "time-slicing.yaml").read_bytes().replace(b"replicas", b"replica"))
    typed = command.text.partition(" # exits ")[0] + f" --agent {agent.address}"
    done = subprocess.run(
        ["bash", "-c", typed],
        cwd=tmp_path,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    output = done.stdout.replace(agent.address, "127.0.0.1:9400")
    assert matches(command.output, output), output
    assert done.returncode == command.exits


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
def test_the_options_for_drivers_and_mps_are_told(command: str, options: list[Option]) -> None:
    """Flag and default of each are in the tables of the command."""
    _, _, section = PAGE.read_text(encoding="utf-8").partition(f"\n## {command}\n")
    rows = re.findall(r"^\| `(--[a-z-]+)` \| `?([^`|]+?)`? \| .+ \|$", section.partition("\n## ")[0], re.MULTILINE)
    assert rows == [(option.flag, option.default or ("off" if option.switch else "none")) for option in options]
