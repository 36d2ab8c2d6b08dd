"""Who got what, by the kubelet's checkpoint: pure, so that it can be tried without a cluster.

The kubelet writes the checkpoint at every admission, and leaves out of it the pods that have ended until then. So two
checkpoints, one after the other, show what was handed out in between, and how many had a GPU at that moment.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

Holders = Mapping[str, frozenset[str]]
"""The ids that each pod has, by the pod's uid."""

SETTLES = 1.0
"""Seconds around an agent's report that a config is accepted in which it is not known which list the kubelet has: it
may still hand out what the one before had, and it gets a new one a moment before the report.
"""


LOOKED = 2.0
"""Seconds before that in which a pod may have ended without the agent having seen it: its share drains, too."""


@dataclass(frozen=True, slots=True)
class Over:
    """More shares of a GPU than are wanted there, and than pods had of it when that number came to be wanted."""

    at: float
    gpu: str
    wanted: int
    drained: int
    found: int


def gpu(share: str) -> str:
    """The GPU of a share, by its id.

    >>> gpu("GPU-1::7")
    'GPU-1'
    """
    return share.partition("::")[0]


def per_gpu(shares: Iterable[str]) -> Counter[str]:
    """How many of the shares are of each GPU."""
    return Counter(map(gpu, shares))


def taken(holders: Holders) -> frozenset[str]:
    """The shares that pods have."""
    return frozenset().union(*holders.values())


def admissions(seen: Sequence[tuple[float, Holders]]) -> int:
    """How many pods got devices."""
    return len(set().union(*(holders for _, holders in seen)) - set(seen[0][1] if seen else ()))


def handed_out_twice(seen: Sequence[tuple[float, Holders]]) -> set[tuple[str, str, str]]:
    """Every share that two pods had at one moment, with the two."""
    found = set()
    for _, holders in seen:
        owner: dict[str, str] = {}
        for pod in sorted(holders):
            for share in holders[pod]:
                if share in owner:
                    found.add((share, owner[share], pod))
                owner[share] = pod
    return found


def over(
    found: Sequence[tuple[float, AbstractSet[str]]],
    seen: Sequence[tuple[float, Holders]],
    wanted: Sequence[tuple[float, int]],
) -> list[Over]:
    """Every moment at which there were more shares of a GPU than there may be: those wanted, or those that pods had
    when that number came to be wanted, if they were more. `found` are the shares that are counted, `wanted` is how many
    of each GPU are wanted from when on.
    """
    all_over = []
    ends = [at for at, _ in wanted[1:]] + [math.inf]
    for (begun, limit), end in zip(wanted, ends, strict=True):
        settled = begun + SETTLES
        drained = per_gpu(had(seen, begun - LOOKED, settled))
        all_over += [
            Over(at, one, limit, drained[one], count)
            for at, shares in found
            if settled < at < end - SETTLES
            for one, count in per_gpu(shares).items()
            if count > max(limit, drained[one])
        ]
    return all_over


def had(seen: Sequence[tuple[float, Holders]], begun: float, ended: float) -> frozenset[str]:
    """The shares that pods had at any time between the two."""
    before = [holders for at, holders in seen if at <= begun]
    return frozenset().union(*map(taken, before[-1:] + [holders for at, holders in seen if begun < at <= ended]))
