"""`nodeagent validate`: which files are looked at, what is said of them, and how."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from nodeagent.cli import main
from nodeagent.commands.gpus import plausible
from nodeagent.config.load import load
from nodeagent.model.config import Document
from nodeagent.state.desired import resolve
from tests.commands.conftest import EXAMPLES, H100X8, NVIDIAS, SHARED_BY_TEN, WRONG_TWICE, config_map, nodeagent

KUSTOMIZATION = "resources: [sharing.yaml]\n"
SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: metrics}\n"


def test_a_valid_file(good: Path) -> None:
    """A valid file exits with 0 and is told with its name, its rules and the blob id that `wait` takes."""
    done = nodeagent("validate", good)
    assert done.returncode == 0
    blob = Document("", SHARED_BY_TEN.encode()).git_blob[:12]
    assert done.stdout == (f'{good}: valid: sharing config "h100-inference", 1 rule, blob {blob}\n1 file: 1 valid\n')


def test_all_mistakes_of_all_files_at_once(tmp_path: Path, good: Path) -> None:
    """Every mistake is told with file, line and column, the good files as well, and the exit code is 1."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(WRONG_TWICE, encoding="utf-8")
    done = nodeagent("validate", bad, good)
    assert done.returncode == 1
    assert f"{bad}:4:9: metadata.name: expected" in done.stdout
    assert f'{bad}:9:7: spec.rules[0].timeSlicin: expected a known key, got "timeSlicin"; did you mean' in done.stdout
    assert done.stdout.endswith("2 files: 1 valid, 1 invalid (2 mistakes)\n")


