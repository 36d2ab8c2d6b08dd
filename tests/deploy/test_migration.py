"""What docs/migration.md says of NVIDIA's file and of our options is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

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


KEYS = """
version flags resources sharing imex
flags.migStrategy flags.failOnInitError flags.mpsRoot flags.nvidiaDriverRoot flags.nvidiaDevRoot flags.gdrcopyEnabled
flags.gdsEnabled flags.mofedEnabled flags.useNodeFeatureAPI flags.deviceDiscoveryStrategy flags.plugin flags.gfd
flags.plugin.passDeviceSpecs flags.plugin.deviceListStrategy flags.plugin.deviceIDStrategy
flags.plugin.cdiAnnotationPrefix flags.plugin.nvidiaCTKPath flags.plugin.containerDriverRoot
flags.plugin.sharedDevicesAllocationPolicy
flags.gfd.oneshot flags.gfd.noTimestamp flags.gfd.sleepInterval flags.gfd.outputFile flags.gfd.machineTypeFile
resources.gpus resources.mig
sharing.timeSlicing sharing.mps
sharing.timeSlicing.renameByDefault sharing.timeSlicing.failRequestsGreaterThanOne sharing.timeSlicing.resources
sharing.timeSlicing.resources[].name sharing.timeSlicing.resources[].rename sharing.timeSlicing.resources[].devices
sharing.timeSlicing.resources[].replicas
sharing.mps.renameByDefault sharing.mps.failRequestsGreaterThanOne sharing.mps.resources
sharing.mps.resources[].name sharing.mps.resources[].rename sharing.mps.resources[].devices
sharing.mps.resources[].replicas
imex.channelIDs imex.required
"""
"""Every key of plugin 0.20: api/config/v1, config.go, flags.go, resources.go, sharing.go, replicas.go, imex.go."""


def rows() -> list[tuple[str, str, str]]:
    """Key, value and verdict of each row of the page."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition("## Key by key")
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \| (\w+) \|", rest.partition("\n## ")[0], re.MULTILINE)


def document(key: str, value: object) -> object:
    """A file that says this and, where it would be nothing without, what stands around it."""
    root: dict[str, object] = {"version": "v1"}
    inner: Any = root
    *outer, last = key.replace("[]", ".[]").split(".")
    for step in outer:
        if step == "[]":
            inner = inner[0]
        elif step == "resources":
            inner = inner.setdefault(step, [dict(SHARED)] if len(outer) > 1 else {})
        else:
            inner = inner.setdefault(step, {})
    if outer[:1] == ["sharing"] and len(outer) == 2 and last != "resources":
        inner["resources"] = [SHARED]
    inner[last] = value
    return root


@pytest.mark.parametrize(("key", "value", "verdict"), rows())
def test_each_row_is_as_the_page_says(key: str, value: str, verdict: str) -> None:
    """What is read has no note, what is noted has one that begins with its line, an error says what was expected."""
    data = yaml.safe_dump(document(key, yaml.safe_load(value)), sort_keys=False).encode()
    found = load(Document("sharing.yaml", data))
    notes = found.config.notes if found.config is not None else ()
    told = "error" if found.violations else "note" if notes else "read"
    assert told == verdict, (found.violations, notes)
    assert all(note.startswith("line ") for note in notes)
    assert all("expected" in one.message for one in found.violations)


def test_every_key_has_a_row() -> None:
    """Of every key the page says what becomes of it, and of keys that do not exist it says that."""
    listed = {key for key, _, _ in rows()}
    assert set(KEYS.split()) <= listed
    assert listed - set(KEYS.split()) == {"flags.plugin.kubeletSocket", "flags.plugin.cdiFeatureFlags"}


LOGGED = {
    "device plugin": """
        {"version": "v1", "flags": {"migStrategy": "mixed", "failOnInitError": false, "mpsRoot": "",
         "nvidiaDriverRoot": "/", "nvidiaDevRoot": "/", "gdrcopyEnabled": false, "gdsEnabled": false,
         "mofedEnabled": false, "useNodeFeatureAPI": null, "deviceDiscoveryStrategy": "auto",
         "plugin": {"passDeviceSpecs": false, "deviceListStrategy": ["envvar"], "deviceIDStrategy": "uuid",
          "cdiAnnotationPrefix": "cdi.k8s.io/", "nvidiaCTKPath": "/usr/bin/nvidia-ctk",
          "containerDriverRoot": "/driver-root", "sharedDevicesAllocationPolicy": "distributed"}},
         "resources": {"gpus": [{"pattern": "*", "name": "nvidia.com/gpu"}],
          "mig": [{"pattern": "1g.5gb", "name": "nvidia.com/mig-1g.5gb"},
                  {"pattern": "1g.5gb+me", "name": "nvidia.com/mig-1g.5gb.me"}]},
         "sharing": {"timeSlicing": {}}, "imex": {}}
    """,
    "device plugin, shared": """
        {"version": "v1", "flags": {"migStrategy": "none", "failOnInitError": false,
         "mpsRoot": "/run/nvidia/mps", "nvidiaDriverRoot": "/", "nvidiaDevRoot": "/", "gdrcopyEnabled": null,
         "gdsEnabled": false, "mofedEnabled": false, "useNodeFeatureAPI": null, "deviceDiscoveryStrategy": "auto",
         "plugin": {"passDeviceSpecs": false, "deviceListStrategy": ["envvar"], "deviceIDStrategy": "uuid",
          "cdiAnnotationPrefix": "cdi.k8s.io/", "nvidiaCTKPath": "/usr/bin/nvidia-ctk",
          "containerDriverRoot": "/driver-root", "sharedDevicesAllocationPolicy": "packed"}},
         "resources": {"gpus": [{"pattern": "*", "name": "nvidia.com/gpu"}]},
         "sharing": {"timeSlicing": {}, "mps": {"failRequestsGreaterThanOne": true, "resources": [
          {"name": "nvidia.com/gpu", "devices": "all", "replicas": 10}]}}, "imex": {}}
    """,
    "gpu-feature-discovery": """
        {"version": "v1", "flags": {"migStrategy": "single", "failOnInitError": false, "gdrcopyEnabled": null,
         "gdsEnabled": null, "mofedEnabled": null, "useNodeFeatureAPI": true, "deviceDiscoveryStrategy": "auto",
         "plugin": {"passDeviceSpecs": null, "deviceListStrategy": null, "deviceIDStrategy": null,
          "cdiAnnotationPrefix": null, "nvidiaCTKPath": null, "containerDriverRoot": "/driver-root",
          "sharedDevicesAllocationPolicy": null},
         "gfd": {"oneshot": false, "noTimestamp": false, "sleepInterval": "1m0s",
          "outputFile": "/etc/kubernetes/node-feature-discovery/features.d/gfd",
          "machineTypeFile": "/sys/class/dmi/id/product_name"}},
         "resources": {"gpus": null},
         "sharing": {"timeSlicing": {"renameByDefault": true, "resources": [
          {"name": "nvidia.com/gpu", "rename": "nvidia.com/gpu.shared", "devices": "all", "replicas": 10}]}},
         "imex": {}}
    """,
}
"""What the programs of 0.20 log after "Running with config": their structs as json.MarshalIndent writes them."""


@pytest.mark.parametrize("program", LOGGED)
def test_the_config_that_is_logged_is_read(program: str) -> None:
    """Who copies it from the log of NVIDIA's pods has a file."""
    found = load(Document("sharing.yaml", LOGGED[program].encode()))
    assert found.violations == ()


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
