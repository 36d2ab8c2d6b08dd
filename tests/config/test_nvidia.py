"""NVIDIA's `version: v1` file: what NVIDIA's plugin would give, and what it parses and ignores made to work."""

from __future__ import annotations

import pytest

from nodeagent.config.convert import to_yaml
from nodeagent.model.config import Contract, Match, Mode
from tests.config.support import DATA, accepted, rejections

FILES = sorted(path for path in (DATA / "nvidia").glob("*.yaml") if not path.stem.endswith(".converted"))


def time_slicing(more: str = "", resource: str = "") -> str:
    """A file that shares every GPU by ten, with more keys at two places."""
    return f"""\
version: v1
sharing:
  timeSlicing:
    {more or "renameByDefault: false"}
    resources:
      - name: nvidia.com/gpu
        replicas: 10
        {resource}
"""


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_files(name: str) -> None:
    """Each file converts to the one that stands beside it, and that means the same."""
    text = (DATA / "nvidia" / f"{name}.yaml").read_text("utf-8")
    converted = (DATA / "nvidia" / f"{name}.converted.yaml").read_text("utf-8")

    assert to_yaml(accepted(text), name=name) == converted
    assert accepted(converted).rules == accepted(text).rules


@pytest.mark.parametrize(
    ("more", "resource", "name"),
    [
        ("", "", "nvidia.com/gpu"),
        ("renameByDefault: true", "", "nvidia.com/gpu.shared"),
        ("renameByDefault: true", "rename: example.com/share", "example.com/share"),
        ("", "rename: example.com/share", "example.com/share"),
    ],
)
def test_resource_names(more: str, resource: str, name: str) -> None:
    """`renameByDefault` gives NVIDIA's name, `rename` the given one."""
    (rule,) = accepted(time_slicing(more, resource)).rules

    assert rule.contract == Contract(name, Mode.TIME_SLICED)
    assert rule.replicas == 10


@pytest.mark.parametrize(
    ("devices", "match"),
    [
        ("all", Match()),
        ("3", Match(indices=frozenset({0, 1, 2}))),
        ("[0, 2]", Match(indices=frozenset({0, 2}))),
        ('["0", "2"]', Match(indices=frozenset({0, 2}))),
        ("[GPU-a, GPU-b]", Match(uuids=frozenset({"GPU-a", "GPU-b"}))),
    ],
)
def test_devices(devices: str, match: Match) -> None:
    """`devices` selects GPUs: all, the first ones by index, indices, or UUIDs."""
    (rule,) = accepted(time_slicing("renameByDefault: true", f"devices: {devices}")).rules

    assert rule.match == match


def test_devices_of_both_kinds() -> None:
    """A list of indices and UUIDs means all of them, which takes two rules."""
    by_index, by_uuid = accepted(time_slicing("renameByDefault: true", "devices: [1, GPU-a]")).rules

    assert by_index.match == Match(indices=frozenset({1}))
    assert by_uuid.match == Match(uuids=frozenset({"GPU-a"}))
    assert by_index.contract == by_uuid.contract
    assert by_index.where == by_uuid.where


@pytest.mark.parametrize(("value", "limit"), [("true", 1), ("false", None)])
def test_requests_greater_than_one(value: str, limit: int | None) -> None:
    """`failRequestsGreaterThanOne` is a limit of one share per container."""
    (rule,) = accepted(time_slicing(f"failRequestsGreaterThanOne: {value}")).rules

    assert rule.max_shares_per_container == limit


@pytest.mark.parametrize(
    "text", ["version: v1\n", "version: v1\nsharing: {}\n", "version: v1\nflags: {migStrategy: none}\n"]
)
def test_nothing_shared(text: str) -> None:
    """A file that shares nothing means whole GPUs."""
    (rule,) = accepted(text).rules

    assert rule.contract == Contract("nvidia.com/gpu", Mode.EXCLUSIVE)
    assert rule.match.takes_all


def test_notes() -> None:
    """Where NVIDIA's plugin would do something else, a note says what, with the line."""
    config = accepted(
        "version: v1\nflags: {failOnInitError: true}\n"
        + time_slicing("", "rename: example.com/share\n        devices: 2").removeprefix("version: v1\n")
    )

    assert [note.split(": ")[0] for note in config.notes] == [
        "line 2, flags.failOnInitError",
        "line 10, sharing.timeSlicing.resources[0].devices",
        "line 9, sharing.timeSlicing.resources[0].rename",
    ]
    assert all("NVIDIA's plugin would" in note for note in config.notes)


def test_what_nvidia_does_too_is_not_noted() -> None:
    """A file that means the same to NVIDIA's plugin has no notes."""
    assert accepted(time_slicing("renameByDefault: true", "rename: nvidia.com/gpu.shared")).notes == ()


def test_some_devices_need_another_name() -> None:
    """Sharing some GPUs under the name of the whole ones is an error that suggests `rename`."""
    (line,) = rejections(time_slicing("", "devices: 2"))

    assert '"rename: nvidia.com/gpu.shared"' in line


@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("migStrategy: single", 'expected "none"'),
        ("nvidiaDriverRoot: /run/nvidia/driver", 'expected "/"'),
        ("gdsEnabled: true", "expected false"),
        ("useNodeFeatureAPI: true", "expected false"),
        ("deviceDiscoveryStrategy: tegra", 'expected "auto" or "nvml"'),
        ("mpsRoot: /run/nvidia/mps", 'got "mpsRoot"'),
        ("gfd: {oneshot: true}", 'got "gfd"'),
        ("plugin: {deviceListStrategy: [envvar, volume-mounts]}", 'expected "envvar"'),
        ("plugin: {deviceIDStrategy: index}", 'expected "uuid"'),
        ("plugin: {passDeviceSpecs: true}", "expected false"),
        ("plugin: {cdiAnnotationPrefix: cdi.k8s.io/}", 'got "cdiAnnotationPrefix"'),
    ],
)
def test_flags_that_cannot_be_honoured(flag: str, expected: str) -> None:
    """A flag that would change what the agent does is an error, never ignored."""
    (line,) = rejections(f"version: v1\nflags:\n  {flag}\n")

    assert expected in line


def test_flags_that_change_nothing() -> None:
    """Flags that say what the agent does anyway are fine."""
    accepted(
        "version: v1\nflags: {migStrategy: none, failOnInitError: false, nvidiaDriverRoot: /, nvidiaDevRoot: /,"
        " gdrcopyEnabled: false, gdsEnabled: false, mofedEnabled: false, useNodeFeatureAPI: false,"
        " deviceDiscoveryStrategy: auto,"
        " plugin: {passDeviceSpecs: false, deviceListStrategy: envvar, deviceIDStrategy: uuid}}\n"
    )
