"""Keys of ConfigMaps: what an agent could read is judged, what it cannot read is said, and others are left alone."""

from __future__ import annotations

import base64

import pytest

from nodeagent.config.bundle import load_bundle
from tests.config.support import TIME_SLICED
from tests.config.test_bundle import BAD

NVIDIAS = "version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}\n"
HEAD = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: nodeagent-a100, namespace: gpu}\n"
NOTHING = "expected a document, got nothing but white space and comments"


def block(text: str, indent: int = 4) -> str:
    """A block scalar with this text."""
    return "|\n" + "".join(" " * indent + line + "\n" for line in text.splitlines()).rstrip("\n")


GOOD = block(TIME_SLICED)


def config_map(keys: dict[str, str], head: str = HEAD, field: str = "data") -> str:
    """A ConfigMap whose keys have these values, as they are written."""
    return f"{head}{field}:\n" + "".join(f"  {key}: {value}\n" for key, value in keys.items())


def encoded(text: str | bytes) -> str:
    """What `binaryData` has."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def wrong(text: str) -> list[str]:
    """Everything that is wrong with a file."""
    return [str(one) for one in load_bundle(text.encode(), "f.yaml").all_violations]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (
            {"sharing.yaml": '"version: v1"', "t4.yaml": r'"version: v1\nsharng: {}"'},
            'got "sharng"; did you mean "sharing"?',
        ),
        ({"sharing.yaml": GOOD, "t4.yaml": '""'}, NOTHING),
        ({"sharing.yaml": GOOD, "t4.yaml": block("# nothing\n---")}, "expected a sharing config"),
        ({"sharing.yaml": GOOD, "t4.yaml": block("a: 1")}, 'got an object with "a"'),
        ({"sharing.yaml": GOOD, "t4.yaml": block("hello")}, 'got "hello"'),
        ({"sharing.yaml": GOOD, "t4": block("version: v1\nsharng: {}")}, 'did you mean "sharing"?'),
        ({"sharing.yaml": '""'}, NOTHING),
        ({"sharing.yaml": block("# emptied")}, NOTHING),
        ({"sharing.yaml": block(f"{TIME_SLICED}---\n{TIME_SLICED}")}, "expected one document, got another one"),
        ({"any": block(NVIDIAS), "tesla-t4": '""'}, NOTHING),
        ({"any": block(NVIDIAS), "tesla-t4": block(NVIDIAS.replace("replicas", "replica"))}, 'got "replica"'),
        ({"any": block(NVIDIAS), "t4": block(NVIDIAS + "flags: 'open")}, "expected"),
        ({"any": block(NVIDIAS), "t4": block("{{ if }}\ngarbage here")}, "template"),
        ({"any": block(NVIDIAS), "t4": "hello"}, 'got "hello"'),
        ({"default": '"version: v1"', "t4": block("version: v1\nsharng: {}")}, 'did you mean "sharing"?'),
        ({"sharing.yml": GOOD, "t4.yaml": GOOD}, 'got "sharing.yml"; did you mean "sharing.yaml"?'),
        ({"Sharing.yaml": GOOD, "t4.yaml": GOOD}, 'got "Sharing.yaml"; did you mean "sharing.yaml"?'),
        ({"SHARING.YML": GOOD, "t4.yaml": GOOD}, 'got "SHARING.YML"; did you mean "sharing.yaml"?'),
        ({'"sharing.yaml "': GOOD}, 'got "sharing.yaml "; did you mean "sharing.yaml"?'),
        ({"sharing.yaml": GOOD, "t4.yml": GOOD}, 'got "t4.yml"; did you mean "t4.yaml"?'),
        ({"sharing.yaml": GOOD, "t4.YAML": GOOD}, 'got "t4.YAML"; did you mean "t4.yaml"?'),
        ({"sharing.yaml": GOOD, '"a b"': "x"}, 'expected a key of letters, digits, "-", "_" and ".", got "a b"'),
        (
            {"sharing.yaml": "\n    a: 1"},
            "got an object with a; add a bar, so that what follows is text: `sharing.yaml: |`",
        ),
        ({"t4.yaml": "{apiVersion: nodeagent.io/v1alpha1, kind: SharingConfig}"}, "add a bar, so that what follows is"),
        ({"sharing.yaml": "[a]"}, "got a list of 1; add a bar"),
        ({"sharing.yaml": "5"}, "expected text, got 5; put it in quotes"),
        ({"sharing.yaml": ""}, "expected text, got nothing; write `sharing.yaml: |` and the config below it, indented"),
        ({"sharing.yaml": "no"}, "expected true, false or a quoted string, got no"),
        ({"sharing.yaml": GOOD, "revision": "12345"}, "expected text, got 12345"),
        ({"sharing.yaml": GOOD, "motd": "{a: 1}"}, "got an object with a; add a bar"),
    ],
)
def test_what_an_agent_could_read_is_judged(keys: dict[str, str], expected: str) -> None:
    """One key that is well does not make up for another one that is not: each is what some node may get."""
    (line,) = wrong(config_map(keys))
    assert expected in line


def test_a_value_that_is_no_text_is_wrong_at_its_key() -> None:
    """The author forgot the bar: the line of the key is where it goes."""
    (line,) = wrong(config_map({"sharing.yaml": "\n    apiVersion: nodeagent.io/v1alpha1"}))
    assert line.startswith('f.yaml:5:3: data["sharing.yaml"]: expected text, got an object with apiVersion; add a bar')


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (encoded(TIME_SLICED), None),
        (encoded(BAD), "in its line 5, column 80: spec.rules[0].timeSlicing.replicas: "),
        (encoded(b"\xff\xff"), "expected UTF-8, got the byte 0xff"),
        ('""', NOTHING),
        ("'!!!'", 'expected base64, got "!!!"; text goes under `data`'),
        (GOOD, "expected base64, got "),
        ("{a: 1}", "expected text, got an object with a"),
    ],
)
def test_binary_data_is_what_it_is_when_it_is_mounted(value: str, expected: str | None) -> None:
    """The kubelet decodes it, and so do we."""
    found = wrong(config_map({"sharing.yaml": value}, field="binaryData"))
    assert len(found) == (expected is not None)
    assert (expected or "") in "".join(found)


def test_a_key_twice() -> None:
    """The API refuses a key in data and in binaryData."""
    text = config_map({"sharing.yaml": GOOD}) + f"binaryData:\n  sharing.yaml: {encoded(TIME_SLICED)}\n"
    (line,) = wrong(text)
    assert 'expected each key once, got "sharing.yaml"' in line


@pytest.mark.parametrize(
    ("kind", "field", "value", "valid"),
    [
        ("Secret", "stringData", GOOD, True),
        ("Secret", "data", encoded(TIME_SLICED), True),
        ("Secret", "data", encoded(BAD), False),
        ("Configmap", "data", GOOD, False),
    ],
)
def test_other_kinds(kind: str, field: str, value: str, *, valid: bool) -> None:
    """A Secret is mounted as a ConfigMap is. A kind in other letters is none, whatever is in it."""
    assert (not wrong(config_map({"sharing.yaml": value}, HEAD.replace("ConfigMap", kind), field))) is valid


def test_lists_of_config_maps() -> None:
    """Items of a ConfigMapList need not say what they are."""
    item = f"- metadata: {{name: a}}\n  data:\n    sharing.yaml: {block(TIME_SLICED, 6)}\n    t4.yaml: ''\n"
    (line,) = wrong(f"apiVersion: v1\nkind: ConfigMapList\nitems:\n{item}")
    assert f"ConfigMap a, t4.yaml:1:1: {NOTHING}" in line


OTHERS = "---\n".join(
    config_map(keys, HEAD.replace("nodeagent-a100", name))
    for name, keys in {
        "coredns": {"Corefile": block(".:53 {\n    errors\n}")},
        "prometheus": {"rules.yaml": block("groups: []\nversion: v1"), "prometheus.yml": '""', "alerts.yaml": "5"},
        "app": {"config.yaml": block("spec: 1\nsharing: yes"), "kind": "x", "empty.yaml": '""'},
        "grafana": {"dashboard.json": block('{"title": "GPU sharing", "version": 1, "panels": []}')},
        "templates": {"pod.yaml": block("apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {}")},
        "compose": {"docker-compose.yaml": block("version: v1\nservices: {}"), "app.conf": block("sharing = on\n{")},
    }.items()
)


def test_what_is_other_software_s_is_left_alone() -> None:
    """In what is rendered for a cluster there are ConfigMaps of others, which may hold anything."""
    text = f"{OTHERS}---\n{config_map({'sharing.yaml': GOOD})}"
    bundle = load_bundle(text.encode(), "f.yaml")
    assert (len(bundle.configs), bundle.all_violations, bundle.notes) == (1, (), ())
    (line,) = wrong(OTHERS)
    assert "got ConfigMap without one; an agent reads the key sharing.yaml" in line


def test_what_is_passed_over_is_said() -> None:
    """Keys of a ConfigMap for agents that nothing for an agent is in are no mistake, and no secret."""
    keys = {
        "README.md": "hello",
        "nginx.conf": block("server {\n}"),
        "dash.json": "'{}'",
        "any": "text",
        "revision": "abc",
    }
    bundle = load_bundle(config_map({"sharing.yaml": GOOD, **keys}).encode(), "f.yaml")
    assert bundle.all_violations == ()
    (note,) = bundle.notes
    told = "ConfigMap gpu/nodeagent-a100: passed over, since nothing in it is meant for an agent: "
    assert note == f"{told}README.md, nginx.conf, dash.json and any"


@pytest.mark.parametrize("key", ["any", "config.yaml", "a100.yaml", "tesla-t4"])
def test_a_key_that_is_read_as_the_only_one(key: str) -> None:
    """A note names what is read: beside another key this one would not be."""
    bundle = load_bundle(config_map({key: GOOD}).encode(), "f.yaml")
    assert bundle.all_violations == ()
    (note,) = bundle.notes
    assert note.endswith(f"has no key sharing.yaml, which is what an agent reads; it reads {key} as the only one")


@pytest.mark.parametrize("key", ["sharing.yml", "Sharing.yaml", "SHARING.YML"])
def test_a_misspelt_key_is_read_as_the_only_one(key: str) -> None:
    """What works until another key is added is no mistake, and is noted."""
    bundle = load_bundle(config_map({key: GOOD}).encode(), "f.yaml")
    assert (len(bundle.configs), bundle.all_violations) == (1, ())
    (note,) = bundle.notes
    assert f"{key} is read only while no other key is there: expected a key that an agent reads" in note


@pytest.mark.parametrize("key", ["default", "default.yaml", "whole.yaml", "sharing.yaml"])
def test_the_least_of_nvidias_files(key: str) -> None:
    """`version: v1` alone is what its plugin starts with: it counts where an agent looks first, and only there."""
    bundle = load_bundle(config_map({key: '"version: v1"'}).encode(), "f.yaml")
    assert (len(bundle.configs), bundle.all_violations) == (1, ())
    assert "ConfigMap without one" in wrong(config_map({"a.yaml": '"version: v1"', "b.yaml": '"version: v2"'}))[0]


@pytest.mark.parametrize("key", ["sharing.yaml", "default.yaml", "default"])
def test_keys_that_a_node_without_a_label_reads(key: str) -> None:
    """Ours, and that of NVIDIA's config-manager: nothing is to be noted of either."""
    assert load_bundle(config_map({key: GOOD, "t4.yaml": GOOD}).encode(), "f.yaml").notes == ()


