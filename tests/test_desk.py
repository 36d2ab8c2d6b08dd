"""The desk answers from what it was shown last, and from what it has given away since."""

from __future__ import annotations

import gc
import weakref

from nodeagent.desk import FrontDesk
from nodeagent.model.allocation import PreferenceRequest
from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import Applied, AppliedGpu, Device, Listing
from nodeagent.state.allocation import Offer
from nodeagent.state.observed import MENTION_SECONDS

RESOURCE = "nvidia.com/gpu.shared"


class Clock:
    """A time that passes when the test says so."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Id(str):
    """An id whose end can be seen."""

    __slots__ = ("__weakref__",)


def shown(gpus: int, shares: int, clock: Clock | None = None) -> tuple[FrontDesk, list[str]]:
    """A desk with so many GPUs of so many free shares, and their ids."""
    desk = FrontDesk(clock=clock or Clock(), wake=lambda: None)
    entries = [
        AppliedGpu(
            Gpu(f"GPU-{index}", index, "Model", 0), Contract(RESOURCE, Mode.TIME_SLICED), frozenset(range(shares))
        )
        for index in range(gpus)
    ]
    applied = Applied({entry.gpu.uuid: entry for entry in entries})
    ids = [share for entry in entries for share in entry.ids(entry.numbers)]
    listing = Listing(RESOURCE, 1, tuple(Device(share, healthy=True) for share in ids))
    desk.show({RESOURCE: listing}, {RESOURCE: Offer(RESOURCE, applied.gpus)})
    return desk, ids


def test_pods_that_come_faster_than_the_loop_turns_are_spread_all_the_same() -> None:
    """What was granted counts for the next preference, even before the loop has taken note of it."""
    desk, free = shown(gpus=3, shares=4)
    for _ in range(6):
        ((chosen,),) = desk.prefer(RESOURCE, [PreferenceRequest(free, [], 1)])
        desk.allocate(RESOURCE, [[chosen]])
        free.remove(chosen)
    left = [sum(share.startswith(f"GPU-{index}") for share in free) for index in range(3)]
    assert left == [2, 2, 2]


def test_a_mention_is_remembered_for_a_while() -> None:
    """An id that a preference named counts as mentioned, from the last time on, until a fence would be as old."""
    clock = Clock()
    desk, ids = shown(gpus=1, shares=4, clock=clock)
    desk.prefer(RESOURCE, [PreferenceRequest(ids[:2], [], 1), PreferenceRequest(ids[1:3], [], 1)])
    clock.now += MENTION_SECONDS / 2
    desk.prefer(RESOURCE, [PreferenceRequest(ids[:1], [], 1)])
    desk.take_notes()
    assert desk.mentions({ids[0], ids[2], ids[3]}) == {ids[0]: 100.0 + MENTION_SECONDS / 2, ids[2]: 100.0}
    clock.now = 100.0 + MENTION_SECONDS
    assert desk.mentions(frozenset(ids)) == {ids[0]: 100.0 + MENTION_SECONDS / 2}
    clock.now += MENTION_SECONDS / 2
    assert desk.mentions(frozenset(ids)) == {}


def test_of_a_mention_nothing_stays() -> None:
    """A turn after a mention has lost its meaning nothing of it is kept, however many ids it named."""
    clock = Clock()
    desk, ids = shown(gpus=8, shares=100, clock=clock)
    named = [Id(share) for share in ids]
    kept = weakref.WeakSet(named)
    desk.prefer(RESOURCE, [PreferenceRequest(named, [], 1)])
    del named
    gc.collect()
    assert len(kept) == len(ids)
    clock.now += MENTION_SECONDS
    desk.take_notes()
    gc.collect()
    assert len(kept) == 0


def test_what_was_given_away_is_told_once() -> None:
    """Grants are in the next notes, with their time, and in no others."""
    clock = Clock()
    desk, ids = shown(gpus=1, shares=2, clock=clock)
    desk.allocate(RESOURCE, [[ids[0]]])
    assert desk.given(frozenset({(RESOURCE, ids[0])}))
    assert desk.take_notes().granted == {(RESOURCE, ids[0]): 100.0}
    assert desk.take_notes().granted == {}
    assert not desk.given(frozenset({(RESOURCE, ids[0])}))
