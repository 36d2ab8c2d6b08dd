"""Strips are what a reader of the demo sees of the node: they must tell what the kubelet has, and why, and fit."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import replace

import pytest

from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, MigDevice
from nodeagent.model.kubelet import PodResourcesStatus
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import ConfigState, Snapshot
from nodeagent.sim.kubelet import StandInKubelet
from nodeagent.sim.screen import Screen
from nodeagent.sim.strips import LEGEND, Strip, strips
from nodeagent.state.overview import gpu_statuses
from tests.sim.conftest import MakePlugin
from tests.waiting import eventually

SHARED = "nvidia.com/gpu.shared"
WHOLE = "nvidia.com/gpu"
SMALL = "nvidia.com/mig-1g.10gb"

GPU = Gpu("GPU-3", 3, "NVIDIA H100 80GB HBM3", 80 << 30)
PART = replace(GPU, uuid="MIG-7", mig=MigDevice("GPU-3", "1g.10gb", 7, 0))


def shared(count: int = 4, gpu: Gpu = GPU) -> AppliedGpu:
    """Give a GPU that is shared by so many."""
    return AppliedGpu(gpu, Contract(SHARED, Mode.TIME_SLICED), frozenset(range(count)))


def ids(numbers: Iterable[int]) -> list[str]:
    """Give the ids of shares of that GPU."""
    return [f"GPU-3::{number}" for number in numbers]


def summary(*entries: AppliedGpu, listed: Iterable[Gpu] = (GPU,)) -> Snapshot:
    """Sum up an agent that has told the kubelet this; the driver lists these GPUs."""
    applied = Applied({entry.gpu.uuid: entry for entry in entries})
    return Snapshot(
        revision=1,
        at=0.0,
        started_at=0.0,
        node="node",
        pool=None,
        version="0",
        config=ConfigState("sharing.yaml"),
        inventory=Inventory(tuple(listed)),
        applied=applied,
        gpus=gpu_statuses(applied, None, Plan(), (), pods=PodResourcesStatus(), mps=MpsStatus()),
    )


# --- what the kubelet has ---


async def test_a_share_that_leaves_is_not_one_with_a_fault(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """Of what is Unhealthy a strip tells what is fenced from what its GPU's fault concerns, and names the fault; a
    share that a pod has is shown as that.
    """
    listed = await plugin(*ids(range(4)), resource=SHARED)
    await eventually(lambda: kubelet.allocatable(SHARED) == 4)
    pod = await kubelet.admit("p", containers={"main": {SHARED: 1}})
    (held,) = pod.ids()
    free = [share for share in ids(range(4)) if share != held]

    await listed.send([held, *free[:2]], free[2:])
    await eventually(lambda: kubelet.allocatable(SHARED) == 3)
    fenced = int(free[2].partition("::")[2])
    (strip,) = strips(kubelet, summary(replace(shared(), fences={fenced: 0.0})))
    assert (strip.bar(), strip.fault, strip.unsure) == ("#..x", "", False)

    await listed.send([], ids(range(4)))
    await eventually(lambda: kubelet.allocatable(SHARED) == 0)
    (strip,) = strips(kubelet, summary(replace(shared(), fences={fenced: 0.0}, xids={79: 0.0, 48: 0.0})))
    assert (strip.bar(), strip.fault, strip.unsure) == ("#x!!", "XID 48, XID 79", False)


async def test_what_the_agent_has_not_summed_up_is_unsure(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A share that is Unhealthy while the agent's summary is of a moment before, or after, makes its strip unsure."""
    listed = await plugin(resource=SHARED)
    await listed.send(ids(range(2)), ids(range(2, 4)))
    await eventually(lambda: kubelet.capacity(SHARED) == 4)

    (strip,) = strips(kubelet, summary(shared(4)))
    assert strip.unsure
    (strip,) = strips(kubelet, summary(shared(2)))
    assert strip.unsure
    (strip,) = strips(kubelet, summary(replace(shared(4), fences={2: 0.0, 3: 0.0})))
    assert (strip.bar(), strip.unsure) == ("..xx", False)


