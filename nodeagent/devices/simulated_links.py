"""How near simulated GPUs are to one another: over PCIe by their NUMA nodes, and over NVLink by islands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

from nodeagent.documents.tree import Path
from nodeagent.model.inventory import Gpu
from nodeagent.model.topology import NVLINK, Distance, Topology

Islands = Sequence[Sequence[int]]
"""GPUs by index; those of one island are linked with one another."""


def topology(gpus: Iterable[Gpu], islands: Islands) -> Topology:
    """The score of each pair that is linked, or whose NUMA nodes are told."""
    island = {index: number for number, members in enumerate(islands) for index in members}
    scores = {}
    for one, other in combinations(sorted(gpus, key=lambda gpu: gpu.uuid), 2):
        linked = one.index in island and island[one.index] == island.get(other.index)
        score = _distance(one, other) + (NVLINK if linked else 0)
        if score:
            scores[one.uuid, other.uuid] = score
    return Topology(scores)


def contradictions(islands: Islands, count: int) -> Iterator[tuple[Path, str]]:
    """What a schema cannot say of the islands of `count` GPUs: each thing with its place in their list."""
    first: dict[int, int] = {}
    for number, members in enumerate(islands):
        for position, index in enumerate(members):
            other = first.setdefault(index, number)
            if other != number:
                message = f"expected each GPU in one island, got GPU {index} again (first in nvlink[{other}])"
                yield (number, position), message
            if index >= count:
                yield (number, position), f"expected an index below {count}, the number of GPUs, got {index}"


def _distance(one: Gpu, other: Gpu) -> Distance:
    if one.numa_node is None or other.numa_node is None:
        return Distance.UNKNOWN
    return Distance.NODE if one.numa_node == other.numa_node else Distance.SYSTEM
