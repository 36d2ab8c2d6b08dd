"""What must agree between the files of the project itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from importlib.resources import files

import pytest
from jsonschema import Draft202012Validator

import nodeagent
from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SCHEMAS = sorted(path.name for path in (ROOT / "schemas").glob("*.json"))


def test_the_version_is_said_once_and_the_same_everywhere() -> None:
    """The program reports the version of its package, and the changelog has a section for it or for what comes next."""
    assert nodeagent.__version__ == PROJECT["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[({re.escape(PROJECT['version'])}|Unreleased)\]", changelog, re.MULTILINE)


def test_dependencies_have_a_lower_bound_and_a_major() -> None:
    """Every dependency says what it needs at least and before which major it stops."""
    for dependency in PROJECT["dependencies"]:
        assert re.fullmatch(r"[A-Za-z-]+>=[\d.]+,<\d+", dependency), dependency


def test_the_lock_holds_versions_alone() -> None:
    """The locked environment can be made anywhere: it names no index, no path and no option, and it pins everything."""
    lines = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert pins
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[\w.]+", pin), pin


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_package_carries_each_schema(name: str) -> None:
    """A schema is found as package data, is a valid JSON Schema, and tells editors what it is."""
    carried = files("nodeagent").joinpath("schemas", name).read_bytes()
    assert carried == (ROOT / "schemas" / name).read_bytes()
    schema = json.loads(carried)
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["title"]
    assert schema["description"]


@pytest.mark.parametrize("path", [ROOT / ".ci" / "run", *sorted((ROOT / "hack").iterdir())], ids=lambda path: path.name)
def test_a_script_can_be_started(path: os.PathLike[str]) -> None:
    """Each script of the project is executable and stops at its first failing command."""
    assert os.access(path, os.X_OK)
    text = (ROOT / path).read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n")
    assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize(
    ("target", "silent"), [("demo", ("pip install", "nodeagent demo")), ("test", ("pip install", "pytest"))]
)
def test_a_command_says_what_it_does_before_it_is_silent(target: str, silent: tuple[str, ...]) -> None:
    """Before each part that takes long, make says what comes and about how long it takes."""
    lines = subprocess.run(
        ["make", "--dry-run", "--always-make", target], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    said = [number for number, line in enumerate(lines) if re.match(r'echo ".*(minute)', line)]
    for part, announced in zip(silent, said, strict=True):
        begins = next(number for number, line in enumerate(lines) if part in line and not line.startswith("echo"))
        assert announced < begins
    tools = (ROOT / "hack" / "debian-tools").read_text(encoding="utf-8").splitlines()
    told, first = (
        next(at for at, line in enumerate(tools) if text in line) for text in ("some minutes", "provide gcc")
    )
    assert told < first
