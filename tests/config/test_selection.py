"""Which document of a directory the labels of a Node select, and what is said when it is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from nodeagent.config.selection import (
    FILE_NAME,
    describe,
    file_name,
    file_names,
    only_one,
    readable,
    select,
    unknown,
)
from nodeagent.model.node import Selection

OURS, NVIDIAS = "nodeagent.io/config", "nvidia.com/device-plugin.config"
BOTH = (OURS, NVIDIAS)


@pytest.mark.parametrize(
    ("labels", "keys", "expected"),
    [
        ({}, BOTH, Selection()),
        ({"kubernetes.io/hostname": "a"}, BOTH, Selection()),
        ({OURS: "a"}, BOTH, Selection(OURS, "a")),
        ({NVIDIAS: "b"}, BOTH, Selection(NVIDIAS, "b")),
        ({NVIDIAS: "b", OURS: "a"}, BOTH, Selection(OURS, "a")),
        ({NVIDIAS: "b", OURS: "a"}, (NVIDIAS, OURS), Selection(NVIDIAS, "b")),
        ({NVIDIAS: "b", OURS: ""}, BOTH, Selection(NVIDIAS, "b")),
        ({NVIDIAS: "", OURS: ""}, BOTH, Selection()),
        ({NVIDIAS: "b"}, (OURS,), Selection()),
        ({OURS: "a"}, (), Selection()),
    ],
)
def test_the_first_label_that_is_there_selects(
    labels: Mapping[str, str], keys: Sequence[str], expected: Selection
) -> None:
    """The order is that of the keys; an empty value is as good as no label; other labels do not count."""
    assert select(labels, keys) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a", "a.yaml"),
        ("A100-inference_2.b", "A100-inference_2.b.yaml"),
        ("sharing", "sharing.yaml"),
        ("a.yaml", "a.yaml.yaml"),
        ("..", None),
        (".hidden", None),
        ("../other", None),
        ("..data", None),
        ("/etc/passwd", None),
        ("a/b", None),
        ("a\n", None),
        ("ä", None),
    ],
)
def test_a_value_names_a_file_of_the_directory_or_none(value: str, expected: str | None) -> None:
    """No value leads out of the directory, or to what the kubelet keeps hidden in it."""
    assert file_name(Selection(OURS, value)) == expected


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("sharing.yaml", True),
        ("t4.yaml", True),
        ("tesla-t4", True),
        ("default", True),
        ("T4_b.2", True),
        ("a" * 63, True),
        (f"{'a' * 63}.yaml", True),
        ("a" * 64, False),
        (f"{'a' * 64}.yaml", False),
        ("revision", False),
        ("t4-", False),
        ("..data", False),
        (".hidden.yaml", False),
        ("sharing.yaml ", False),
        ("", False),
        (".yaml", False),
    ],
)
def test_it_is_known_which_keys_an_agent_could_read(key: str, expected: bool) -> None:
    """sharing.yaml, and whatever a label can name, with our ending or as NVIDIA's config-manager has it."""
    assert readable(key) is expected


@pytest.mark.parametrize(
    ("selection", "default", "names"),
    [
        (Selection(OURS, "t4"), None, ("t4.yaml", "t4")),
        (Selection(OURS, "t4.yaml"), None, ("t4.yaml.yaml", "t4.yaml")),
        (Selection(OURS, "t4"), "a", ("t4.yaml", "t4")),
        (Selection(OURS, "revision"), None, ("revision.yaml",)),
        (Selection(OURS, "../t4"), None, ()),
        (Selection(), None, ("sharing.yaml", "default.yaml", "default")),
        (Selection(), "t4", ("t4.yaml", "t4")),
        (Selection(), "t4.yaml", ("t4.yaml", "t4.yaml.yaml")),
        (Selection(), "sharing", ("sharing.yaml", "sharing")),
    ],
)
def test_names_that_are_looked_for(selection: Selection, default: str | None, names: tuple[str, ...]) -> None:
    """Our ending first, and the bare name that NVIDIA's config-manager knows; where nothing is said, our file for all
    and then its.
    """
    assert file_names(selection, default) == names


