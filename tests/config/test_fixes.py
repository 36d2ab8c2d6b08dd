"""A fix that a report names works: written in as it says, that mistake is gone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nodeagent.config.load import load
from nodeagent.documents.hints import Guide
from nodeagent.documents.schema import load_schema
from nodeagent.documents.strict import Rejected, examine
from nodeagent.model.config import Document, Violation
from tests.config.fixing import fixed
from tests.config.malformed import DIRECTORY, documents
from tests.config.support import loaded

Value = Any
OURS: dict[str, Any] = {
    "apiVersion": "nodeagent.io/v1alpha1",
    "kind": "SharingConfig",
    "metadata": {"name": "pool"},
    "spec": {
        "suspend": False,
        "transition": {"timeout": "4h", "maxUnavailable": 2},
        "health": {"ignoreXids": [13], "recovery": {"after": "10m", "xids": [94]}},
        "rules": [
            {
                "name": "small",
                "match": {
                    "indices": [0],
                    "uuids": ["GPU-4d9c1f10-0000-0000-0000-000000000002"],
                    "models": ["*A100*"],
                    "minMemory": "40Gi",
                },
                "resource": "nvidia.com/gpu.shared",
                "timeSlicing": {"replicas": 10},
                "maxSharesPerContainer": 1,
                "placement": "packed",
            },
            {
                "name": "limited",
                "resource": "nvidia.com/gpu.mps",
                "mps": {"replicas": 4, "memoryPerReplica": "9Gi", "threadPercentage": 25, "oversubscribe": False},
            },
            {"name": "rest", "match": {"mig": ["1g.*"]}, "exclusive": {}},
        ],
    },
}
NVIDIAS: dict[str, Any] = {
    "version": "v1",
    "flags": {
        "migStrategy": "none",
        "failOnInitError": False,
        "plugin": {"passDeviceSpecs": True, "deviceListStrategy": "envvar", "deviceIDStrategy": "uuid"},
        "gfd": {"noTimestamp": False},
    },
    "imex": {"channelIDs": [], "required": False},
    "sharing": {
        "timeSlicing": {
            "renameByDefault": True,
            "failRequestsGreaterThanOne": False,
            "resources": [
                {"name": "nvidia.com/gpu", "rename": "nvidia.com/gpu.shared", "devices": [0, 1], "replicas": 2}
            ],
        }
    },
}
ODD: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    5,
    -1,
    7.0,
    0.25,
    "",
    "yes",
    "off",
    "true",
    "12",
    "0",
    "25%",
    "150%",
    "0-3",
    "3-1",
    "0,1",
    "0 2",
    "0-2000",
    "all",
    "GPU-1",
    "a b",
    "Some_Name",
    "9.5Gi",
    "80GB",
    "9 gi",
    "1h30m",
    "2 days",
    "mig-1g.5gb",
    "replicas:4",
    "name:x",
    "{{ .x }}",
    [],
    [0],
    [4, 4],
    ["1"],
    ["0-3"],
    {},
    {"replicas": 4},
    {"name": "x"},
)


def check(text: str, violation: Violation) -> int:
    """Each fix that a violation names removes it, and is none that is wrong there; how many it names."""
    texts = fixed(text, violation)
    before = {one.message for one in loaded(text).violations} - {violation.message}
    for one in texts:
        left = [other.message for other in loaded(one).violations if other.where.path == violation.where.path]
        assert violation.message not in left, (text, str(violation))
        if "did you mean" not in violation.message:
            assert all(message in before or "expected one" in message for message in left), (text, str(violation), left)
    return len(texts)


def readable(text: str) -> bool:
    """Whether a tree can be made of it."""
    try:
        return bool(examine(text.encode(), "f").values)
    except Rejected:
        return False


@pytest.mark.parametrize("name", sorted(path.stem for path in DIRECTORY.glob("*.yaml")))
def test_of_the_corpus(name: str) -> None:
    """Whatever fix is named for a malformed document helps."""
    data = documents()[name]
    text = data.decode("utf-8", "replace")
    for violation in load(Document("f", data)).violations if readable(text) else ():
        check(text, violation)


def places(value: Value, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Everything in a document."""
    yield path
    for step in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[step], (*path, step))


