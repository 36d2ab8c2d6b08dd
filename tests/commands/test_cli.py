"""What holds for every command: help, usage errors, exit codes, and what is imported for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nodeagent import __version__
from nodeagent.cli import COMMANDS, main
from nodeagent.commands import schema
from tests.commands.conftest import nodeagent
from tests.waiting import longer

HEAVY = {"grpc", "google.protobuf", "pynvml", "watchfiles", "prometheus_client", "jsonschema", "yaml"}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every help fits 80 columns, shows examples, and a command's names its exit codes."""
    assert main([*command.split(), "--help"]) == 0
    told = capsys.readouterr().out
    assert max(map(len, told.splitlines())) <= 80
    assert "examples:\n  nodeagent" in told
    assert "\nexit codes:\n  0 " in told
    assert not command or "exit codes:" in told


def test_the_bare_command_shows_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command the help is printed, and every command is in it; it is still a usage error."""
    assert main([]) == 64
    told = capsys.readouterr().out
    for command, summary in COMMANDS.items():
        assert re.search(rf"^ +{command} +{re.escape(summary)}$", told, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["rnu"],
            "status, wait, clear-health, mps-host, schema, convert, demo, got 'rnu'; did you mean run?",
        ),
        (["run", "--confg", "x"], "unrecognized arguments: --confg x"),
        (["run"], "--config (or NODEAGENT_CONFIG) must name the sharing config"),
        (["run", "--config", "x", "--log-level", "loud"], "expected one of debug, info, warning, error, got 'loud'"),
        (["validate"], "PATH"),
        (["validate", "--gpus", "0", "x"], "expected a number from 1 to 64, got '0'"),
        (["validate", "--gpus", "8", "--driver", "nvml", "x"], "not allowed with argument"),
        (["validate", "--driver", "cuda", "x"], "cannot open driver 'cuda'"),
        (["plan"], "--config"),
        (["status", "--agent", "ftp://x"], "expected a URL such as http://127.0.0.1:9400, got 'ftp://x'"),
        (["status", "--agent", "http://x:99999"], "expected a URL"),
        (["wait", "--blob", "3b18"], "expected 7 to 40 hexadecimal characters"),
        (["wait", "--blob", "3b18e512", "--timeout", "5"], "expected a duration such as 500ms, 90s, 30m or 4h"),
        (["schema", "sharing-confg"], "did you mean sharing-config?"),
        (["convert"], "FILE"),
        (["demo", "--speed", "0"], "expected a number above 0"),
    ],
)
def test_usage_errors_exit_with_64(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was typed wrong is said in a line on stderr; nothing goes to stdout, and the exit code is 64."""
    monkeypatch.delenv("NODEAGENT_CONFIG", raising=False)
    assert main(arguments) == 64
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""


def test_flags_are_never_guessed(capsys: pytest.CaptureFixture[str]) -> None:
    """An abbreviated flag is an error: a flag that is added later must not change what a script means."""
    assert main(["wait", "--blo", "3b18e512"]) == 64
    assert "--blob" in capsys.readouterr().err


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints name and version."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nodeagent {__version__}\n"


def test_a_fault_of_ours_exits_with_70(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception that nobody expected ends in 70, with its stack and one line that says what it is."""

    def broken(_: object) -> int:
        raise KeyError("shares")

    monkeypatch.setattr(schema, "execute", broken)
    assert main(["schema"]) == 70
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "nodeagent: internal error: KeyError: 'shares'\n" in told


def test_a_reader_that_leaves_is_no_fault() -> None:
    """`nodeagent … | head -1` ends without a word."""
    shell = f"{sys.executable} -m nodeagent schema status | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=longer(60), check=False)
    assert done.stdout == "{\n"
    assert done.stderr == ""


def test_any_text_can_be_told(tmp_path: Path) -> None:
    """Names that are no text, an ASCII terminal and a closed stdout are no faults of ours."""
    folder = os.fsencode(tmp_path)
    with open(folder + b"/\xff.yaml", "wb") as file:  # noqa: PTH123 - a path of bytes
        file.write(b"apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata: {name: a}\n")
    done = nodeagent("validate", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 1, done.stderr
    assert "1 file: 1 invalid (1 mistake)" in done.stdout
    shell = f"{sys.executable} -m nodeagent validate {tmp_path} >&-"
    assert subprocess.run(["bash", "-c", shell], timeout=longer(60), check=False).returncode == 1


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["status", "--help"], ["validate", "--help"]])
def test_help_imports_little(arguments: list[str]) -> None:
    """Help is there at once: no library that only the work needs is imported for it."""
    program = (
        "import sys; from nodeagent.cli import main; "
        f"main({arguments!r}); print('\\n'.join(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=longer(60), check=True
    )
    needed = {"yaml"} if arguments[0] == "validate" else set()
    assert not (HEAVY - needed) & set(done.stderr.split())


def test_run_imports_no_other_command() -> None:
    """What other commands need is not paid for on every node."""
    program = (
        "import sys; from nodeagent.cli import main; import nodeagent.agent; "
        "main(['run', '--config', '/none', '--driver', 'nothing']); print('\\n'.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=longer(60), check=True
    )
    loaded = set(done.stdout.split())
    assert {name for name in loaded if name.startswith("nodeagent.commands.")} == {
        "nodeagent.commands.exits",
        "nodeagent.commands.run",
        "nodeagent.commands.variables",
    }
    assert not {"jsonschema", "nodeagent.sim", "nodeagent.config.bundle"} & loaded


def test_the_program_can_be_started_both_ways() -> None:
    """`python -m nodeagent` is the console script."""
    assert nodeagent("--version").stdout == f"nodeagent {__version__}\n"
