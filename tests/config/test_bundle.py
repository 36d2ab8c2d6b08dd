"""Finding configs in what a pipeline has at hand."""

from __future__ import annotations

import json

import pytest

from nodeagent.config.bundle import load_bundle
from tests.config.support import HEAD, TIME_SLICED

BAD = TIME_SLICED.replace("replicas: 10", "replicas: 0")
DEPLOYMENT = "apiVersion: apps/v1\nkind: DaemonSet\nspec: {defaultMode: 0444, on: yes}\n"


def config_map(text: str, key: str = "sharing.yaml", indent: str = "    ", header: str = "|") -> str:
    """A ConfigMap with a text under a key, as kustomize writes it."""
    body = "".join(f"{indent}{line}".rstrip() + "\n" for line in text.splitlines())
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: gpu-sharing\ndata:\n  {key}: {header}\n{body}"


def told(text: str) -> list[str]:
    """Everything that is wrong with a file."""
    return [str(one) for one in load_bundle(text.encode(), "out.yaml").all_violations]


def test_a_bare_file() -> None:
    """A bare document is one config, checked as the agent would."""
    bundle = load_bundle(TIME_SLICED.encode(), "out.yaml")

    assert [loaded.document.path for loaded in bundle.configs] == ["out.yaml"]
    assert bundle.all_violations == ()
    assert told(BAD)[0].startswith("out.yaml:5:80: spec.rules[0].timeSlicing.replicas: ")


def test_a_bare_file_of_two_documents() -> None:
    """Several bare configs in one stream are each checked, with their own places."""
    bundle = load_bundle(f"{TIME_SLICED}---\n{BAD}".encode(), "out.yaml")

    assert len(bundle.configs) == 2
    assert [str(one).split(": ")[0] for one in bundle.all_violations] == ["out.yaml:11:80"]


@pytest.mark.parametrize(("indent", "header"), [("    ", "|"), ("      ", "|-"), ("   ", "|+"), ("    ", "|2")])
def test_places_in_a_config_map(indent: str, header: str) -> None:
    """A fault in a block scalar is told with its line and column in the outer file."""
    found = told(DEPLOYMENT + "---\n" + config_map(BAD, indent=indent, header=header))

    assert [line.split(": ")[0] for line in found] == [f"out.yaml:15:{80 + len(indent)}"]


def test_a_comment_before_the_config() -> None:
    """Lines are right also where the text begins with an empty line or a comment."""
    assert told(config_map(f"\n# first\n{BAD}"))[0].startswith("out.yaml:13:84: ")


def test_text_in_quotes() -> None:
    """A fault in a quoted text is told at the key's value, with its place in the text."""
    text = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "data": {"sharing.yaml": BAD}})

    (line,) = told(text)

    assert line.startswith(
        'out.yaml:1:68: data["sharing.yaml"]: in its line 5, column 80: spec.rules[0].timeSlicing.replicas: expected a'
    )


def test_the_document_is_what_the_kubelet_would_mount() -> None:
    """The config of a ConfigMap has the bytes, and so the blob id, of the file in the mount, and its revision."""
    (loaded,) = load_bundle((config_map(TIME_SLICED) + "  revision: |\n    abc\n").encode(), "out.yaml").configs

    assert loaded.document.data == TIME_SLICED.encode()
    assert loaded.document.revision == "abc"
    assert loaded.document.path == "out.yaml (ConfigMap gpu-sharing, sharing.yaml)"


@pytest.mark.parametrize(
    "text",
    [
        TIME_SLICED,
        "version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n",
        "version: v1\nflags: {migStrategy: none}\n",
    ],
)
def test_any_key(text: str) -> None:
    """A text under any key counts when it is a sharing config or NVIDIA's file; beside it, whatever could be read."""
    (loaded,) = load_bundle((config_map(text, key="a100") + "  note.txt: hello\n").encode(), "out.yaml").configs
    assert loaded.config is not None
    assert "expected" in told(config_map(text, key="a100") + "  other.yaml: |\n    version: 3\n")[0]


def test_a_broken_config_is_not_passed_over() -> None:
    """A text that says it is a sharing config is checked even when it cannot be parsed."""
    assert "expected ] to close this [" in told(config_map(HEAD + "  rules: [", key="pool-a"))[0]


def test_lines_in_words() -> None:
    """A line that a message names is one of the outer file as well, but not what the author wrote in quotes."""
    twice = TIME_SLICED.replace("{replicas: 10}", "{replicas: 10, replicas: 4}").replace("name: test", "name: line 3")
    found = told(config_map(twice))

    assert 'got "line 3"' in found[0]
    assert "first in line 11)" in found[1]
    assert found[1].startswith("out.yaml:11:")


def test_lists() -> None:
    """The items of a List, as `kubectl get -o yaml` prints it, are looked into."""
    item = "- " + "".join(f"  {line}\n" for line in config_map(BAD).splitlines()).lstrip()

    assert told(f"apiVersion: v1\nkind: List\nitems:\n{item}")[0].startswith("out.yaml:14:86: ")


def test_a_repeated_key_around_the_config() -> None:
    """A key that a ConfigMap has twice is an error: one of the two configs would be lost."""
    text = config_map(TIME_SLICED)
    found = told(text + text[text.index("  sharing.yaml") :])

    assert any('expected each key once, got "sharing.yaml" again' in line for line in found)


def test_liberties_of_other_manifests() -> None:
    """What other manifests do with YAML is none of our business."""
    assert told(f"{DEPLOYMENT}---\na: &x [1]\nb: *x\n---\n{config_map(TIME_SLICED)}") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (DEPLOYMENT, "expected a sharing config, bare or in a ConfigMap, got DaemonSet without one"),
        (config_map("a: 1", key="other.yaml"), "got ConfigMap without one"),
        (f"{DEPLOYMENT}---\n{config_map('hello', key='motd')}", "got DaemonSet and ConfigMap without one"),
        ("", "expected a document"),
        ("a: 1\n---\nb: 2\n", "expected a sharing config"),
        (f"{config_map(TIME_SLICED)}---\n[", "expected ] to close this ["),
    ],
)
def test_nothing_to_check(text: str, expected: str) -> None:
    """A file without any config is an error: a check that checks nothing helps nobody."""
    (line,) = told(text)

    assert expected in line
