"""What docs/migration.md says of NVIDIA's file and of our options is so."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from nodeagent.config.load import load
from nodeagent.model.config import Document
from nodeagent.settings import MPS_HOST_OPTIONS, OPTIONS
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "migration.md"
SHARED = {"name": "nvidia.com/gpu", "replicas": 4}


def errors(document: object) -> list[str]:
    """What is wrong with this document; nothing is, if the list is empty."""
    found = load(Document("sharing.yaml", json.dumps(document).encode()))
    return [f"{one.where.path}: {one.message}" for one in found.violations]


REFUSED: dict[str, tuple[object, str]] = {
    "no version": ({"flags": {}}, "version"),
    "another version": ({"version": "v2"}, "version"),
    "resources": ({"version": "v1", "resources": {"gpus": []}}, "resources"),
    "mpsRoot": ({"version": "v1", "flags": {"mpsRoot": "/run/nvidia/mps"}}, "--mps-root"),
    "useNodeFeatureAPI": ({"version": "v1", "flags": {"useNodeFeatureAPI": True}}, "--labels"),
    "outputFile": ({"version": "v1", "flags": {"gfd": {"outputFile": "/x"}}}, "--labels"),
    "tegra": ({"version": "v1", "flags": {"deviceDiscoveryStrategy": "tegra"}}, "NVML"),
    "vfio": ({"version": "v1", "flags": {"deviceDiscoveryStrategy": "vfio"}}, "NVML"),
    "oneshot": ({"version": "v1", "flags": {"gfd": {"oneshot": True}}}, "labels follow what is applied"),
    "sleepInterval": ({"version": "v1", "flags": {"gfd": {"sleepInterval": "10s"}}}, "sleepInterval"),
    "nvidiaCTKPath": ({"version": "v1", "flags": {"plugin": {"nvidiaCTKPath": "/x"}}}, "container toolkit"),
    "cdiFeatureFlags": ({"version": "v1", "flags": {"plugin": {"cdiFeatureFlags": ["x"]}}}, "container toolkit"),
    "containerDriverRoot": ({"version": "v1", "flags": {"plugin": {"containerDriverRoot": "/x"}}}, "--driver-root"),
    "kubeletSocket": ({"version": "v1", "flags": {"plugin": {"kubeletSocket": "/x"}}}, "--kubelet-dir"),
    "deviceIDStrategy: index": (
        {"version": "v1", "flags": {"migStrategy": "mixed", "plugin": {"deviceIDStrategy": "index"}}},
        "deviceIDStrategy",
    ),
    "sharing.mps": (
        {"version": "v1", "flags": {"migStrategy": "single"}, "sharing": {"mps": {"resources": [SHARED]}}},
        "MIG devices cannot be shared under MPS",
    ),
    "one resource twice": (
        {"version": "v1", "sharing": {"timeSlicing": {"resources": [SHARED, SHARED]}}},
        "expected each resource once",
    ),
    "both ways of sharing": (
        {"version": "v1", "sharing": {"timeSlicing": {"resources": [SHARED]}, "mps": {"resources": [SHARED]}}},
        "sharing",
    ),
    "`replicas` below 2": (
        {"version": "v1", "sharing": {"timeSlicing": {"resources": [{**SHARED, "replicas": 1}]}}},
        "from 2",
    ),
    'indices of MIG devices (`"0:1"`)': (
        {"version": "v1", "sharing": {"timeSlicing": {"resources": [{**SHARED, "devices": ["0:1"]}]}}},
        "UUID",
    ),
}
"""What the page says is refused, and a word of why."""


@pytest.mark.parametrize("what", REFUSED)
def test_what_the_page_calls_refused_is(what: str) -> None:
    """Each of these is an error, and says why."""
    document, word = REFUSED[what]
    found = errors(document)
    assert found
    assert any(word in one for one in found), found


def test_the_page_names_nothing_else() -> None:
    """Each field in its table of what is refused is in one of the documents that are tried here."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("## What is refused")
    rows = re.findall(r"^\| (.+?) \|", rest.partition("\n## ")[0], re.MULTILINE)[1:]
    tried = json.dumps([document for document, _ in REFUSED.values()])
    named = [name for row in rows for name in re.findall(r"`\"?([A-Za-z0-9.:]*[A-Za-z0-9])", row)]
    assert len(named) >= len(rows)
    for name in named:
        assert f'"{name.rpartition(".")[2].partition(": ")[0]}"' in tried, name


@pytest.mark.parametrize("page", ["migration.md", "install.md", "gitops.md", "handover.md"])
def test_options_on_a_page_are_those_of_the_program(page: str) -> None:
    """Every NODEAGENT_… that a page names is one that the agent or the MPS host reads."""
    known = {option.environment for option in (*OPTIONS, *MPS_HOST_OPTIONS)}
    text = Path(ROOT / "docs" / page).read_text(encoding="utf-8")
    assert {*re.findall(r"\bNODEAGENT_[A-Z_]+\b", text)} <= known


def test_the_file_is_what_it_was_with_nvidia() -> None:
    """A file that says nothing but its version, and what Helm values would say, is accepted."""
    flags = {
        "migStrategy": "mixed",
        "failOnInitError": False,
        "nvidiaDriverRoot": "/run/nvidia/driver",
        "gdsEnabled": True,
        "mofedEnabled": True,
        "gdrcopyEnabled": True,
        "plugin": {
            "passDeviceSpecs": True,
            "deviceListStrategy": ["envvar", "cdi-annotations"],
            "deviceIDStrategy": "uuid",
            "cdiAnnotationPrefix": "nvidia.cdi.k8s.io/",
        },
        "gfd": {"noTimestamp": True},
    }
    assert errors({"version": "v1"}) == []
    assert errors({"version": "v1", "flags": flags, "imex": {"channelIDs": [0], "required": True}}) == []
