"""The examples and the published schemas: what users copy works."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from nodeagent.config.convert import to_yaml
from nodeagent.documents.schema import load_schema, schema_text
from tests.config.support import EXAMPLES, accepted

FILES = sorted(EXAMPLES.glob("*.yaml"))
SCHEMAS = ["sharing-config-v1alpha1", "nvidia-v1"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_is_valid(path: Path) -> None:
    """Each example is accepted, and can be written in our own format."""
    config = accepted(path.read_bytes())

    assert accepted(to_yaml(config)).rules == config.rules


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_an_example_names_its_schema(path: Path) -> None:
    """Each example begins with the line by which an editor finds its schema, which fits it."""
    first = path.read_text("utf-8").splitlines()[0]
    found = re.fullmatch(r"# yaml-language-server: \$schema=(\S+)", first)

    assert found is not None
    schema = (path.parent / found[1]).resolve()
    assert schema.is_file()
    kind = "nvidia-v1" if "version: v1\n" in path.read_text("utf-8") else "sharing-config-v1alpha1"
    assert schema.stem == kind


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_a_schema(name: str) -> None:
    """What is published is a JSON Schema of the draft that it names."""
    schema = load_schema(name)

    Draft202012Validator.check_schema(dict(schema))
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$schema"]
    assert json.loads(schema_text(name)) == schema


def test_resource_names_are_alike() -> None:
    """Both formats take the same resource names."""
    ours, nvidias = (load_schema(name)["$defs"] for name in SCHEMAS)

    assert isinstance(ours, dict)
    assert isinstance(nvidias, dict)
    assert ours["resource"] == nvidias["resource"]
