"""Whoever tries a config on a machine is told before the commit which of its GPUs could not come under MPS."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodeagent.commands.mps_notes import notes
from nodeagent.config.load import load
from nodeagent.durable import atomic
from nodeagent.durable.lock import FileLock
from nodeagent.model.config import Document, SharingConfig
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import GpuMeans
from nodeagent.mps.files import Layout, Observed, encode_observed
from nodeagent.mps.host_file import HostWord, encode_host

CONFIG = b"""\
apiVersion: nodeagent.io/v1alpha1
kind: SharingConfig
metadata: {name: pool}
spec:
  rules:
    - name: batch
      match: {indices: [0, 1]}
      resource: nvidia.com/gpu.mps
      mps: {replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 25}
    - name: rest
      exclusive: {}
"""

GPUS = [Gpu(f"GPU-{index}0000000-0000-0000-0000-000000000000", index, "NVIDIA H100", 80 << 30) for index in range(3)]
WAITS = "cannot come under MPS here, and would stay as before"
ABLE = {gpu.uuid: GpuMeans(memory=81920, clients=48) for gpu in GPUS}


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Layout]:
    """An MPS root, and a host that holds its lock."""
    monkeypatch.setenv("NODEAGENT_MPS_ROOT", str(tmp_path))
    layout = Layout(tmp_path)
    lock = FileLock(layout.lock)
    assert lock.acquire()
    yield layout
    lock.release()


def config(data: bytes = CONFIG) -> SharingConfig:
    """The config of a document."""
    found = load(Document("sharing.yaml", data)).config
    assert found is not None
    return found


def say(layout: Layout, gpus: dict[str, GpuMeans], *, problem: str = "") -> None:
    """As a host does."""
    told = Observed(os.getpid(), "/dev/shm", problem=problem, life="one")
    atomic.write(layout.observed, encode_observed(told), sync=False)
    atomic.write(layout.host, encode_host(HostWord("one", "0.2.0", gpus=gpus)), sync=False)


def test_no_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All GPUs of a rule together, with the reason."""
    monkeypatch.setenv("NODEAGENT_MPS_ROOT", str(tmp_path))
    assert notes(config(), GPUS) == (
        f'rule "batch": GPUs 0-1 cannot come under MPS here, and would stay as before: no MPS host runs at {tmp_path}',
    )


def test_nothing_is_said_of_other_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MPS no host is looked for."""
    monkeypatch.setenv("NODEAGENT_MPS_ROOT", str(tmp_path))
    assert notes(config(CONFIG.replace(b"[0, 1]", b"[7]")), GPUS) == ()


def test_a_host_that_can(layout: Layout) -> None:
    """It has said so of every GPU."""
    say(layout, ABLE)
    assert notes(config(), GPUS) == ()


def test_a_host_that_cannot(layout: Layout) -> None:
    """Of one GPU, of none yet, or nothing at all."""
    say(layout, {**ABLE, GPUS[1].uuid: GpuMeans("it hangs")})
    assert notes(config(), GPUS) == (f'rule "batch": GPU 1 {WAITS}: it hangs',)
    say(layout, {})
    assert "has not said yet" in notes(config(), GPUS)[0]
    say(layout, ABLE, problem="cannot find the program")
    assert notes(config(), GPUS) == (f'rule "batch": GPUs 0-1 {WAITS}: cannot find the program',)


def test_an_older_host(layout: Layout) -> None:
    """It says nothing of what it can do, and is taken to be able."""
    atomic.write(layout.observed, encode_observed(Observed(os.getpid(), "/dev/shm")), sync=False)
    assert notes(config(), GPUS) == ()


def test_a_root_that_cannot_be_looked_at(layout: Layout) -> None:
    """That is said, too."""
    layout.lock.rename(layout.root / "away")
    layout.lock.symlink_to("away")
    assert "cannot look at lock file" in notes(config(), GPUS)[0]
