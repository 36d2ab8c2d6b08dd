"""The kubelet's checkpoint, in the forms that it has had, and damaged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nodeagent.kubelet.checkpoint import LARGEST, parse, read
from nodeagent.model.kubelet import CheckpointEntry


def checkpoint(*entries: object) -> bytes:
    """A checkpoint with these PodDeviceEntries."""
    data = {"PodDeviceEntries": list(entries), "RegisteredDevices": {"nvidia.com/gpu": ["GPU-0"]}}
    return json.dumps({"Data": data, "Checksum": 1234567890}).encode()


def entry(ids: object, **changes: object) -> dict[str, object]:
    """One entry of pod uid-1, container main."""
    given = {"PodUID": "uid-1", "ContainerName": "main", "ResourceName": "nvidia.com/gpu", "DeviceIDs": ids}
    return {**given, "AllocResp": "CgA=", **changes}


ONE = CheckpointEntry("uid-1", "main", "nvidia.com/gpu", "GPU-0")
TWO = CheckpointEntry("uid-1", "main", "nvidia.com/gpu", "GPU-1")


@pytest.mark.parametrize(
    ("data", "meaning"),
    [
        (checkpoint(entry({"0": ["GPU-0"], "-1": ["GPU-1"]})), frozenset({ONE, TWO})),
        (checkpoint(entry(["GPU-0", "GPU-1"])), frozenset({ONE, TWO})),
        (checkpoint(entry({"0": ["GPU-0"]}), entry({"0": ["GPU-1"]})), frozenset({ONE, TWO})),
        (checkpoint(entry({"0": None}), entry(None), entry({}), entry([])), frozenset()),
        (checkpoint(), frozenset()),
        (b'{"Data": {"PodDeviceEntries": null, "RegisteredDevices": null}, "Checksum": 0, "BootID": "b"}', frozenset()),
    ],
)
def test_every_form_of_device_ids_is_read(data: bytes, meaning: frozenset[CheckpointEntry]) -> None:
    """Ids come by NUMA node, as one list in old kubelets, or not at all; each becomes one entry."""
    assert parse(data) == meaning


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"{}",
        b'{"Data": null}',
        b'{"Data": {}}',
        checkpoint(entry({"0": ["GPU-0"]}))[:-20],
        checkpoint(entry("GPU-0")),
        checkpoint(entry({"0": [7]})),
        checkpoint(entry(["GPU-0"], PodUID=None)),
        checkpoint(entry(["GPU-0"], ResourceName=3)),
        checkpoint({"PodUID": "uid-1"}),
        checkpoint("GPU-0"),
        b'{"Data": {"PodDeviceEntries": 5}}',
        b"[" * 100_000,
    ],
)
def test_what_is_not_a_checkpoint_is_not_read(data: bytes) -> None:
    """A damaged or unknown file says nothing; it is never taken for "nobody holds anything"."""
    assert parse(data) is None


def test_a_file_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    """Of a missing file, or a directory in its place, it is said why; an existing one is read as it is."""
    assert read(tmp_path / "missing") == "there is no such file"
    assert read(tmp_path) == "Is a directory (EISDIR)"
    (tmp_path / "there").write_bytes(b"{}")
    assert read(tmp_path / "there") == b"{}"


def test_a_file_that_is_too_large_says_nothing(tmp_path: Path) -> None:
    """What has more bytes than any checkpoint is read no further, and is none."""
    with (tmp_path / "large").open("wb") as file:
        file.truncate(LARGEST + 1)
    assert read(tmp_path / "large") == "it has more than 64 MiB"
    assert read(Path("/dev/zero")) == "it has more than 64 MiB"