@pytest.mark.parametrize("output", ["text", "json", "github"])
def test_how_it_is_told_changes_nothing(
    output: str, tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is the same in every output, and each ends with the counts of files."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(WRONG_TWICE, encoding="utf-8")
    assert main(["validate", "-o", output, str(good)]) == 0
    assert "1 file: 1 valid" in capsys.readouterr().out
    assert main(["validate", "-o", output, str(good), str(bad)]) == 1
    assert "2 files: 1 valid, 1 invalid (2 mistakes)" in capsys.readouterr().out


def test_what_cannot_be_read(tmp_path: Path, good: Path) -> None:
    """A file that cannot be read is exit code 4, whatever the others are; they are checked all the same."""
    done = nodeagent("validate", good, tmp_path / "absent.yaml")
    assert done.returncode == 4
    assert f"cannot read {tmp_path / 'absent.yaml'}: no such file or directory\n" in done.stdout
    assert done.stdout.endswith("2 files: 1 valid, 1 unreadable\n")


def test_stdin_may_be_all_that_kustomize_prints() -> None:
    """The sharing config is found among other manifests; a mistake in it has its line of the whole stream."""
    good = nodeagent("validate", "-", stdin=f"{SERVICE}---\n{config_map(SHARED_BY_TEN)}")
    assert good.returncode == 0
    assert 'stdin: valid: sharing config "h100-inference" (ConfigMap sharing, sharing.yaml)' in good.stdout
    bad = nodeagent("validate", "-", stdin=f"{SERVICE}---\n{config_map(WRONG_TWICE)}")
    assert bad.returncode == 1
    assert "stdin:14:13: metadata.name" in bad.stdout


def test_nvidias_file_and_what_it_would_have_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """NVIDIA's file is valid, and notes tell where the two programs differ."""
    path = tmp_path / "nvidia.yaml"
    path.write_text(NVIDIAS, encoding="utf-8")
    assert main(["validate", str(path)]) == 0
    told = capsys.readouterr().out
    assert "valid: sharing config, NVIDIA's format, 1 rule" in told
    assert f"{path}: note: line 5, sharing.timeSlicing.resources[0].devices: only these GPUs are shared" in told


def test_a_directory_is_searched(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Files of a directory are found recursively; those with nothing for the agent are passed over with a note."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "kustomization.yaml").write_text(KUSTOMIZATION, encoding="utf-8")
    (tmp_path / "base" / "service.yml").write_text(SERVICE, encoding="utf-8")
    (tmp_path / "base" / "empty.yaml").write_text("# nothing\n", encoding="utf-8")
    (tmp_path / "node.yaml").write_text(H100X8.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "notes.txt").write_text("not looked at", encoding="utf-8")
    assert main(["validate", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert f"{tmp_path}/base/kustomization.yaml: skipped: no sharing config\n" in told
    assert f"{tmp_path}/base/service.yml: skipped: no sharing config in Service\n" in told
    assert f"{tmp_path}/base/empty.yaml: skipped: empty\n" in told
    assert f"{tmp_path}/node.yaml: valid: simulated node with 8 GPUs\n" in told
    assert f"{good}: valid" in told
    assert told.endswith("5 files: 2 valid, 3 skipped\n")


def test_a_mounted_config_map_is_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a mount holds behind its hidden links is not looked at twice."""
    hidden = tmp_path / "..2026_01_01"
    hidden.mkdir()
    (hidden / "sharing.yaml").write_text(SHARED_BY_TEN, encoding="utf-8")
    (tmp_path / "..data").symlink_to(hidden.name)
    (tmp_path / "sharing.yaml").symlink_to("..data/sharing.yaml")
    assert main(["validate", str(tmp_path)]) == 0
    assert capsys.readouterr().out.endswith("1 file: 1 valid\n")


def test_a_check_that_checks_nothing_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory without any config, and a file without one that was named itself, are invalid."""
    kustomization = tmp_path / "kustomization.yaml"
    kustomization.write_text(KUSTOMIZATION, encoding="utf-8")
    assert main(["validate", str(tmp_path)]) == 1
    assert "expected a sharing config in this directory, got no file with one" in capsys.readouterr().out
    assert main(["validate", str(kustomization)]) == 1
    assert 'got an object with "resources"' in capsys.readouterr().out


def test_what_the_agent_would_refuse_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bare config beside other documents is wrong, since the agent takes a file with one."""
    path = tmp_path / "two.yaml"
    path.write_text(f"{SHARED_BY_TEN}---\n{SERVICE}", encoding="utf-8")
    assert main(["validate", str(path)]) == 1
    assert "expected a sharing config alone in its file, got 2 documents" in capsys.readouterr().out


def test_several_configs_in_a_file_are_one_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is told at the second of them, where the file goes on that the agent would not."""
    path = tmp_path / "two.yaml"
    path.write_text("---\n".join([SHARED_BY_TEN] * 3), encoding="utf-8")
    assert main(["validate", str(path)]) == 1
    first, summary = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}:{SHARED_BY_TEN.count(chr(10)) + 2}:1: expected a sharing config alone in its file")
    assert summary == "1 file: 1 invalid (1 mistake)"


def test_a_simulation_file_is_checked_as_strictly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A SimulatedNode is judged by its own schema, a mistyped one as well."""
    path = tmp_path / "node.yaml"
    text = H100X8.read_text(encoding="utf-8")
    path.write_text(text.replace("numaNode: 0", "numaNod: 0").replace("SimulatedNode", "SimulatedNod"), "utf-8")
    assert main(["validate", str(path)]) == 1
    told = capsys.readouterr().out
    assert 'got "numaNod"; did you mean "numaNode"?' in told
    assert "SimulatedNode" in told


def test_the_examples_are_valid() -> None:
    """What we show works."""
    assert nodeagent("validate", EXAMPLES).returncode == 0


def test_json_is_for_programs(tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o json` has everything that the text has, in fields."""
    bad = tmp_path / "bad.yaml"
    bad.write_text(WRONG_TWICE, encoding="utf-8")
    assert main(["validate", "-o", "json", str(good), str(bad), str(tmp_path / "absent.yaml")]) == 4
    told = json.loads(capsys.readouterr().out)
    assert told["valid"] is False
    assert [file["status"] for file in told["files"]] == ["valid", "invalid", "unreadable"]
    assert told["files"][0]["configs"][0]["gitBlob"] == Document("", SHARED_BY_TEN.encode()).git_blob
    first = told["files"][1]["violations"][0]
    assert (first["file"], first["line"], first["column"], first["path"]) == (str(bad), 4, 9, "metadata.name")


def test_github_shows_mistakes_beside_their_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`-o github` prints workflow commands; what would end one early is escaped."""
    path = tmp_path / "50%,a:b.yaml"
    path.write_text(WRONG_TWICE, encoding="utf-8")
    assert main(["validate", "-o", "github", str(path)]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    escaped = str(path).replace("%", "%25").replace(",", "%2C").replace(":", "%3A")
    assert first.startswith(f"::error file={escaped},line=4,col=9,title=nodeagent validate::metadata.name: expected")


def test_gpus_bring_out_what_depends_on_the_node(
    tmp_path: Path, good: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A list too long for the kubelet on nodes of so many GPUs is an error, whatever model a rule names."""
    assert main(["validate", "--gpus", "64", str(good)]) == 0
    path = tmp_path / "many.yaml"
    many = SHARED_BY_TEN.replace("replicas: 10", "replicas: 60000")
    path.write_text(many.replace("      resource", '      match: {models: ["*A100*"]}\n      resource'), "utf-8")
    assert main(["validate", str(path)]) == 0
    assert main(["validate", "--gpus", "1", str(path)]) == 0
    assert main(["validate", "--gpus", "8", str(path)]) == 1
    assert "bytes for 480000 shares on 8 GPUs" in capsys.readouterr().out


BY_INDEX = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: by-index}
spec:
  rules:
"""


def in_all(replicas: int, gpus: int = 8) -> str:
    """A config with a name for each GPU: no list is long."""
    return BY_INDEX + "".join(
        f"    - {{name: of-{index}, match: {{indices: [{index}]}}, resource: a.io/{index}, "
        f"timeSlicing: {{replicas: {replicas}}}}}\n"
        for index in range(gpus)
    )


def test_more_shares_than_a_node_may_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`validate` and `plan` say what the agent says: how many are asked for, and which rule is to be lowered."""
    path = tmp_path / "many.yaml"
    path.write_text(in_all(50_000), "utf-8")
    assert main(["validate", str(path)]) == 0
    assert main(["validate", "--gpus", "2", str(path)]) == 0
    capsys.readouterr()
    told = f'{path}:6:7: spec.rules[0]: expected at most 100000 shares on a node, got 400000 on 8 GPUs; rule "of-0"'
    for arguments in (["validate", "--gpus", "8"], ["validate", "--driver", f"simulated:{H100X8}"]):
        assert main([*arguments, str(path)]) == 1
        assert told in capsys.readouterr().out
    assert main(["plan", "--driver", f"simulated:{H100X8}", "--config", str(path)]) == 1
    assert told in capsys.readouterr().err
    path.write_text(in_all(12_500), "utf-8")
    assert main(["validate", "--gpus", "8", str(path)]) == 0


def test_more_shares_than_a_node_may_have_in_nvidias_format(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file of NVIDIA's plugin has the same limit: of all its resources together."""
    node = tmp_path / "node.yaml"
    node.write_text(
        "apiVersion: nodeagent.io/v1alpha1\nkind: SimulatedNode\ngpus:\n  - {model: A, memory: 40Gi}\n"
        "  - {model: A, memory: 40Gi, mig: {devices: [1g.5gb, 1g.5gb, 1g.5gb]}}\n",
        "utf-8",
    )
    path = tmp_path / "nvidia.yaml"
    path.write_text(
        "version: v1\nflags: {migStrategy: mixed}\nsharing:\n  timeSlicing:\n    resources:\n"
        "      - {name: nvidia.com/gpu, replicas: 50001}\n      - {name: nvidia.com/mig-1g.5gb, replicas: 17000}\n",
        "utf-8",
    )
    assert main(["validate", "--driver", f"simulated:{node}", str(path)]) == 1
    assert "expected at most 100000 shares on a node, got 101001 on 4 GPUs" in capsys.readouterr().out


UNDER_MPS = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: mps}
spec:
  rules:
    - name: batch
      match: {MATCH}
      resource: nvidia.com/gpu.mps
      mps: {replicas: 4, memoryPerReplica: 21Gi}
"""


@pytest.mark.parametrize(
    ("match", "told"),
    [
        ("", None),
        ("minMemory: 40Gi", "expected at most 40960 MiB for all shares together, the memory of GPUs 0-7, got 4 x"),
        ("minMemory: 84Gi", None),
    ],
)
def test_gpus_have_no_less_memory_than_a_rule_lets_in(
    match: str, told: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How much memory the GPUs of a pool have only `minMemory` tells: no limit is wrong on those that were made up."""
    path = tmp_path / "mps.yaml"
    path.write_text(UNDER_MPS.replace("MATCH", match), "utf-8")
    assert main(["validate", "--gpus", "8", str(path)]) == (told is not None)
    assert (told or "1 file: 1 valid") in capsys.readouterr().out


def test_a_driver_tells_how_much_memory_its_gpus_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a driver, limits under MPS that add up to more than its GPUs have are an error at the rule."""
    path = tmp_path / "mps.yaml"
    path.write_text(UNDER_MPS.replace("MATCH", ""), "utf-8")
    assert main(["validate", "--driver", f"simulated:{H100X8}", str(path)]) == 1
    told = capsys.readouterr().out
    assert f"{path}:6:7: spec.rules[0]: expected at most 81559 MiB for all shares together" in told
    assert "of GPUs 0-7, got 4 x 21504 MiB; lower `memoryPerReplica` (to at most 20389Mi)" in told
    path.write_text(UNDER_MPS.replace("MATCH", "").replace("21Gi", "20389Mi"), "utf-8")
    assert main(["validate", "--driver", f"simulated:{H100X8}", str(path)]) == 0


def test_a_driver_brings_its_own_gpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a driver, rules that decide for none of its GPUs are pointed out: nobody writes them on purpose."""
    path = tmp_path / "sharing.yaml"
    path.write_text(SHARED_BY_TEN.replace("      resource", "      match: {indices: [9]}\n      resource"), "utf-8")
    assert main(["validate", "--driver", f"simulated:{H100X8}", str(path)]) == 0
    told = capsys.readouterr().out
    assert 'note: rule "small-inference": no GPU of this node has the index 9; there are GPUs 0-7' in told
    assert main(["validate", "--driver", "simulated:absent.yaml", str(path)]) == 4
    assert "cannot read absent.yaml: no such file or directory" in capsys.readouterr().err


MIG = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: mig}
spec:
  rules:
RULES
"""


def mig_rules(*rules: str) -> str:
    """A config of these rules."""
    return MIG.replace("RULES", "\n".join(f"    - {{{rule}}}" for rule in rules))


@pytest.mark.parametrize(
    ("rules", "gpus", "told"),
    [
        (["name: single, match: {mig: ['*']}, resource: nvidia.com/gpu, exclusive: {}"], 8, None),
        (
            ["name: single, match: {indices: [0], mig: ['*']}, resource: nvidia.com/gpu, exclusive: {}"],
            8,
            "expected nvidia.com/gpu to be one kind of device, 1g.10gb as on MIG devices 0:0-6, got a whole GPU on GPU",
        ),
        (["name: single, match: {indices: [0], mig: ['*']}, resource: nvidia.com/gpu, exclusive: {}"], 1, None),
        (["name: two, match: {mig: ['1g.*', '3g.*']}, resource: a.io/mig, timeSlicing: {replicas: 4}"], 8, None),
        (
            [
                "name: some, match: {mig: [2g.20gb], minMemory: 10Gi}, resource: a.io/mig, timeSlicing: {replicas: 4}",
                "name: rest, match: {mig: ['2g.*']}, exclusive: {}",
            ],
            8,
            None,
        ),
        (
            ["name: many, match: {mig: [1g.5gb]}, resource: a.io/mig, timeSlicing: {replicas: 20000}"],
            1,
            "for 140000 shares on 7 GPUs",
        ),
    ],
)
def test_gpus_have_mig_devices_where_a_rule_speaks_of_them(
    rules: list[str], gpus: int, told: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For each profile that a rule for MIG devices names, its GPUs consist of those, and the others are whole."""
    path = tmp_path / "mig.yaml"
    path.write_text(mig_rules(*rules), "utf-8")
    assert main(["validate", "--gpus", str(gpus), str(path)]) == (told is not None)
    assert (told or "1 file: 1 valid") in capsys.readouterr().out


def test_plausible_mig_devices_are_such_as_the_rules_ask_for() -> None:
    """There are nodes on which each rule for MIG devices decides, by profile, memory, index or uuid of either kind."""
    text = mig_rules(
        "name: exact, match: {mig: [1g.5gb]}, exclusive: {}",
        "name: video, match: {mig: ['*+me']}, exclusive: {}",
        "name: large, match: {mig: ['[47]g.*'], minMemory: 30Gi}, exclusive: {}",
        "name: by-index, match: {mig: ['*'], indices: [1]}, exclusive: {}",
        "name: by-gpu, match: {mig: ['*'], uuids: [GPU-a]}, exclusive: {}",
        "name: by-name, match: {uuids: [MIG-a, MIG-b]}, withheld: {}",
        "name: by-both, match: {mig: ['*'], uuids: [GPU-b, MIG-c]}, exclusive: {}",
    )
    config = load(Document("x", text.encode())).config
    assert config is not None
    nodes = list(plausible(4, config))
    assert all(sum(gpu.mig is None for gpu in gpus) == 4 for gpus in nodes)
    deciding = {want.rule.name for gpus in nodes for want in resolve(config, gpus).wants.values()}
    assert deciding >= {rule.name for rule in config.rules}
    assert all(len({gpu.uuid for gpu in gpus}) == len(gpus) for gpus in nodes)
    assert {gpu.mig_enabled for gpu in nodes[0]} == {False}


def test_plausible_gpus_are_such_as_the_rules_ask_for() -> None:
    """For each rule that asks for a model, memory or uuids there is a node on which it decides."""
    text = """\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: x}
spec:
  rules:
    - {name: big, match: {minMemory: 141Gi}, resource: a.io/big, exclusive: {}}
    - {name: a100, match: {models: ["*A100-[SP]*"]}, resource: a.io/a100, exclusive: {}}
    - {name: named, match: {uuids: [GPU-8f2d1c5e-7a40-4b1d-9c36-2e5f0a7b9d14]}, resource: a.io/named, exclusive: {}}
"""
    config = load(Document("x", text.encode())).config
    assert config is not None
    nodes = list(plausible(4, config))
    assert all(len(gpus) == 4 for gpus in nodes)
    deciding = {config.rule_for(gpu).name for gpus in nodes for gpu in gpus}
    assert {"big", "named", "(default)"} <= deciding


@pytest.mark.parametrize("output", ["text", "json", "github"])
def test_all_mistakes_are_counted_though_the_first_are_shown(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A document with 256 mistakes has 256, however many of them are listed; so says each output, and the agent."""
    path = tmp_path / "many.yaml"
    rules = "".join(f"    - {{name: r{number}, exclusiv: {{}}}}\n" for number in range(256))
    path.write_text(BY_INDEX + rules, "utf-8")
    assert main(["validate", "-o", output, str(path)]) == 1
    told = capsys.readouterr().out
    assert "1 file: 1 invalid (256 mistakes, the first 50 shown)" in told
    assert "206 more mistakes from here on" in told
    if output == "json":
        assert json.loads(told)["files"][0]["mistakes"] == 256
    assert main(["validate", "-o", output, str(path), str(path)]) == 1
    assert "(512 mistakes, 100 of them shown)" in capsys.readouterr().out
    path.write_text(BY_INDEX + "".join(rules.splitlines(keepends=True)[:51]), "utf-8")
    assert main(["validate", "-o", output, str(path)]) == 1
    assert "1 file: 1 invalid (51 mistakes)" in capsys.readouterr().out


FOLDERS: dict[str, tuple[dict[str, str], int, str]] = {
    "emptied": ({"sharing.yaml": ""}, 1, "sharing.yaml:1:1: expected a document, got nothing"),
    "comments": (
        {"sharing.yaml": "# was here\n", "a100.yaml": SHARED_BY_TEN},
        1,
        "sharing.yaml:1:1: expected a document",
    ),
    "dashes": (
        {"sharing.yaml": "---\n", "a100.yaml": SHARED_BY_TEN},
        1,
        'or NVIDIA\'s file ("version: v1"), got nothing',
    ),
    "null": ({"sharing.yaml": "null\n"}, 1, "got nothing"),
    "something else": ({"sharing.yaml": "- a\n", "a100.yaml": SHARED_BY_TEN}, 1, "got a list of 1"),
    "beside configs": (
        {"sharing.yaml": SHARED_BY_TEN, "t4.yaml": ""},
        1,
        "t4.yaml:1:1: expected a document, got nothing",
    ),
    "beside a broken one": ({"sharing.yaml": "a: [", "t4.yaml": ""}, 1, "it stands beside configs"),
    "of others": (
        {"sharing.yaml": SHARED_BY_TEN, "kustomization.yaml": "", "values.yaml": ""},
        0,
        "values.yaml: skipped: empty",
    ),
    "elsewhere": ({"a/sharing.yaml": SHARED_BY_TEN, "b/x.yaml": ""}, 0, "b/x.yaml: skipped: empty"),
    "nothing else": ({"x.yaml": ""}, 1, "expected a sharing config in this directory, got no file with one"),
    "another ending": (
        {"sharing.yaml": SHARED_BY_TEN, "sharing.json": "{}"},
        0,
        "sharing.json: skipped: agents read sharing.yaml",
    ),
    "yml": ({"sharing.yml": SHARED_BY_TEN}, 0, "sharing.yml: note: agents read sharing.yaml"),
    "other tools": (
        {
            "Chart.yaml": "apiVersion: v2\nname: x\nversion: 1.0.0\n",
            "docker-compose.yml": "version: '3'\nservices: {}\n",
            "patch.yaml": "spec: {template: {}}\n",
            "x.yaml": SHARED_BY_TEN,
        },
        0,
        "4 files: 1 valid, 3 skipped",
    ),
    "what a kustomization lists": (
        {
            "kustomization.yaml": "configMapGenerator:\n- files: [sharing.yaml=pool, t4.yaml=sub/t4.txt]\n",
            "pool": SHARED_BY_TEN,
            "sub/t4.txt": "a: 1\n",
        },
        1,
        'sub/t4.txt:1:1: expected a sharing config ("apiVersion: nodeagent.io/v1alpha1")',
    ),
    "an empty object": (
        {"sharing.yaml": SHARED_BY_TEN, "t4.yaml": "{}\n"},
        1,
        "t4.yaml:1:1: expected a sharing config",
    ),
    "an empty list": ({"sharing.yaml": SHARED_BY_TEN, "t4.yaml": "[]\n"}, 1, "it stands beside configs"),
    "a word": ({"sharing.yaml": SHARED_BY_TEN, "t4.yaml": "hello\n"}, 1, 'got "hello"; it stands beside configs'),
    "words": ({"sharing.yaml": SHARED_BY_TEN, "t4.yaml": "- a\n"}, 1, "it stands beside configs"),
    "empty objects of others": (
        {"sharing.yaml": SHARED_BY_TEN, "values.yaml": "{}\n", "patch.yaml": "- {op: add, path: /a, value: 1}\n"},
        0,
        "3 files: 1 valid, 2 skipped",
    ),
    "a key without an ending": (
        {"sharing.yaml": SHARED_BY_TEN, "a100": "# was here\n"},
        0,
        "a100: skipped: empty; as a key of a ConfigMap, a label of a node could choose a100",
    ),
    "a kustomization without the usual key": (
        {
            "kustomization.yaml": "configMapGenerator:\n- files: [t4.yaml, a100.yaml]\n",
            "a100.yaml": SHARED_BY_TEN,
            "t4.yaml": "foo: bar\n",
        },
        1,
        "t4.yaml:1:1: expected a sharing config",
    ),
    "a kustomization of others": (
        {
            "kustomization.yaml": "configMapGenerator:\n- files: [a.yaml, b.yaml]\n",
            "sharing.yaml": SHARED_BY_TEN,
            "a.yaml": "foo: bar\n",
            "b.yaml": "a: 1\n",
        },
        0,
        "a.yaml: skipped: no sharing config",
    ),
    "what is to be the default, emptied": (
        {
            "kustomization.yaml": "configMapGenerator:\n- files: [default=gpu.conf]\n",
            "gpu.conf": "",
            "sharing.yaml": SHARED_BY_TEN,
        },
        1,
        "gpu.conf:1:1: expected a document, got nothing",
    ),
    "values of a chart": (
        {"values.yaml": f"config: |\n  {WRONG_TWICE.replace(chr(10), chr(10) + '  ')}\n"},
        1,
        "values.yaml:5:11: ",
    ),
}


@pytest.mark.parametrize(("files", "code", "expected"), FOLDERS.values(), ids=FOLDERS)
def test_only_what_no_agent_could_read_is_passed_over(
    files: dict[str, str], code: int, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file that agents read by its name, by a label or by what a kustomization lists has to hold a config; of others
    it is said that they were passed over, and why.
    """
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    assert main(["validate", str(tmp_path)]) == code
    assert expected in capsys.readouterr().out


def test_a_name_that_agents_read_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A link that leads nowhere, and what is no regular file, cannot be read; links to directories are not followed."""
    (tmp_path / "x.yaml").write_text(SHARED_BY_TEN, "utf-8")
    (tmp_path / "elsewhere").symlink_to(tmp_path.parent)
    assert main(["validate", str(tmp_path)]) == 0
    assert "elsewhere: skipped: a link to a directory, which is not followed" in capsys.readouterr().out
    (tmp_path / "sharing.yaml").symlink_to("nowhere")
    assert main(["validate", str(tmp_path)]) not in {0, 1}
    assert (
        f"cannot read {tmp_path}/sharing.yaml: a link to nowhere, which leads nowhere from here"
        in capsys.readouterr().out
    )
    (tmp_path / "sharing.yaml").unlink()
    os.mkfifo(tmp_path / "sharing.yaml")
    assert main(["validate", str(tmp_path)]) not in {0, 1}
    assert f"cannot read {tmp_path}/sharing.yaml: not a regular file" in capsys.readouterr().out


def test_every_key_of_a_mounted_config_map_is_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a mount each file is a key: one without an ending, one for a label, the revision."""
    hidden = tmp_path / "..2026_01_01"
    hidden.mkdir()
    keys = {"sharing.yaml": SHARED_BY_TEN, "t4": "", "a100.yaml": "a: 1\n", "motd": "hello", "revision": "abc"}
    for name, text in keys.items():
        (hidden / name).write_text(text, "utf-8")
        (tmp_path / name).symlink_to(f"..data/{name}")
    (tmp_path / "..data").symlink_to(hidden.name)
    assert main(["validate", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert f"{tmp_path}/t4:1:1: expected a document" in told
    assert f'{tmp_path}/a100.yaml:1:1: expected a sharing config ("apiVersion' in told
    assert f"{tmp_path}/motd: skipped: no sharing config" in told
    assert told.endswith("4 files: 1 valid, 2 invalid (2 mistakes), 1 skipped\n")


@pytest.mark.parametrize("broken", [{}, {"t4.yaml": "key: val: x"}])
def test_a_mount_is_judged_as_its_config_map_is(
    broken: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is no YAML is no mistake where no agent reads it: the Job that checks a mount passes what CI has passed."""
    keys = {
        "sharing.yaml": SHARED_BY_TEN,
        "README.md": "key: val: x",
        "install.sh": "foo: bar: x",
        "x.bin": "\x00",
        **broken,
    }
    hidden = tmp_path / "mount" / "..2026_01_01"
    hidden.mkdir(parents=True)
    for name, text in keys.items():
        (hidden / name).write_text(text, "utf-8")
        (hidden.parent / name).symlink_to(f"..data/{name}")
    (hidden.parent / "..data").symlink_to(hidden.name)
    config_map = tmp_path / "cm.json"
    head = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "sharing"}}
    config_map.write_text(json.dumps({**head, "data": {**keys, "x.bin": "."}}), "utf-8")
    assert main(["validate", str(config_map)]) == bool(broken)
    assert main(["validate", str(hidden.parent)]) == bool(broken)
    assert "README.md: skipped: no sharing config" in capsys.readouterr().out


def test_what_is_said_in_vain_is_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With GPUs, by number or by a driver, `validate` and `plan` say which rules are for none of them; `plan` shows
    the GPUs that no rule is for anyway.
    """
    path = tmp_path / "sharing.yaml"
    path.write_text(SHARED_BY_TEN.replace("      resource", "      match: {indices: [1, 9]}\n      resource"), "utf-8")
    index = 'rule "small-inference": no GPU of this node has the index 9; there are GPUs 0-7'
    left = "no rule is for GPUs 0, 2-7, which are exclusive nvidia.com/gpu then"
    for option in (["--gpus", "8"], ["--driver", f"simulated:{H100X8}"]):
        assert main(["validate", *option, str(path)]) == 0
        told = capsys.readouterr().out
        assert f"note: {index}\n" in told
        assert f"note: {left}\n" in told
    main(["plan", "--driver", f"simulated:{H100X8}", "--config", str(path)])
    told = " ".join(capsys.readouterr().out.split())
    assert f"note: {index}" in told
    assert left not in told


def test_a_config_of_several_pools_is_noted_with_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Notes and what depends on the node say which config they are about, and a copy of a config is noted once."""
    bad = SHARED_BY_TEN.replace("      resource", "      match: {indices: [9]}\n      resource")
    stream = "---\n".join([config_map(SHARED_BY_TEN, "a"), config_map(bad, "b"), config_map(bad, "copy")])
    path = tmp_path / "out.yaml"
    path.write_text(stream, "utf-8")
    assert main(["validate", "--gpus", "8", str(path)]) == 0
    told = capsys.readouterr().out
    assert told.count("no GPU of this node has the index 9") == 1
    assert 'out.yaml: note: ConfigMap b, sharing.yaml: rule "small-inference": no GPU' in told
    path.write_text(stream.replace("replicas: 10", "replicas: 60000"), "utf-8")
    assert main(["validate", "--gpus", "8", "-o", "github", str(path)]) == 1
    first = capsys.readouterr().out.splitlines()[0]
    assert ",line=13,col=11," in first
    assert "ConfigMap a, sharing.yaml:7:7: spec.rules[0]: expected a list of" in first


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata: {name: a}\nspec:\n  rules:\n    -\n",
        "version: v1\nsharing: {mps: {}, timeSlicing: [no]}\n",
        "version: v1\nsharing: [~]\n",
        "012\n",
        "*a\n",
        "a: !%C0%80 x\n",
        "apiVersion: nodeagent.io/v1alpha1\nkind: SimulatedNode\ngpus: [~, {uuid: 012, xids: [~, 00, no]}]\n",
        "apiVersion: v1\nkind: ConfigMap\nmetadata: no\ndata: {sharing.yaml: 012, t4.yaml: *a}\n",
        "kind: [no]\nitems: [no]\n",
        "apiVersion: v1\nkind: List\nitems: [~, 012, {kind: ConfigMap, data: [no]}]\n",
    ],
)
@pytest.mark.parametrize("command", [["validate"], ["validate", "-o", "json"], ["convert"], ["plan", "--config"]])
def test_no_document_is_an_internal_error(text: str, command: list[str], tmp_path: Path) -> None:
    """Whatever is in it, it is a mistake of its author."""
    (tmp_path / "a.yaml").write_text(text, encoding="utf-8")
    done = nodeagent(*command, tmp_path / "a.yaml", *(["--driver", f"simulated:{H100X8}"] if "plan" in command else []))
    assert done.returncode == 1, done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.parametrize("output", ["text", "github"])
def test_nothing_acts_on_a_terminal(output: str, tmp_path: Path) -> None:
    """What a document, or the name of a file, would do there is written as an escape."""
    bad = tmp_path / "a\x1b[2J\u202e.yaml"
    bad.write_text(WRONG_TWICE.replace("timeSlicin", '"time\\e[2J\\u202e"'), encoding="utf-8")
    done = nodeagent("validate", "-o", output, bad, tmp_path / "b\x1b\n.yaml")
    assert done.returncode != 0
    assert all(line.isprintable() for line in done.stdout.splitlines())
    assert r"time\u001b[2J\u202e" in done.stdout
