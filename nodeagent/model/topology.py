"""How near the GPUs of a node are to one another: what a set of them for one container is chosen by.

The scores are ours; their order is that of NVIDIA's go-gpuallocator: any NVLink is nearer than any way over PCIe, and
more links are nearer than fewer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum


class Distance(IntEnum):
    """The way between two GPUs over PCIe, as a score: the greater, the nearer. In the words of `nvidia-smi topo`."""

    UNKNOWN = 0
    SYSTEM = 10  # over the link between CPUs
    NODE = 20  # within a NUMA node, between host bridges
    HOST_BRIDGE = 30
    MULTIPLE = 40  # over several PCIe switches
    SINGLE = 50  # over one PCIe switch
    BOARD = 60  # on one board


NVLINK = 100
"""What each NVLink between two GPUs adds to their score."""


@dataclass(frozen=True, slots=True)
class Topology:
    """The score of each pair of whole GPUs, by their uuids in ascending order. A pair that is not there scores 0."""

    scores: Mapping[tuple[str, str], int] = field(default_factory=dict)

    def between(self, one: str, other: str) -> int:
        """The score of two GPUs, in either order."""
        return self.scores.get((one, other) if one < other else (other, one), 0)
