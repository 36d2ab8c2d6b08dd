"""Which of the free shares a container should get: the choice behind GetPreferredAllocation.

Whole GPUs are chosen as a set, by how near they are to one another; shares one by one, by how much their GPUs are used.
Nothing but the question decides: not the order in which it names things, nor what was asked before.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import groupby
from operator import add, itemgetter

from nodeagent.model.config import Placement
from nodeagent.model.topology import Topology

EFFORT = 10_000
"""How many GPUs may be weighed for one answer, which is about four milliseconds. To prove an answer takes a few hundred
for 4 of 16 GPUs however they are joined (3,042 if every set had to be looked at), two thousand for 8 of 16.
"""


Candidate = tuple[int, int, int, str]
"""A share that may be chosen, the smaller the sooner: how much it is to be avoided while there are others (0: not at
all), the rank of its GPU in the order of the node, its number, its id. A plain tuple, since a question may name 40,000
of them.
"""

Free = Mapping[str, list[Candidate]]
"""What may be chosen, by what its use counts for: the GPU that it is of, or that it is a part of. No list is empty."""


def spread(free: Free, used: Mapping[str, int], size: int, placement: Placement) -> list[str]:
    """`size` shares, one after the other from the GPU that is used least (packed: most), what is to be avoided only
    when nothing else is left. `used` is how many shares of each are held.
    """
    step = _step(placement)
    queues = {gpu: sorted(found, reverse=True) for gpu, found in free.items()}
    heap = [(queue[-1][0], step * used.get(gpu, 0), queue[-1][1], gpu) for gpu, queue in queues.items()]
    heapq.heapify(heap)
    picked = []
    for _ in range(size):
        _, load, rank, gpu = heap[0]
        queue = queues[gpu]
        picked.append(queue.pop()[-1])
        if queue:
            heapq.heapreplace(heap, (queue[-1][0], load + step, rank, gpu))
        else:
            heapq.heappop(heap)
    return picked


def together(
    free: Free, used: Mapping[str, int], begun: AbstractSet[str], size: int, placement: Placement
) -> list[str]:
    """`size` shares, all of one GPU if one has as many: of those that was `begun` with, else of the one that is used
    least (packed: most).

    Where none has enough, as few GPUs as possible: the request fails in Allocate, which says why.
    """
    step = _step(placement)

    def order(gpu: str) -> tuple[bool, int, int, int, int, str]:
        found = sorted(free[gpu])
        enough = min(len(found), size)
        return gpu not in begun, -enough, found[enough - 1][0], step * used.get(gpu, 0), found[0][1], gpu

    picked: list[str] = []
    for gpu in sorted(free, key=order):
        picked += [share for *_, share in sorted(free[gpu])[: size - len(picked)]]
        if len(picked) == size:
            break
    return picked


def _step(placement: Placement) -> int:
    return -1 if placement is Placement.PACKED else 1


def near(free: Free, topology: Topology, begun: Sequence[str], size: int) -> list[str]:
    """`size` whole GPUs to go with those that were `begun` with, what is to be avoided only when nothing else is
    left.
    """
    picked: list[str] = []
    ordered = sorted(candidate for found in free.values() for candidate in found)
    for _, alike in groupby(ordered, key=itemgetter(0)):
        shares = [share for *_, share in alike]
        picked += nearest(topology, shares, [*begun, *picked], size - len(picked))
    return picked


def nearest(
    topology: Topology, gpus: Sequence[str], begun: Sequence[str], size: int, effort: int = EFFORT
) -> list[str]:
    """The `size` of `gpus` that together with `begun` are nearest to one another: the greatest sum of scores over their
    pairs. Of equals, those that leave most to others: the least sum of scores between the whole set, what was begun
    with included, and the rest of `gpus`. Of equals again, those that come first.

    Where that cannot be proven with so much effort, the best that was found, at least as good as the first `size`.
    """
    if not 0 < size < len(gpus) or not topology.scores:
        return list(gpus[:size])
    search = _Search(topology, gpus, begun, size, effort)
    return [gpus[place] for place in sorted(search.best())]


class _Search:
    """Branch and bound over sets of places in `gpus`. Distances in a node repeat themselves, so the bound is met early.

    One number is the worth of a set, and no two sets have the same: the sum of its pairs' scores decides, then what it
    takes from others, then 2 ** -place. What lies between a set and the rest is the sum of what each member has with
    anybody, less twice the sum over its pairs: where the latter is equal, each member counts for itself.

    `alone` is what each is worth by itself and with what was begun with, `pairs` what two of them add; both doubled, so
    that a pair can be shared by its members. `hopes[n]` is the most that each can add in pairs as one of n, its half of
    them: what is still missing adds no more than the greatest hopes do.
    """

    def __init__(self, topology: Topology, gpus: Sequence[str], begun: Sequence[str], size: int, effort: int) -> None:
        self._size = size
        self._left = effort
        count, between = len(gpus), topology.between
        scores = [[0] * count for _ in gpus]
        for place, gpu in enumerate(gpus):
            for other in range(place):
                scores[place][other] = scores[other][place] = between(gpu, gpus[other])
        ties = [sum(between(gpu, one) for one in begun) for gpu in gpus]
        links = [sum(row) + tie for row, tie in zip(scores, ties, strict=True)]
        unit = (sum(links) + 1) << count
        self._alone = [
            2 * (unit * tie - (lost << count) + (1 << count - 1 - place))
            for place, (tie, lost) in enumerate(zip(ties, links, strict=True))
        ]
        self._pairs = [[2 * unit * score for score in row] for row in scores]
        self._hopes = [[0] * count, [0] * count]
        for row in scores:
            row.sort(reverse=True)
        for nth in range(size - 1):
            self._hopes.append([hope + unit * row[nth] for hope, row in zip(self._hopes[-1], scores, strict=True)])
        self._chosen = tuple(range(size))
        self._worth = self._total(self._chosen)

    def best(self) -> tuple[int, ...]:
        places = range(len(self._alone))
        self._extend((), 0, self._alone, places)
        if self._left <= 0:
            for place in places:
                self._offer(found := self._grown(place), self._total(found))
        return self._chosen

    def _extend(self, chosen: tuple[int, ...], worth: int, gains: Sequence[int], places: Sequence[int]) -> None:
        """Try all ways to complete a set by some of `places` that may still be better than the best. `gains` is what
        each place would add to it.
        """
        missing = self._size - len(chosen)
        if missing == 1:
            last = max(places, key=gains.__getitem__)
            self._offer((*chosen, last), worth + gains[last])
            return
        hopes = list(map(add, gains, self._hopes[missing]))
        order = sorted(places, key=hopes.__getitem__, reverse=True)
        for at in range(len(order) - missing + 1):
            most = worth + sum([hopes[place] for place in order[at : at + missing]])
            if self._left <= 0 or most <= self._worth:
                return
            self._left -= len(order) - at
            place = order[at]
            self._extend(
                (*chosen, place),
                worth + gains[place],
                list(map(add, gains, self._pairs[place])),
                order[at + 1 :],
            )

    def _grown(self, place: int) -> tuple[int, ...]:
        """The set that begins with this place and takes what adds most, one after the other."""
        chosen = [place]
        gains = list(map(add, self._alone, self._pairs[place]))
        while len(chosen) < self._size:
            others = [other for other in range(len(gains)) if other not in chosen]
            chosen.append(max(others, key=gains.__getitem__))
            gains = list(map(add, gains, self._pairs[chosen[-1]]))
        return tuple(chosen)

    def _total(self, chosen: Sequence[int]) -> int:
        pairs = sum(self._pairs[one][other] for at, one in enumerate(chosen) for other in chosen[:at])
        return pairs + sum(self._alone[place] for place in chosen)

    def _offer(self, chosen: tuple[int, ...], worth: int) -> None:
        if worth > self._worth:
            self._chosen, self._worth = chosen, worth
