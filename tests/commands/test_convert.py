"""`nodeagent convert` and `nodeagent schema`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.commands.schema import SCHEMAS
from nodeagent.config.load import load
from nodeagent.model.config import Document
from tests.commands.conftest import NVIDIAS, SHARED_BY_TEN, WRONG_TWICE, config_map, nodeagent
from tests.conftest import ROOT


def test_what_is_converted_means_the_same(tmp_path: Path) -> None:
    """The result is a valid config with the same rules; the notes go to stderr, so that it can be redirected."""
    path = tmp_path / "nvidia.yaml"
    path.write_text(NVIDIAS, encoding="utf-8")
    done = nodeagent("convert", path, "--name", "a100")
    assert done.returncode == 0
    assert done.stderr.startswith("note: line 5, sharing.timeSlicing.resources[0].devices: only these GPUs")
    before, after = load(Document("", NVIDIAS.encode())).config, load(Document("", done.stdout.encode())).config
    assert before is not None
    assert after is not None
    assert after.rules == before.rules
    assert after.name == "a100"


@pytest.mark.parametrize(("strategy", "noted"), [("none", True), ("single", False), ("mixed", False)])
def test_what_our_format_cannot_say_is_noted(
    strategy: str, noted: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """GPUs with MIG enabled are never offered as whole by our format: a note and a comment say so."""
    path = tmp_path / "nvidia.yaml"
    path.write_text(f"version: v1\nflags: {{migStrategy: {strategy}}}\n", encoding="utf-8")
    assert main(["convert", str(path)]) == 0
    told = capsys.readouterr()
    assert ("note: NVIDIA's migStrategy none would offer" in told.err) == noted
    assert ("# NVIDIA's migStrategy none would offer" in told.out) == noted


def test_a_config_map_or_a_pipe_will_do() -> None:
    """The file may be inside a ConfigMap, and come from stdin."""
    done = nodeagent("convert", "-", stdin=config_map(NVIDIAS))
    assert done.returncode == 0
    assert "name: converted" in done.stdout


def test_what_cannot_be_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An invalid file, several at once and an impossible name exit with 1, an unreadable file with 2."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(WRONG_TWICE, encoding="utf-8")
    assert main(["convert", str(bad)]) == 1
    assert f"{bad}:4:9: metadata.name" in capsys.readouterr().err
    two = tmp_path / "two.yaml"
    two.write_text(f"{config_map(NVIDIAS, 'one')}---\n{config_map(SHARED_BY_TEN, 'two')}", encoding="utf-8")
    assert main(["convert", str(two)]) == 1
    assert "cannot convert 2 configs at once" in capsys.readouterr().err
    good = tmp_path / "good.yaml"
    good.write_text(NVIDIAS, encoding="utf-8")
    assert main(["convert", str(good), "--name", "Not a name"]) == 1
    assert "cannot use that name: expected a name of 1 to 63" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "absent.yaml")]) == 4
    assert "no such file or directory" in capsys.readouterr().err


SEVERAL = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: configs}
data:
  default: |
    version: v1
    flags: {migStrategy: none}
  t4: |
    version: v1
    sharing: {timeSlicing: {resources: [{name: gpu, replicas: 4}]}}
  a100.yaml: |
    version: v1
    sharing: {timeSlicing: {resources: [{name: gpu, replicas: 8}]}}
  broken: |
    version: v1
    sharing: {timeSlicing: {resources: [{name: gpu, replicas: 1}]}}
"""


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("default", "exclusive: {}"),
        ("t4", "replicas: 4"),
        ("a100.yaml", "replicas: 8"),
        ("a100", "replicas: 8"),
        ("configs/t4", "replicas: 4"),
    ],
)
def test_one_of_several_is_chosen_by_its_key(key: str, says: str) -> None:
    """What is wrong with another one is no obstacle."""
    done = nodeagent("convert", "--config", key, "-", stdin=SEVERAL)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("broken", "expected a whole number from 2"),
        ("t5", "cannot convert t5: there is no config of that name, but "),
        ("others/t4", "cannot convert others/t4: there is no config of that name, but "),
        ("4", "cannot convert 4: there is no config of that name, but "),
    ],
)
def test_what_cannot_be_chosen(key: str, says: str) -> None:
    """Of one that is wrong it is said what is, of one that is not there what there is."""
    done = nodeagent("convert", "--config", key, "-", stdin=SEVERAL)
    assert done.returncode == 1
    assert says in done.stderr


def test_one_key_in_several_config_maps() -> None:
    """The name of the ConfigMap before the key says which one."""
    other = SEVERAL.replace("name: configs", "name: others").replace("replicas: 4", "replicas: 5")
    both = f"{SEVERAL}---\n{other}"
    done = nodeagent("convert", "--config", "t4", "-", stdin=both)
    assert done.returncode == 1
    assert done.stderr.endswith("choose one by --config NAME/KEY\n")
    done = nodeagent("convert", "--config", "others/t4", "-", stdin=both)
    assert "replicas: 5" in done.stdout
    done = nodeagent("convert", "-", stdin=SEVERAL.partition("  broken")[0])
    assert done.stderr.endswith("choose one by --config KEY\n")


@pytest.mark.parametrize("name", [None, *SCHEMAS])
def test_schemas_are_printed_as_they_are_published(name: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    """`schema` prints the file of that name, that of the sharing config when none is named."""
    assert main(["schema", *([name] if name else [])]) == 0
    told = capsys.readouterr().out
    file, _ = SCHEMAS[name or "sharing-config"]
    assert told == (ROOT / "schemas" / f"{file}.json").read_text(encoding="utf-8")
    assert json.loads(told)["$schema"]


def test_every_schema_can_be_printed() -> None:
    """No published schema is out of reach."""
    assert {file for file, _ in SCHEMAS.values()} == {path.stem for path in (ROOT / "schemas").glob("*.json")}
