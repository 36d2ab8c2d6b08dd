"""The docs are held to their word: what they tell a reader to type is typed, and where they point there is something.

The convention is in CONTRIBUTING.md: `console` blocks are run, `yaml` blocks that hold a whole config are validated,
and what only illustrates is `text`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.markdown import Command, anchors, blocks, commands, links, matches, pages
from tests.waiting import longer

PAGES = pages(ROOT)
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
UNTRIED = {"", "sh", "bash", "shell"}
WHOLE_CONFIG = re.compile(r"^(kind: SharingConfig|version: v1)$", re.MULTILINE)


def name(page: Path) -> str:
    """Name a page as its reader does."""
    return str(page.relative_to(ROOT))


def try_out(command: Command, folder: Path) -> subprocess.CompletedProcess[str]:
    """Type a command as a reader would who has nodeagent on PATH, 80 columns, and `folder` before them."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "COLUMNS": "80",
        "NO_COLOR": "1",
    }
    return subprocess.run(
        ["bash", "-c", command.text],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=longer(60),
        check=False,
    )


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """Give a folder that holds what a reader has at hand: the examples and the schemas."""
    for folder in ("examples", "schemas"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_shows_what_really_happens(page: Path, reader: Path) -> None:
    """Each command of a page's console blocks, typed in order, exits and prints as the page says."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "console":
            for command in commands(block):
                done = try_out(command, reader)
                said = f"{name(page)}:{command.line}: $ {command.text}\n{done.stdout}"
                assert done.returncode == command.exits, f"{said}[exited {done.returncode}]"
                assert not command.output or matches(command.output, done.stdout), said


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_shows_only_configs_that_are_valid(page: Path, reader: Path) -> None:
    """A `yaml` block that holds a whole sharing config passes `nodeagent validate`."""
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.language == "yaml" and WHOLE_CONFIG.search(block.text):
            (reader / "shown.yaml").write_text(block.text, encoding="utf-8")
            done = try_out(Command(block.line, "nodeagent validate shown.yaml", 0, ()), reader)
            assert done.returncode == 0, f"{name(page)}:{block.line}:\n{done.stdout}"


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_no_block_looks_as_if_it_had_been_tried(page: Path) -> None:
    """A block names its language; commands stand in `console` (run) or `text` (illustration)."""
    untried = [block.line for block in blocks(page.read_text(encoding="utf-8")) if block.language in UNTRIED]
    assert not untried, f"{name(page)}: lines {untried}"


@pytest.mark.parametrize("page", LINKING, ids=name)
def test_every_link_leads_somewhere(page: Path) -> None:
    """A relative link names a file of the checkout, and its fragment a heading there."""
    for target in links(page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name(page)}: {target}"
        if fragment:
            assert fragment in anchors(there.read_text(encoding="utf-8")), f"{name(page)}: {target}"


def test_every_page_can_be_found_from_the_index() -> None:
    """Whoever follows links from docs/README.md comes to each page of docs/."""
    index = ROOT / "docs" / "README.md"
    found = {index}
    todo = [index]
    while todo:
        page = todo.pop()
        for target in links(page.read_text(encoding="utf-8")):
            there = (page.parent / target.partition("#")[0]).resolve()
            if there.suffix == ".md" and there.is_file() and there not in found:
                found.add(there)
                todo.append(there)
    assert set(PAGES[1:]) <= found