def test_keys_that_no_agent_reads_by_itself() -> None:
    """Of several keys none of which is for all nodes a note names what is read, and where."""
    (note,) = load_bundle(config_map({"any": GOOD, "config.yaml": GOOD}).encode(), "f.yaml").notes
    assert "has no key sharing.yaml, which is what an agent reads; any and config.yaml are read only where" in note
    assert note.endswith('a label of the node, nodeagent.io/config for example, says "any" or "config"')


def test_what_cannot_change_is_noted() -> None:
    """An immutable ConfigMap is never changed in place."""
    (note,) = load_bundle((config_map({"sharing.yaml": GOOD}) + "immutable: true\n").encode(), "f.yaml").notes
    assert "is immutable: agents see a change only as another ConfigMap" in note


@pytest.mark.parametrize("data", ["", "data:\n", "data: {}\n", "data: hello\n", "data: [a]\n", "binaryData:\n"])
def test_nothing_is_in_it(data: str) -> None:
    """A ConfigMap that holds nothing is no config."""
    (line,) = wrong(HEAD + data)
    assert "expected a sharing config, bare or in a ConfigMap, got ConfigMap without one" in line


def test_which_of_several_is_meant() -> None:
    """Where a file has several configs each mistake says which object and key, and its line there, beside its line in
    the file; where there is one, its line in the file says it.
    """
    first, second = (
        config_map({"sharing.yaml": block(BAD)}),
        config_map({"t4.yaml": block(BAD)}, HEAD.replace("a100", "t4")),
    )
    found = [line.split(": expected")[0] for line in wrong(f"{first}---\n{second}")]
    assert found == [
        "f.yaml:10:84: ConfigMap gpu/nodeagent-a100, sharing.yaml:5:80: spec.rules[0].timeSlicing.replicas",
        "f.yaml:21:84: ConfigMap gpu/nodeagent-t4, t4.yaml:5:80: spec.rules[0].timeSlicing.replicas",
    ]
    assert wrong(first)[0].startswith("f.yaml:10:84: spec.rules[0].timeSlicing.replicas: expected")


def test_a_config_map_has_only_so_many_keys() -> None:
    """Of one with thousands the first are judged, and it is an error that the others are not."""
    keys = {"sharing.yaml": '"version: v1"', **{f"pool{number}": '"version: v1"' for number in range(1500)}}
    bundle = load_bundle(config_map(keys).encode(), "f")
    (violation,) = bundle.violations
    assert "expected at most 1,000 keys, got 1,501" in str(violation)
    assert len(bundle.configs) == 1000
