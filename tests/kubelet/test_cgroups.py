"""Pods that have a cgroup, in the layouts that kubelets make."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.kubelet.cgroups import PodCgroups

GUARANTEED = "0b1a9d52-3a6f-4f0a-9e0e-0c6a8f9d7b11"
BURSTABLE = "1c2b0e63-4b70-4a1b-8f1f-1d7b90ae8c22"
STATIC = "6f1c0a4be2d34a5cbf0d9a8e7c6b5a43"
"""The UID of a static pod is a hash."""

PODS = frozenset({GUARANTEED, BURSTABLE, STATIC})


def systemd(uid: str) -> str:
    """A UID as systemd has it in the names of slices."""
    return uid.replace("-", "_")


OWN = "kubelet.slice/kubelet-kubepods.slice"

LAYOUTS = {
    "systemd": [
        f"kubepods.slice/kubepods-pod{systemd(GUARANTEED)}.slice/cri-containerd-1.scope",
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{systemd(BURSTABLE)}.slice",
        f"kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{STATIC}.slice",
        "system.slice/kubelet.service",
    ],
    "cgroupfs": [
        f"kubepods/pod{GUARANTEED}/1",
        f"kubepods/burstable/pod{BURSTABLE}",
        f"kubepods/besteffort/pod{STATIC}",
        "system.slice",
    ],
    "version 1": [
        f"memory/kubepods/pod{GUARANTEED}",
        f"memory/kubepods/burstable/pod{BURSTABLE}",
        f"memory/kubepods/besteffort/pod{STATIC}",
        "cpu/kubepods/burstable",
    ],
    "a root of its own": [
        f"{OWN}/kubelet-kubepods-pod{systemd(GUARANTEED)}.slice",
        f"{OWN}/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{systemd(BURSTABLE)}.slice",
        f"{OWN}/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{STATIC}.slice",
    ],
    "version 1, a root of its own": [
        f"systemd/nodes/kubepods/pod{GUARANTEED}",
        f"systemd/nodes/kubepods/burstable/pod{BURSTABLE}",
        f"systemd/nodes/kubepods/besteffort/pod{STATIC}",
    ],
}


def cgroups(root: Path, *paths: str) -> None:
    """Make these."""
    for path in paths:
        (root / path).mkdir(parents=True)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pods_are_found_in_every_layout(tmp_path: Path, layout: str) -> None:
    """Of both drivers and both versions, below a root of the kubelet's own too; and nothing else is a pod."""
    cgroups(tmp_path, *LAYOUTS[layout])
    assert PodCgroups(tmp_path).uids() == PODS


@pytest.mark.parametrize("paths", [[], ["system.slice"], ["kubepods/burstable", "kubepods/besteffort"]])
def test_where_no_pod_has_one_nothing_is_known(tmp_path: Path, paths: list[str]) -> None:
    """The kubelet makes none, or the agent sees other cgroups than its: that no pod has one says nothing of any."""
    cgroups(tmp_path, *paths)
    assert PodCgroups(tmp_path).uids() is None
    assert PodCgroups(tmp_path / "absent").uids() is None


def test_pods_come_and_go(tmp_path: Path) -> None:
    """Each call says what is there then."""
    cgroups(tmp_path, *LAYOUTS["cgroupfs"])
    found = PodCgroups(tmp_path)
    assert found.uids() == PODS
    (tmp_path / f"kubepods/burstable/pod{BURSTABLE}").rmdir()
    cgroups(tmp_path, "kubepods/burstable/podnext")
    assert found.uids() == frozenset({GUARANTEED, STATIC, "next"})


def test_cgroups_that_come_late_are_found(tmp_path: Path) -> None:
    """As on a node whose kubelet has just started; but they are not looked for all the time."""
    now = [0.0]
    found = PodCgroups(tmp_path, clock=lambda: now[0])
    assert found.uids() is None
    cgroups(tmp_path, *LAYOUTS["systemd"])
    assert found.uids() is None
    now[0] = 10.0
    assert found.uids() == PODS


def test_the_kubelets_directory_may_move(tmp_path: Path) -> None:
    """It is looked for again when it has gone."""
    cgroups(tmp_path, f"kubepods/pod{GUARANTEED}")
    now = [0.0]
    found = PodCgroups(tmp_path, clock=lambda: now[0])
    assert found.uids() == frozenset({GUARANTEED})
    (tmp_path / f"kubepods/pod{GUARANTEED}").rmdir()
    (tmp_path / "kubepods").rmdir()
    cgroups(tmp_path, f"kubelet/kubepods/pod{BURSTABLE}")
    now[0] = 20.0
    assert found.uids() == frozenset({BURSTABLE})


def test_what_is_left_of_another_kubelet_is_no_witness(tmp_path: Path) -> None:
    """Directories without a pod beside the one that has pods, as of another cgroup driver."""
    cgroups(tmp_path, "kubepods/burstable", *LAYOUTS["systemd"])
    assert PodCgroups(tmp_path).uids() == PODS


def test_pods_of_several_hierarchies_are_all_there(tmp_path: Path) -> None:
    """What another driver of the kubelet has left, with a pod in it, hides none that runs."""
    cgroups(tmp_path, "kubepods/burstable/podstale", *LAYOUTS["systemd"])
    assert PodCgroups(tmp_path).uids() == PODS | {"stale"}


def test_a_hierarchy_that_comes_later_is_found(tmp_path: Path) -> None:
    """As after a restart of the kubelet with another driver."""
    cgroups(tmp_path, "kubepods/burstable/podstale")
    now = [0.0]
    found = PodCgroups(tmp_path, clock=lambda: now[0])
    assert found.uids() == frozenset({"stale"})
    cgroups(tmp_path, *LAYOUTS["systemd"])
    now[0] = 60.0
    assert found.uids() == PODS | {"stale"}
