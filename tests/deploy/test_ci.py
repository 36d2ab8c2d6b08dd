"""What checks a config before a merge does as docs/ci.md says: the annotations, the jobs, the hook, the schemas."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from nodeagent.cli import main
from tests.conftest import ROOT
from tests.markdown import blocks
from tests.waiting import longer

BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
PUBLISHED = "https://raw.githubusercontent.com/nodeagent/nodeagent/main/"
MODELINE = re.compile(r"# yaml-language-server: \$schema=(\S+)\n")

GOOD = (ROOT / "examples" / "time-slicing.yaml").read_text(encoding="utf-8")
TYPO = GOOD.replace("replicas", "replica")
LINE = next(number for number, line in enumerate(TYPO.splitlines(), start=1) if "replica:" in line)

POOLS = ("t4-dev", "mixed")

# A config that is there once more by a link is looked at where it is.
CONFIGS = sorted(
    file
    for folder in ("examples", "examples/simulated", "kustomize/base", "kustomize/overlays/*")
    for file in ROOT.glob(f"{folder}/*.yaml")
    if not file.is_symlink()
    and re.search(r"^(kind: (SharingConfig|SimulatedNode)|version: v1)$", file.read_text(), re.MULTILINE)
)


def run(*command: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program as CI does, with nodeagent, kubectl and pre-commit on PATH."""
    return subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
        capture_output=True,
        text=True,
        timeout=longer(600),
        check=False,
    )


# --- annotations in a pull request ---------------------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What GitHub's runner gives a step: a checkout, named by a variable, with a mistake in it."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters" / "a").mkdir(parents=True)
    (tmp_path / "clusters" / "a" / "sharing.yaml").write_text(TYPO, encoding="utf-8")
    return tmp_path


