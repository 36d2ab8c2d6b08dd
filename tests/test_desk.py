"""The desk answers from what it was shown last, and from what it has given away since."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from nodeagent.desk import LIST_SECONDS, FrontDesk
from nodeagent.model.allocation import PreferenceRequest, RefusalReason, Refused
from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied, AppliedGpu, Device, Listing
from nodeagent.state.allocation import Offer, offers
from nodeagent.state.observed import MENTION_SECONDS
from nodeagent.state.traffic import ANSWER_SECONDS, CHOICE_SECONDS, LULL_SECONDS
from tests.state import make

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


def test_pods_that_come_faster_than_the_loop_turns_are_spread_over_the_gpus_of_their_mig_devices() -> None:
    """Whichever profile they ask for: what is granted of one resource counts for the others."""
    small, large = (Contract(f"nvidia.com/mig-{profile}", Mode.EXCLUSIVE) for profile in ("1g.10gb", "3g.40gb"))
    entries = [AppliedGpu(make.mig(index, 7), small, frozenset({0})) for index in range(2)]
    entries += [AppliedGpu(make.mig(index, 1, "3g.40gb"), large, frozenset({0})) for index in range(2)]
    desk = FrontDesk(clock=Clock(), wake=lambda: None)
    desk.show({}, offers(make.applied(*entries), [small.resource, large.resource], Plan(), (), MpsStatus()))
    desk.allocate(large.resource, [["MIG-0-1"]])
    assert desk.prefer(small.resource, [PreferenceRequest(["MIG-0-7", "MIG-1-7"], [], 1)]) == [["MIG-1-7"]]


def test_an_allocate_is_told_at_once() -> None:
    """Granted or refused, and when what it changes can be read: a `List` may be waiting for just that."""
    clock = Clock()
    desk, free = shown(gpus=1, shares=2, clock=clock)
    lulls: list[float] = []
    desk.when_allocated(lambda: lulls.append(desk.lull_at()))
    desk.prefer(RESOURCE, [PreferenceRequest(free, [], 1)])
    assert desk.lull_at() == clock.now + CHOICE_SECONDS
    desk.allocate(RESOURCE, [[free[0]]])
    with pytest.raises(Refused):
        desk.allocate(RESOURCE, [["nobody's"]])
    assert lulls == [clock.now + LULL_SECONDS] * 2


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


TWICE = make.under_mps(most=2)
READY = make.host(make.daemon(0, TWICE), make.daemon(1, TWICE))


def under_mps(mps: MpsStatus = READY, fault: str = "") -> FrontDesk:
    """A desk with two GPUs of four shares under MPS, of which a container may have two."""
    desk = FrontDesk(clock=Clock(), wake=lambda: None)
    entries = [make.entry(index, TWICE, range(4), most=2, fault=fault) for index in range(2)]
    desk.show({}, offers(make.applied(*entries), [make.MPS], Plan(), (), mps))
    return desk


def test_pods_under_mps_are_spread_and_each_stays_on_one_gpu() -> None:
    """What is chosen for a container can be granted to it, one after the other, until there is nothing left."""
    desk = under_mps()
    free = [f"GPU-{index}::{number}" for index in range(2) for number in range(4)]
    gpus = []
    for _ in range(4):
        ((first, second),) = desk.prefer(make.MPS, [PreferenceRequest(free, [], 2)])
        (grant,) = desk.allocate(make.MPS, [[first, second]])
        gpus.append(grant.envs["NVIDIA_VISIBLE_DEVICES"])
        free = [share for share in free if share not in (first, second)]
    assert gpus == ["GPU-0", "GPU-1", "GPU-0", "GPU-1"]


@pytest.mark.parametrize(
    ("mps", "fault", "reason"),
    [
        (READY, "its MPS daemon is not ready: it has ended", RefusalReason.UNHEALTHY),
        (MpsStatus(MpsReason.PENDING), "", RefusalReason.UNHEALTHY),
        (READY, "", RefusalReason.SEVERAL_GPUS),
    ],
    ids=["its daemon has failed", "its daemon is not known", "two GPUs"],
)
def test_what_is_refused_under_mps_is_not_given_away(mps: MpsStatus, fault: str, reason: RefusalReason) -> None:
    """No grant is noted for a pod that does not start."""
    desk = under_mps(mps, fault)
    ids = ["GPU-0::0", "GPU-1::0"] if reason is RefusalReason.SEVERAL_GPUS else ["GPU-0::0"]
    with pytest.raises(Refused) as refused:
        desk.allocate(make.MPS, [ids])
    assert refused.value.reason is reason
    assert desk.take_notes().granted == {}


def test_all_containers_of_a_call_are_granted_or_none() -> None:
    """What one of them is refused for, nobody has."""
    desk = under_mps()
    with pytest.raises(Refused):
        desk.allocate(make.MPS, [["GPU-0::0"], ["GPU-0::1", "GPU-1::0"]])
    assert not desk.given(frozenset({(make.MPS, "GPU-0::0")}))


async def test_a_choice_waits_for_a_list_that_is_under_way() -> None:
    """The kubelet could lose what it chooses meanwhile; without one the answer is there at once."""
    desk, _ = shown(gpus=1, shares=1)
    await desk.choosing()
    desk.list_begins()
    choosing = asyncio.create_task(desk.choosing())
    await asyncio.sleep(0)
    assert not choosing.done()
    desk.list_ends()
    await choosing


async def test_a_choice_does_not_wait_for_ever() -> None:
    """A `List` that hangs must not keep pods from being admitted."""
    desk, _ = shown(gpus=1, shares=1)
    desk.list_begins()
    begun = time.monotonic()
    await desk.choosing()
    assert time.monotonic() >= begun + LIST_SECONDS / 2


def test_it_is_quiet_when_nothing_is_being_allocated() -> None:
    """A choice, an Allocate and a refused one are all something that the kubelet is about."""
    clock = Clock()
    desk, free = shown(gpus=1, shares=2, clock=clock)
    assert desk.quiet_at() <= clock.now
    desk.prefer(RESOURCE, [PreferenceRequest(free, [], 1)])
    assert desk.quiet_at() == clock.now + CHOICE_SECONDS
    desk.allocate(RESOURCE, [free[:1]])
    assert desk.quiet_at() == clock.now + ANSWER_SECONDS
    clock.now += 10
    with pytest.raises(Refused):
        desk.allocate(RESOURCE, [["GPU-9::9"]])
    assert desk.quiet_at() == clock.now + ANSWER_SECONDS
    assert desk.lull_at() == clock.now + LULL_SECONDS