def with_value(document: dict[str, Any], path: tuple[str | int, ...], value: Value) -> str:
    """The document with another value at a place."""
    copied = json.loads(json.dumps(document))
    around = copied
    for step in path[:-1]:
        around = around[step]
    around[path[-1]] = value
    return json.dumps(copied)


@pytest.mark.parametrize("document", [OURS, NVIDIAS], ids=["ours", "NVIDIA's"])
def test_of_values(document: dict[str, Any]) -> None:
    """Whatever stands where something else belongs: the fix that is named is accepted there."""
    assert loaded(json.dumps(document)).config is not None
    named = 0
    for path in places(document):
        for odd in ODD if path else ():
            text = with_value(document, path, odd)
            named += sum(check(text, violation) for violation in loaded(text).violations)
    assert named > 120


@pytest.mark.parametrize("document", [OURS, NVIDIAS], ids=["ours", "NVIDIA's"])
def test_of_keys(document: dict[str, Any]) -> None:
    """Whatever key of the format stands in a wrong object: where it belongs is said, and there it is known."""
    every = set(Guide(load_schema("nvidia-v1" if document is NVIDIAS else "sharing-config-v1alpha1"), document).names)
    named = 0
    for path in places(document):
        around: Value = document
        for step in path:
            around = around[step]
        for key in every - set(around) if isinstance(around, dict) else ():
            text = with_value(document, (*path, key), "x")
            for violation in loaded(text).violations:
                if violation.message.startswith(f'expected a known key, got "{key}"'):
                    assert check(text, violation) > 0, str(violation)
                    named += 1
                assert not re.search("one of the keys|an empty object", violation.message), str(violation)
    assert named > 60


WORDS = (
    "yes",
    "no",
    "On",
    "y",
    "True",
    "NULL",
    "012",
    "00",
    "0x1F",
    "1_000",
    "+5",
    "4:00",
    ".5",
    "1e3",
    "2024-05-06",
    "*T4",
)


@pytest.mark.parametrize("document", [OURS, NVIDIAS], ids=["ours", "NVIDIA's"])
def test_of_words(document: dict[str, Any]) -> None:
    """Whatever word that readers take for different things stands anywhere: only what is accepted there is named."""
    for path in places(document):
        for word in WORDS if path else ():
            text = with_value(document, path, "@").replace('"@"', word)
            violations = [one for one in loaded(text).violations if one.message.count(f"got {word}")]
            assert len(violations) == 1, [str(one) for one in loaded(text).violations]
            assert loaded(with_value(document, path, ["@", {"x": ["@"]}]).replace('"@"', word)).violations
            if "quoted string" in violations[0].message or "; write" in violations[0].message:
                assert check(text, violations[0]) > 0, str(violations[0])


TYPOS: dict[str, Callable[[str], str]] = {
    "case": str.swapcase,
    "snake_case": lambda key: re.sub("([A-Z])", r"_\1", key).lower(),
    "kebab-case": lambda key: re.sub("([A-Z])", r"-\1", key).lower(),
    "a letter too few": lambda key: key[:-2] + key[-1] if len(key) > 4 else key.upper(),
    "two letters swapped": lambda key: key[:-2] + key[-1] + key[-2],
    "no space after the colon": lambda key: f"{key}:",
}


@pytest.mark.parametrize("typo", TYPOS)
@pytest.mark.parametrize("document", [OURS, NVIDIAS], ids=["ours", "NVIDIA's"])
def test_of_typos(document: dict[str, Any], typo: str) -> None:
    """Whatever key is mistyped, in whatever style another tool has: it is one mistake, and the fix is the key."""
    for path in places(document):
        if not path or isinstance(path[-1], int):
            continue
        key = TYPOS[typo](str(path[-1]))
        text = with_key(document, path, key)
        if text is None:
            continue
        violations = loaded(text).violations
        assert len(violations) == 1, [str(one) for one in violations]
        assert check(text, violations[0]) == 1, str(violations[0])


def with_key(document: dict[str, Any], path: tuple[str | int, ...], key: str) -> str | None:
    """The document with another key for a value; None where that is the same, or one that is there."""
    copied = json.loads(json.dumps(document))
    around = copied
    for step in path[:-1]:
        around = around[step]
    if key in around:
        return None
    value = around.pop(path[-1])
    if key.endswith(":"):
        if isinstance(value, dict | list):
            return None
        key, value = f"{key}{json.dumps(value).strip(chr(34))}", None
    around[key] = value
    return json.dumps(copied)
