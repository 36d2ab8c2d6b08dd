"""Exit codes: one table for all commands, the same in the code, in `--help` and on the page."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from types import ModuleType

import pytest

from nodeagent.cli import COMMANDS
from nodeagent.commands import exits
from tests.commands.conftest import nodeagent
from tests.conftest import ROOT
from tests.waiting import longer

PAGE = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def module(command: str) -> ModuleType:
    """What a command is made of."""
    return import_module(f"nodeagent.commands.{command.replace('-', '_')}")


def test_the_table_is_on_the_page_and_in_the_help() -> None:
    """Every code with its meaning, in the same words."""
    rows = {int(code): told.replace("`", "") for code, told in re.findall(r"^\| (\d+) \| (.+) \|$", PAGE, re.MULTILINE)}
    assert rows == dict(exits.TABLE)
    told = " ".join(nodeagent("--help").stdout.split())
    for code, meaning in exits.TABLE.items():
        assert f"{code} {meaning}" in told


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_lists_its_own(command: str) -> None:
    """With what they mean for it: in its help, and by number in its row of the page. All are of the table."""
    own: exits.Exits = module(command).EXITS
    assert own.keys() <= exits.TABLE.keys()
    assert not own.keys() & set(exits.ALWAYS)
    assert list(own) == sorted(own)
    _, _, told = nodeagent(command, "--help").stdout.partition("\nexit codes:\n")
    for code, meaning in own.items():
        assert f" {code} {meaning}" in f" {' '.join(told.split())}"
    assert re.findall(r"^  (\d+) ", told, re.MULTILINE) == [*map(str, own), "64"]
    (row,) = re.findall(rf"^\| \[`{command}`\].+ \| ([^|]+) \|$", PAGE, re.MULTILINE)
    assert [int(code) for code in re.findall(r"(?:^|, )(\d+) ", row)] == list(own)


@pytest.mark.parametrize("command", COMMANDS)
def test_two_is_for_those_who_ask_for_it(command: str) -> None:
    """A command that can end with 2 has the flag, and no other has."""
    has_flag = "--detailed-exitcode" in nodeagent(command, "--help").stdout.partition("\nexit codes:\n")[0]
    assert has_flag is (exits.DIFFERS in module(command).EXITS)


@pytest.mark.parametrize("typed", ["validate -", "convert -", "plan --config -"])
@pytest.mark.parametrize(("end", "why"), [("<&-", "it is closed"), ("0>/dev/null", "bad file descriptor")])
def test_stdin_that_cannot_be_read_is_unreadable(typed: str, end: str, why: str) -> None:
    """As a file that cannot be; it is no fault of ours."""
    shell = f"{sys.executable} -m nodeagent {typed} {end}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=longer(60), check=False)
    assert (done.returncode, done.stderr) == (4, f"nodeagent {typed.partition(' ')[0]}: cannot read stdin: {why}\n")


def test_no_command_makes_up_a_code() -> None:
    """What a command ends with is a name of the table, never a number."""
    for file in (ROOT / "nodeagent" / "commands").glob("*.py"):
        assert not re.search(r"Failure\([^()]*, \d+\)|^    return \d+$", file.read_text(encoding="utf-8"), re.MULTILINE)
