"""Which of the free shares a container should get."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.model.config import Placement
from nodeagent.model.topology import NVLINK, Distance, Topology
from nodeagent.state.choosing import Candidate, Free, near, nearest, spread, together


def names(*indices: int) -> list[str]:
    """Uuids, in the order of the indices."""
    return [f"GPU-{index:02d}" for index in indices]


def islands(*members: Iterable[int]) -> Topology:
    """GPUs that are linked within their islands, and joined by the link between CPUs else."""
    found = [set(names(*island)) for island in members]
    everybody = sorted(set[str]().union(*found))
    return Topology(
        {
            (one, other): NVLINK * 12 + Distance.NODE
            if any({one, other} <= island for island in found)
            else int(Distance.SYSTEM)
            for one, other in combinations(everybody, 2)
        }
    )


TWO = islands(range(4), range(4, 8))


def test_four_of_eight_gpus_stay_in_one_island() -> None:
    """The first that is whole, whichever of the others are there."""
    assert nearest(TWO, names(*range(8)), [], 4) == names(0, 1, 2, 3)
    for absent in range(4):
        available = names(*(index for index in range(8) if index != absent))
        assert nearest(TWO, available, [], 4) == names(4, 5, 6, 7)
        assert nearest(TWO, names(*(7 - index for index in range(8) if index != absent)), [], 4) == names(3, 2, 1, 0)


def test_a_single_gpu_comes_of_the_island_that_is_broken_already() -> None:
    """So that the others stay whole for those that need them."""
    assert nearest(TWO, names(0, 1, 2, 3, 5, 6, 7), [], 1) == names(5)
    assert nearest(TWO, names(0, 1, 2, 3, 6), [], 1) == names(6)
    assert nearest(TWO, names(*range(8)), [], 1) == names(0)


def test_two_gpus_come_of_the_island_with_fewer_left() -> None:
    """That has two; one GPU of each would be far from one another."""
    assert nearest(TWO, names(0, 1, 2, 3, 5, 6, 7), [], 2) == names(5, 6)
    assert nearest(TWO, names(0, 1, 2, 4, 7), [], 2) == names(4, 7)
    assert nearest(TWO, names(0, 1, 2, 7), [], 2) == names(0, 1)


def test_what_was_begun_with_decides_the_island() -> None:
    """However whole the other one is."""
    assert nearest(TWO, names(0, 1, 2, 3, 6, 7), names(5), 2) == names(6, 7)
    assert nearest(TWO, names(0, 1, 2, 3, 7), names(5), 2) == names(0, 7)


def test_nearer_over_pcie_is_better_than_farther() -> None:
    """Where there is no NVLink the way over PCIe decides."""
    pairs = {("GPU-00", "GPU-03"): int(Distance.SINGLE), ("GPU-01", "GPU-02"): int(Distance.MULTIPLE)}
    assert nearest(Topology(pairs), names(0, 1, 2, 3), [], 2) == names(0, 3)
    assert nearest(Topology(pairs), names(0, 1, 2), [], 2) == names(1, 2)


def test_without_distances_the_first_come_first() -> None:
    """In the order in which they are told."""
    assert nearest(Topology(), names(3, 9, 10, 11), [], 2) == names(3, 9)
    assert nearest(islands(range(16)), names(*range(3, 16)), [], 4) == names(3, 4, 5, 6)


SCORES = st.sampled_from([0, 10, 20, 50, 60, 110, 210, 410])


@st.composite
def questions(draw: st.DrawFn, most: int = 8) -> tuple[Topology, list[str], list[str], int]:
    """Distances of up to so many GPUs, those that may be chosen, those that were begun with, and how many to choose."""
    everybody = names(*range(draw(st.integers(1, most))))
    pairs = list(combinations(everybody, 2))
    topology = Topology(dict(zip(pairs, draw(st.lists(SCORES, min_size=len(pairs), max_size=len(pairs))), strict=True)))
    begun = draw(st.lists(st.sampled_from(everybody), unique=True, max_size=min(3, len(everybody) - 1)))
    free = [gpu for gpu in everybody if gpu not in begun]
    return topology, free, begun, draw(st.integers(0, len(free)))


def judged(
    topology: Topology, free: Sequence[str], begun: Sequence[str], chosen: Sequence[str]
) -> tuple[int, int, list[int]]:
    """How good a choice is, the greater the better, as the rule is told."""
    inside = [*begun, *chosen]
    near_one_another = sum(topology.between(*pair) for pair in combinations(inside, 2))
    broken = sum(topology.between(one, other) for one in inside for other in free if other not in chosen)
    return near_one_another, -broken, [-free.index(gpu) for gpu in chosen]


@settings(max_examples=1000)
@given(questions())
def test_no_choice_is_better(question: tuple[Topology, list[str], list[str], int]) -> None:
    """Nearest to one another, then with least taken from others, then first: of all sets of that size."""
    topology, free, begun, size = question
    found = nearest(topology, free, begun, size)
    best = max(combinations(free, size), key=lambda chosen: judged(topology, free, begun, chosen))
    assert found == list(best)


@settings(max_examples=25)
@given(st.lists(SCORES, min_size=120, max_size=120))
def test_any_four_of_sixteen_are_the_best(scores: list[int]) -> None:
    """However irregular the node is."""
    free = names(*range(16))
    topology = Topology(dict(zip(combinations(free, 2), scores, strict=True)))
    best = max(combinations(free, 4), key=lambda chosen: judged(topology, free, [], chosen))
    assert nearest(topology, free, [], 4) == list(best)


@given(questions(12), st.integers(0, 12))
def test_a_choice_with_little_effort_is_no_worse_than_the_first(
    question: tuple[Topology, list[str], list[str], int], effort: int
) -> None:
    """Where it is not looked at everything, the choice is still one, and the same each time."""
    topology, free, begun, size = question
    found = nearest(topology, free, begun, size, effort)
    assert len(set(found)) == size
    assert found == [gpu for gpu in free if gpu in found]
    assert judged(topology, free, begun, found) >= judged(topology, free, begun, free[:size])
    assert nearest(topology, free, begun, size, effort) == found


def test_with_little_effort_an_island_is_found_all_the_same() -> None:
    """From each GPU once, always taking what is nearest: enough wherever islands are."""
    topology = islands(*(range(start, start + 8) for start in range(0, 64, 8)))
    available = names(*(index for index in range(64) if index % 8 < 5 or 24 <= index < 32))
    assert nearest(topology, available, [], 8, effort=1) == names(*range(24, 32))


def candidates(free: Mapping[str, Iterable[int]], avoid: Iterable[str] = ()) -> Free:
    """Shares by their GPU and numbers, the GPUs in the order of the node."""
    found: dict[str, list[Candidate]] = {}
    for rank, (gpu, numbers) in enumerate(free.items()):
        shares = [(f"{gpu}{number}", number) for number in numbers]
        found[gpu] = [(share in avoid, rank, number, share) for share, number in shares]
    return found


ABC = {"a": range(3), "b": range(3), "c": range(3)}


@pytest.mark.parametrize(
    ("placement", "used", "chosen"),
    [
        (Placement.DISTRIBUTED, {}, ["a0", "b0", "c0", "a1"]),
        (Placement.DISTRIBUTED, {"a": 2, "c": 1}, ["b0", "b1", "c0", "a0"]),
        (Placement.PACKED, {}, ["a0", "a1", "a2", "b0"]),
        (Placement.PACKED, {"a": 1, "c": 2}, ["c0", "c1", "c2", "a0"]),
    ],
)
def test_shares_are_spread_or_packed(placement: Placement, used: dict[str, int], chosen: list[str]) -> None:
    """One after the other from the GPU that is used least, or from the one that is used most until it has no more."""
    assert spread(candidates(ABC), used, 4, placement) == chosen


@pytest.mark.parametrize("placement", Placement)
def test_what_is_to_be_avoided_is_left_for_last(placement: Placement) -> None:
    """Of whatever GPU it is, and however much that is used."""
    free = candidates(ABC, avoid=["a0", "c0", "c1", "c2"])
    assert set(spread(free, {"c": 5}, 5, placement)) == {"a1", "a2", "b0", "b1", "b2"}
    assert set(spread(free, {}, 9, placement)) == {f"{gpu}{number}" for gpu in "abc" for number in range(3)}


@pytest.mark.parametrize(
    ("placement", "chosen"), [(Placement.DISTRIBUTED, ["a0", "a1"]), (Placement.PACKED, ["c0", "c1"])]
)
def test_shares_of_one_gpu_come_of_the_least_or_of_the_most_used_one(placement: Placement, chosen: list[str]) -> None:
    """That has enough which are not to be avoided."""
    free = candidates(ABC, avoid=["b0", "b1"])
    assert together(free, {"a": 1, "b": 4, "c": 2}, frozenset(), 2, placement) == chosen
    assert together(free, {"a": 1, "b": 0, "c": 2}, frozenset(), 2, placement) == chosen
    assert together(free, {"a": 1, "c": 2}, {"b"}, 2, placement) == ["b2", "b0"]


def test_gpus_to_be_avoided_are_chosen_when_there_are_no_others() -> None:
    """All the others first, though they are farther away; then those nearest to them."""
    free: Free = {gpu: [(index < 4, index, 0, gpu)] for index, gpu in enumerate(names(*range(6)))}
    topology = islands([0, 1, 2], [3, 4, 5])
    assert near(free, topology, [], 2) == names(4, 5)
    assert near(free, topology, [], 3) == names(4, 5, 3)
    assert near(free, topology, names(7), 4) == names(4, 5, 0, 3)
