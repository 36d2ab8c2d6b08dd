"""The desk answers from what it was shown last, and from what it has given away since."""

from __future__ import annotations

from nodeagent.desk import FrontDesk
from nodeagent.model.allocation import PreferenceRequest
from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import Applied, AppliedGpu, Device, Listing
from nodeagent.state.allocation import Offer

RESOURCE = "nvidia.com/gpu.shared"


def shown(gpus: int, shares: int) -> tuple[FrontDesk, list[str]]:
    """A desk with so many GPUs of so many free shares, and their ids."""
    desk = FrontDesk(clock=lambda: 0.0, wake=lambda: None)
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
