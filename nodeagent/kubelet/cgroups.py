"""Which pods have a cgroup on this node. A pod has one from before its first container starts until its last has ended,
and for as long as its volumes take to be unmounted.

The kubelet makes it when it first does something for an admitted pod, and removes it when nothing of the pod is left,
whether the pod was deleted or not; `Kubelet.SyncPod` and `SyncTerminatedPod` in its source. A kubelet that runs with
`--cgroups-per-qos=false` makes none. Where they are depends on the version of cgroups, the kubelet's cgroup driver and
its `--cgroup-root`:

    kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid, _ for ->.slice   systemd; guaranteed: no middle
    kubepods/burstable/pod<uid>                                                          cgroupfs; likewise
    <controller>/kubepods/…                                                              cgroups of version 1
    kubelet.slice/kubelet-kubepods.slice/…                                               with a root of its own
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

_KUBEPODS: Final = re.compile(r"kubepods|(?:.+-)?kubepods\.slice")
_CLASS: Final = re.compile(r"(?:.+-)?(?:burstable|besteffort)(?:\.slice)?")
_POD: Final = re.compile(r"(?:.+-)?pod([0-9A-Za-z_-]+?)(\.slice)?")

_DEPTH: Final = 3
"""Levels below the root of all cgroups on which the kubelet's may be: controller, root of its own, the directory."""

_AGAIN: Final = 10.0
"""Seconds between two searches for the kubelet's cgroups, where none were found."""

_SELDOM: Final = 60.0
"""The same where they were: a kubelet that restarts with another driver makes others."""

_LEAVES: Final = (".service", ".scope", ".mount", ".socket", ".swap")
"""What systemd calls cgroups in which no kubelet makes any."""


class PodCgroups:
    """Looks below `root`, where the host's cgroups are mounted. Its methods may wait for the disk; for one thread."""

    def __init__(self, root: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._root = root
        self._clock = clock
        self._kubepods: list[Path] = []
        self._known: dict[str, Path] = {}
        self._searched_at = float("-inf")

    def uids(self) -> frozenset[str] | None:
        """The UIDs of the pods that have a cgroup, in whichever hierarchy; None where no pod has one, which says
        nothing of any pod.
        """
        now = self._clock()
        found = self._pods()
        if now >= self._searched_at + (_SELDOM if found else _AGAIN):
            self._searched_at = now
            self._kubepods = list(_search(self._root, _DEPTH))
            found = self._pods()
        # A directory that changes while it is read may be shown without one that is there.
        found |= {uid: path for uid, path in self._known.items() if uid not in found and path.is_dir()}
        self._known = found
        return frozenset(found) or None

    def _pods(self) -> dict[str, Path]:
        """Each pod's UID, and where its cgroup is."""
        found: dict[str, Path] = {}
        for kubepods in self._kubepods:
            classes = [path for path in _directories(kubepods) if _CLASS.fullmatch(path.name)]
            for directory in (kubepods, *classes):
                for path in _directories(directory):
                    if pod := _POD.fullmatch(path.name):
                        found[pod[1].replace("_", "-") if pod[2] else pod[1]] = path
        return found


def _search(directory: Path, depth: int) -> Iterator[Path]:
    """The kubelets' directories below this one."""
    level = [directory]
    for _ in range(depth):
        level = [path for parent in level for path in _directories(parent)]
        yield from (path for path in level if _KUBEPODS.fullmatch(path.name))
        level = [path for path in level if not _KUBEPODS.fullmatch(path.name) and path.suffix not in _LEAVES]


def _directories(parent: Path) -> list[Path]:
    """None where they cannot be read."""
    try:
        with os.scandir(parent) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