async def test_mig_devices_follow_their_gpu(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A GPU that is used through its MIG devices says so, each of them has a strip, and one that was destroyed under a
    pod is told to be gone.
    """
    await plugin("MIG-7", resource=SMALL)
    await eventually(lambda: kubelet.allocatable(SMALL) == 1)
    whole = AppliedGpu(replace(GPU, mig_enabled=True))
    part = AppliedGpu(PART, Contract(SMALL, Mode.EXCLUSIVE), frozenset({0}))
    shown = strips(kubelet, summary(whole, part, listed=(GPU, PART)))
    assert [(strip.name, strip.bar(), strip.parts) for strip in shown] == [
        ("GPU 3", "", 1),
        ("3:7", "[........]", None),
    ]

    gone = replace(part, gpu=replace(PART, health=GpuHealth.LOST))
    assert [strip.fault for strip in strips(kubelet, summary(whole, gone))] == ["", "gone"]
    assert [strip.fault for strip in strips(kubelet, summary(whole, gone, listed=(GPU, PART)))] == ["", "lost"]


# --- how it looks ---


@pytest.mark.parametrize(
    ("strip", "bar", "words"),
    [
        (Strip("3", SHARED, held=6, free=4), "######....", "6 held 4 free"),
        (Strip("3", SHARED, held=4, draining=2, leaving=4), "####~~xxxx", "4 held 2 draining 4 leaving"),
        (Strip("3", SHARED, held=1, unhealthy=3, fault="XID 79"), "#!!!", "1 held 3 unhealthy, XID 79"),
        (Strip("3", SHARED, held=1, unhealthy=3, mps="failed"), "#!!!", "1 held 3 unhealthy, mps failed"),
        (Strip("0", WHOLE, whole=True, free=1), "[........]", "1 free"),
        (Strip("0", WHOLE, whole=True, draining=1), "[~~~~~~~~]", "1 draining"),
        (Strip("5", SHARED, held=3, free=5000), "5003 shares", "3 held 5000 free"),
        (Strip("3:2030", SMALL, whole=True, free=1), "[........]", "1 free"),
        (Strip("6"), "-", "nothing is advertised"),
        (Strip("6", parts=2), "-", "nothing but its MIG devices is advertised"),
        (Strip("6", parts=0, fault="XID 79"), "-", "nothing is advertised, no MIG devices, XID 79"),
    ],
)
def test_a_strip_shows_each_share(strip: Strip, bar: str, words: str) -> None:
    """A strip has one character per share as long as they fit, a frame for a whole GPU, and the counts in words."""
    line = strip.line(Screen(io.StringIO()), room=78)
    assert line.startswith(f"{strip.name:<6} {bar} ")
    assert line.endswith(f" {words}")


def test_strips_are_in_columns_where_they_fit() -> None:
    """Words begin in one column; where there is more to say than fits, they begin earlier rather than say less."""
    screen = Screen(io.StringIO())
    short, long = Strip("3", WHOLE, free=1), Strip("3", SMALL, free=1)
    column = short.line(screen, room=70).index("1 free")
    assert long.line(screen, room=70).index("1 free") == column
    much = Strip("3", "nvidia.com/gpu.mps", held=2, unhealthy=2, mps="failed")
    line = much.line(screen, room=70)
    assert line.endswith("  2 held 2 unhealthy, mps failed")
    assert line.index("2 held") < column


@pytest.mark.parametrize("label", ["63", "63:101010"])
def test_a_strip_fits_however_much_there_is_to_say(label: str) -> None:
    """A strip is never wider than its room, and never ends in the middle of a word."""
    strip = Strip(
        label, "example.com/a-very-long-name-of-a-resource", held=1000, draining=2000, free=3000, leaving=4000
    )
    line = strip.line(Screen(io.StringIO()), room=70)
    assert len(line) <= 70
    assert line.endswith(("held", "draining", "free", "leaving"))


def test_the_legend_names_every_sign() -> None:
    """Each character that stands for a share is explained, in lines that fit."""
    strip = Strip("3", SHARED, held=1, draining=1, free=1, leaving=1, unhealthy=1)
    told = "   ".join(LEGEND)
    assert all(f"{sign} " in told for sign in strip.bar())
    assert max(map(len, LEGEND)) <= 78