@pytest.mark.parametrize(
    ("present", "expected"),
    [
        (["tesla-t4", "..data", "..2026_11_30", "revision"], "tesla-t4"),
        (["t4.yaml", "revision"], "t4.yaml"),
        (["t4.yaml", "a100"], None),
        (["revision", "..data"], None),
        ([], None),
    ],
)
def test_the_only_one_there_is(present: Sequence[str], expected: str | None) -> None:
    """A directory with a single config has it for every node, whatever it is called."""
    assert only_one(present) == expected


def test_without_a_label_it_is_the_document_for_all() -> None:
    """A node with none of the labels reads what it would read without labels."""
    assert file_name(Selection()) == FILE_NAME


@pytest.mark.parametrize(
    ("selection", "present", "expected"),
    [
        (
            Selection(OURS, "x"),
            ["b.yaml", "..data", "a.yaml", "revision", ".a.yaml"],
            "label nodeagent.io/config of the node is 'x', and there is no x.yaml; there are a.yaml, b.yaml",
        ),
        (
            Selection(OURS, "x"),
            ["sharing.yaml"],
            "label nodeagent.io/config of the node is 'x', and there is no x.yaml; there is sharing.yaml",
        ),
        (
            Selection(NVIDIAS, "x"),
            ["..data", "revision"],
            "label nvidia.com/device-plugin.config of the node is 'x', and there is no x.yaml, nor any other *.yaml",
        ),
        (
            Selection(OURS, "x"),
            ["x.yml", "revision"],
            (
                "label nodeagent.io/config of the node is 'x', and there is no x.yaml; "
                "there is x.yml; did you mean x.yml?"
            ),
        ),
        (
            Selection(OURS, "A100"),
            ["t4.yaml", "a100.yaml"],
            (
                "label nodeagent.io/config of the node is 'A100', and there is no A100.yaml; "
                "there are a100.yaml, t4.yaml; did you mean a100.yaml?"
            ),
        ),
        (
            Selection(OURS, "a100.yaml"),
            ["a100.yaml"],
            (
                "label nodeagent.io/config of the node is 'a100.yaml', and there is no a100.yaml.yaml; "
                "there is a100.yaml; did you mean a100.yaml?"
            ),
        ),
        (
            Selection(),
            ["a.yaml", "b.yaml"],
            (
                "no label of the node selects a config, and there is no sharing.yaml; there are a.yaml, b.yaml;"
                " --config-default says which is read then"
            ),
        ),
        (
            Selection(OURS, "x"),
            [f"{number:02}.yaml" for number in range(13)],
            (
                "label nodeagent.io/config of the node is 'x', and there is no x.yaml; there are "
                "00.yaml, 01.yaml, 02.yaml, 03.yaml, 04.yaml, 05.yaml, 06.yaml, 07.yaml, 08.yaml, 09.yaml and 3 more"
            ),
        ),
        (
            Selection(OURS, "../x"),
            ["a.yaml"],
            "label nodeagent.io/config of the node is '../x', which is not the name of a file; there is a.yaml",
        ),
        (
            select({NVIDIAS: ""}, BOTH),
            ["a.yaml"],
            (
                "no label of the node selects a config (nodeagent.io/config is not set, "
                "nvidia.com/device-plugin.config is empty), and there is no sharing.yaml; there is a.yaml; "
                "--config-default says which is read then"
            ),
        ),
        (
            Selection(OURS, "x"),
            ["a" * 249 + ".yaml"],
            f"label nodeagent.io/config of the node is 'x', and there is no x.yaml; there is {'a' * 79}…",
        ),
    ],
)
def test_what_is_not_there_is_told_with_what_is(selection: Selection, present: Sequence[str], expected: str) -> None:
    """The message names the label, its value, the file that is missing, and those that could be meant."""
    assert unknown(selection, present) == expected


def test_it_is_told_why_a_file_is_read() -> None:
    """A selection says which label made it."""
    assert describe(Selection(OURS, "a")) == "label nodeagent.io/config of the node is 'a'"
    assert describe(Selection()) == "no label of the node selects a config"