def annotation(capsys: pytest.CaptureFixture[str]) -> str:
    """The first thing that was told."""
    return capsys.readouterr().out.splitlines()[0]


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        (".", "clusters/a/sharing.yaml"),
        (".", "./clusters"),
        ("clusters/a", "sharing.yaml"),
        ("clusters/a", "."),
        ("clusters", "../clusters/a/../a/sharing.yaml"),
        ("clusters", "{workspace}/clusters/a/sharing.yaml"),
    ],
)
def test_github_is_told_the_path_in_the_repository(
    folder: str, path: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """However a file was named, and wherever the step works, it has its path from the root of the checkout."""
    monkeypatch.chdir(workspace / folder)
    assert main(["validate", "-o", "github", path.format(workspace=workspace)]) == 1
    assert annotation(capsys).startswith(f"::error file=clusters/a/sharing.yaml,line={LINE},col=21,title=")


def test_a_file_outside_the_checkout_keeps_its_path(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not in the checkout is told as it was named."""
    monkeypatch.setenv("GITHUB_WORKSPACE", str(workspace / "elsewhere"))
    assert main(["validate", "-o", "github", str(workspace / "clusters")]) == 1
    assert annotation(capsys).startswith(f"::error file={workspace}/clusters/a/sharing.yaml,line={LINE},")


def test_github_is_told_no_file_for_stdin(workspace: Path) -> None:
    """What kustomize printed is in no file: the annotation has none, and the message has the line of the stream."""
    done = run("sh", "-c", "nodeagent validate -o github - <clusters/a/sharing.yaml", cwd=workspace)
    assert done.returncode == 1
    assert done.stdout.startswith(
        f"::error title=nodeagent validate::stdin:{LINE}:21: spec.rules[0].timeSlicing.replica"
    )


def test_github_is_told_what_cannot_be_read(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unreadable file is an annotation too, escaped as the runner reads it, and has its own exit code."""
    assert main(["validate", "-o", "github", "clusters/100%,absent:.yaml"]) == 4
    assert annotation(capsys) == (
        "::error file=clusters/100%25%2Cabsent%3A.yaml,title=nodeagent validate::"
        "cannot read clusters/100%25,absent:.yaml: no such file or directory"
    )


# --- jobs of the page ------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository as the page's jobs expect it: two pools, their overlays, and a simulated node for each."""
    for folder in ("base", "components", *(f"overlays/{pool}" for pool in POOLS)):
        shutil.copytree(ROOT / "kustomize" / folder, tmp_path / folder)
    for folder in ("pools", "simulated"):
        (tmp_path / folder).mkdir()
    for pool in POOLS:
        shutil.copy(tmp_path / "overlays" / pool / "sharing.yaml", tmp_path / "pools" / f"{pool}.yaml")
        shutil.copy(ROOT / "examples" / "simulated" / "h100x8.yaml", tmp_path / "simulated" / f"{pool}.yaml")
    return tmp_path


def shown(first: str) -> Any:  # noqa: ANN401  # a document of YAML is anything
    """The page's YAML block with this first line."""
    (text,) = [each.text for each in blocks(PAGE) if each.language == "yaml" and each.text.startswith(first)]
    return yaml.safe_load(text)


def github_steps() -> list[str]:
    """The scripts of the page's workflow, without the installation."""
    steps = shown("name: GPU nodes")["jobs"]["check"]["steps"]
    return [step["run"] for step in steps if "run" in step and not step["run"].startswith("pip install")]


def test_the_workflow_passes_where_all_is_well(repository: Path) -> None:
    """Each step of the page's workflow succeeds on good configs; the summary tells what each pool's node becomes."""
    summary = repository / "summary.md"
    for script in github_steps():
        done = run("bash", "-eo", "pipefail", "-c", script, cwd=repository, GITHUB_STEP_SUMMARY=str(summary))
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    text = summary.read_text(encoding="utf-8")
    assert [f"### {pool}\n" in text for pool in POOLS] == [True, True]
    assert text.count("class live") == 2


@pytest.mark.parametrize(("step", "where"), [(0, "pools/t4-dev.yaml"), (1, "overlays/t4-dev/sharing.yaml")])
def test_the_workflow_fails_where_something_is_wrong(step: int, where: str, repository: Path) -> None:
    """A mistake in a file, or in what is applied, fails the step that looks at it, with an annotation."""
    (repository / where).write_text(TYPO, encoding="utf-8")
    done = run("bash", "-eo", "pipefail", "-c", github_steps()[step], cwd=repository)
    assert done.returncode != 0
    assert "::error " in done.stdout


def test_an_overlay_that_does_not_render_fails_the_workflow(repository: Path) -> None:
    """That kustomize failed is not lost in the pipe, in either of the two jobs."""
    (repository / "overlays" / "t4-dev" / "sharing.yaml").unlink()
    job = shown("gpu-nodes:")["gpu-nodes"]["script"]
    scripts = [github_steps()[1], "\n".join(line for line in job if not line.startswith("pip install"))]
    for script in scripts:
        assert run("bash", "-eo", "pipefail", "-c", script, cwd=repository).returncode != 0


def test_the_gitlab_job_does_as_it_says(repository: Path) -> None:
    """The page's job passes on good configs, fails on a mistake, and leaves all mistakes as JSON."""
    job = shown("gpu-nodes:")["gpu-nodes"]
    script = "\n".join(line for line in job["script"] if not line.startswith("pip install"))
    done = run("bash", "-eo", "pipefail", "-c", script, cwd=repository)
    assert done.returncode == 0, done.stdout + done.stderr
    (repository / "pools" / "t4-dev.yaml").write_text(TYPO, encoding="utf-8")
    assert run("bash", "-eo", "pipefail", "-c", script, cwd=repository).returncode != 0
    assert run("bash", "-eo", "pipefail", "-c", "\n".join(job["after_script"]), cwd=repository).returncode == 0
    (artifact,) = job["artifacts"]["paths"]
    assert json.loads((repository / artifact).read_text(encoding="utf-8"))["valid"] is False


# --- pre-commit ----------------------------------------------------------------------------------------------------


def hook() -> dict[str, Any]:
    """The hook that other repositories use."""
    (found,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_the_hook_takes_configs_by_the_name_that_the_agent_looks_for() -> None:
    """Its command is one that the package installs; its pattern is the agent's file name, and not a kustomization."""
    program, command = hook()["entry"].split()
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert (program in scripts, command, hook()["language"]) == (True, "validate", "python")
    (used,) = shown("repos:")["repos"]
    assert [each["id"] for each in used["hooks"]] == [hook()["id"]]
    pattern = re.compile(hook()["files"])
    assert pattern.search("sharing.yaml")
    assert pattern.search("overlays/t4-dev/sharing.yml")
    assert not pattern.search("overlays/t4-dev/kustomization.yaml")
    assert not pattern.search("time-sharing.yaml")


@pytest.mark.timeout(600)
def test_the_hook_checks_a_commit(tmp_path: Path) -> None:
    """pre-commit itself installs the hook from a repository, lets a good config pass, and stops one with a mistake."""
    if importlib.util.find_spec("pre_commit") is None:
        message = "pre-commit is not here: it is one of the development packages"
        pytest.fail(message) if os.environ.get("CI") == "true" else pytest.skip(message)
    ours, theirs = tmp_path / "nodeagent", tmp_path / "fleet"
    leave_out = shutil.ignore_patterns("__pycache__")
    environment = {"PRE_COMMIT_HOME": str(tmp_path / "home"), "HOME": str(tmp_path), "GIT_CONFIG_NOSYSTEM": "1"}
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "core.hooksPath=/dev/null"]
    for name in ("nodeagent", "schemas"):
        shutil.copytree(ROOT / name, ours / name, symlinks=True, ignore=leave_out)
    for file in ("pyproject.toml", "LICENSE", "README.md", ".pre-commit-hooks.yaml"):
        shutil.copy(ROOT / file, ours)
    theirs.mkdir()
    for folder in (ours, theirs):
        assert run(*git, "init", "--quiet", cwd=folder, **environment).returncode == 0
    run(*git, "add", "--all", cwd=ours, **environment)
    assert run(*git, "commit", "--quiet", "--message", "x", cwd=ours, **environment).returncode == 0
    commit = run(*git, "rev-parse", "HEAD", cwd=ours, **environment).stdout.strip()

    uses = {"repos": [{"repo": str(ours), "rev": commit, "hooks": [{"id": hook()["id"]}]}]}
    (theirs / ".pre-commit-config.yaml").write_text(yaml.safe_dump(uses), encoding="utf-8")
    (theirs / "sharing.yaml").write_text(GOOD, encoding="utf-8")
    (theirs / "kustomization.yaml").write_text("resources: []\n", encoding="utf-8")
    run(*git, "add", "--all", cwd=theirs, **environment)
    pre_commit = [sys.executable, "-m", "pre_commit", "run", "--color", "never"]
    done = run(*pre_commit, cwd=theirs, **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^nodeagent validate\.+Passed$", done.stdout, re.MULTILINE)

    (theirs / "sharing.yaml").write_text(TYPO, encoding="utf-8")
    run(*git, "add", "--all", cwd=theirs, **environment)
    done = run(*pre_commit, cwd=theirs, **environment)
    assert done.returncode == 1
    assert (
        f'sharing.yaml:{LINE}:21: spec.rules[0].timeSlicing.replica: expected a known key, got "replica"' in done.stdout
    )


# --- schemas for editors -------------------------------------------------------------------------------------------


def test_the_configs_are_found() -> None:
    """What the next test looks at is there: examples of all three formats, and what overlays have."""
    names = {str(file.relative_to(ROOT)) for file in CONFIGS}
    for expected in ("examples/mixed.yaml", "examples/nvidia-v1.yaml", "examples/simulated/h100x8.yaml"):
        assert expected in names
    assert sum(name.startswith("kustomize/overlays/") for name in names) == 5


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT)))
def test_an_editor_finds_the_schema_of_every_config(file: Path) -> None:
    """A config begins with a modeline, which leads to a schema of ours, which accepts it."""
    found = MODELINE.match(file.read_text(encoding="utf-8"))
    assert found, "the first line is no modeline"
    schema = (file.parent / found.group(1)).resolve()
    assert schema.parent == ROOT / "schemas"
    jsonschema.Draft202012Validator(json.loads(schema.read_text(encoding="utf-8"))).validate(
        yaml.safe_load(file.read_text(encoding="utf-8"))
    )


def test_the_published_schemas_are_there() -> None:
    """Each address of a schema that the page names is a file of this repository."""
    addresses = re.findall(re.escape(PUBLISHED) + r"([\w./-]+)", PAGE)
    assert len(set(addresses)) == 3
    for path in addresses:
        assert (ROOT / path).is_file()
