"""Whatever is decided by time is decided by the monotonic clock.

The wall clock may be set by any amount, at any moment, also while the agent is down: only what is shown moves with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from nodeagent.model.health import HealthPolicy, XidSource
from nodeagent.model.moment import Moment
from nodeagent.model.snapshot import Snapshot
from nodeagent.report.dates import dated
from nodeagent.report.families import families
from nodeagent.report.share_families import share_families
from nodeagent.report.status import to_json
from nodeagent.report.times import unix_seconds
from tests.loop.agent import Agent
from tests.loop.worlds import World, world
from tests.state import make

DAY = 86_400.0
TIMEOUT = 600.0
AFTER = 3600.0
POLICY = HealthPolicy(recover_after=AFTER, recoverable=frozenset({79}))
STEPS = pytest.mark.parametrize(
    "steps",
    [(DAY,), (-DAY,), (DAY, -3 * DAY), (-1.7e9,), (-1.7e9, 1.7e9), (-1e-3, 30.0)],
    ids=["on", "back", "on and back", "to 1970", "to 1970 and to now", "a little"],
)


def restarts(node: World, *, reboots: bool = False) -> None:
    """Another agent goes on from what is on the disk, in this boot or the next one."""
    around = node.agent.around
    around.same_boot = not reboots
    if reboots:
        node.kubelet.restart()
        wall, node.clock.now = node.clock.wall(), 20.0
        node.clock.ahead = wall - node.clock.now
    for resource in node.agent.streams.served:
        node.kubelet.disconnect(resource)
    node.agent = Agent(around, node.agent.driver.inventory)
    around.same_boot = True
    if reboots:
        node.kubelet.knows_pods = True


def goes_on(node: World, until: float) -> None:
    """The agent works every ten seconds, and once more at this moment."""
    while node.clock.now < until:
        node.clock.now = min(until - 0.5, node.clock.now + 10.0)
        node.works()


def draining() -> tuple[World, float]:
    """A node with a GPU of which a held share has just begun to drain, and since when."""
    node = world((make.entry(0, make.SLICED, range(4)), frozenset({2})), gpus=1)
    config = replace(make.config(make.whole(0)), transition_timeout=TIMEOUT)
    node.agent.around.mount.has(make.config(make.sliced(4, 0)), node.clock.now)
    node.rests()
    node.agent.around.mount.has(config, node.clock.now)
    node.works(4)
    assert node.agent.condition("Draining") == "PodsHoldShares"
    return node, node.agent.snapshot.resources[-1].draining_since or 0.0


def ill() -> tuple[World, float]:
    """A node with a GPU against which an XID stands that it recovers from, and when that came."""
    node = world(gpus=1)
    config = replace(make.config(make.sliced(4, 0)), health=POLICY)
    node.agent.around.mount.has(config, node.clock.now)
    node.rests()
    at = node.clock.now
    node.agent.reports(XidSource("GPU-0", 79))
    node.works()
    assert node.agent.applied.gpus["GPU-0"].xids == {79: at}
    return node, at


def stays(node: World) -> None:
    """The agent goes on."""
    del node


@STEPS
@pytest.mark.parametrize("between", [stays, restarts], ids=["it goes on", "it restarts"])
def test_a_drain_stalls_when_its_time_is_over(steps: tuple[float, ...], between: Callable[[World], None]) -> None:
    """Not before, and not later, whatever the wall clock is set to meanwhile."""
    node, since = draining()
    for step in steps:
        node.clock.ahead += step
        between(node)
        node.works(4)
        assert node.agent.condition("Stalled") == "InTime"
    goes_on(node, since + TIMEOUT - 1.0)
    assert node.agent.condition("Stalled") == "InTime"
    node.clock.now = since + TIMEOUT
    node.agent.turn()
    assert node.agent.condition("Stalled") == "DrainTimeout"


def test_a_turn_is_due_when_a_drain_stalls() -> None:
    """Nobody waits for an event to say so."""
    node, since = draining()
    goes_on(node, since + TIMEOUT - 0.2)
    assert node.agent.due is not None
    assert node.agent.due <= since + TIMEOUT


@STEPS
@pytest.mark.parametrize("between", [stays, restarts], ids=["it goes on", "it restarts"])
def test_a_gpu_recovers_when_its_time_is_over(steps: tuple[float, ...], between: Callable[[World], None]) -> None:
    """Not before, and not later, whatever the wall clock is set to meanwhile."""
    node, at = ill()
    for step in steps:
        node.clock.ahead += step
        between(node)
        node.works(4)
        assert node.agent.applied.gpus["GPU-0"].xids == {79: at}
    goes_on(node, at + AFTER - 1.0)
    assert node.agent.applied.gpus["GPU-0"].xids == {79: at}
    node.clock.now = at + AFTER
    node.agent.turn()
    assert node.agent.applied.gpus["GPU-0"].xids == {}


def test_a_turn_is_due_when_a_gpu_recovers() -> None:
    """Nobody waits for an event to see it."""
    node, at = ill()
    node.clock.ahead -= DAY
    node.works()
    goes_on(node, at + AFTER - 0.2)
    assert node.agent.due is not None
    assert node.agent.due <= at + AFTER


@pytest.mark.parametrize("wall", [0.0, 1.0, -DAY, DAY, 100 * DAY], ids=str)
def test_a_drain_across_a_reboot_is_no_older_than_the_boot(wall: float) -> None:
    """Its age before that follows from the wall clock alone, which may be wrong, or not be set yet: it counts from the
    boot at the earliest, from now at the latest, and stalls in either case.
    """
    node, _ = draining()
    node.clock.ahead = wall if wall in {0.0, 1.0} else node.clock.ahead + wall
    restarts(node, reboots=True)
    began = node.clock.now
    node.works(30)
    assert node.agent.condition("Draining") == "PodsHoldShares"
    assert node.agent.condition("Stalled") == "InTime"
    node.clock.ahead += 50 * DAY
    goes_on(node, TIMEOUT - 1.0)
    assert node.agent.condition("Stalled") == "InTime", "not before as long after the boot"
    goes_on(node, began + TIMEOUT)
    node.agent.turn()
    assert node.agent.condition("Stalled") == "DrainTimeout", "not later than as long after the start"


def test_a_reboot_ends_what_stood_against_a_gpu() -> None:
    """It has been reset, whatever the clocks say."""
    node, _ = ill()
    node.clock.ahead = 5.0
    restarts(node, reboots=True)
    node.works(4)
    assert node.agent.applied.gpus["GPU-0"].xids == {}


@STEPS
def test_what_is_shown_is_by_the_clock_of_now(steps: tuple[float, ...]) -> None:
    """Every time in a snapshot moves with the wall clock, and every age stays as it is, also before the next turn."""
    node, since = draining()
    node.agent.reports(XidSource("GPU-0", 79))
    node.works()
    before = node.agent.snapshot
    began = Moment(node.clock.now, node.clock.wall())
    node.clock.now += 7.0
    for step in steps:
        node.clock.ahead += step
    now = Moment(node.clock.now, node.clock.wall())
    moved = now.zero - began.zero
    old, new = dated(before, began), dated(before, now)
    assert _times(new) == pytest.approx([at + moved for at in _times(old)], abs=1e-5)
    (oldest,) = [
        sample.value
        for family in share_families(new, now.wall)
        for sample in family.samples
        if sample.name == "nodeagent_draining_oldest_seconds" and sample.labels["resource"] == make.SHARED
    ]
    assert oldest == pytest.approx(now.monotonic - since, abs=1e-5)
    ages = [
        sample.value
        for family in families(new, now.wall, {})
        for sample in family.samples
        if sample.name == "nodeagent_drift_seconds"
    ]
    assert max(ages) <= now.monotonic - since + 10.0


def test_rfc_3339_of_1970() -> None:
    """Also a clock that was never set is shown."""
    node, since = draining()
    now = Moment(node.clock.now, node.clock.now - since)
    shown = dated(node.agent.snapshot, now)
    told: Any = to_json(shown, now.wall)
    assert unix_seconds(told["reportedAt"]) == pytest.approx(now.wall, abs=1e-3)
    assert unix_seconds(told["resources"][-1]["drainingSince"]) == pytest.approx(0.0, abs=1e-3)


def _times(snapshot: Snapshot) -> list[float]:
    """All times that a snapshot holds, in order."""
    return [
        snapshot.at,
        snapshot.started_at,
        *(one.since for one in snapshot.conditions),
        *(one.since for one in snapshot.drift),
        *(one.at for one in snapshot.reloads),
        *(one.draining_since for one in snapshot.resources if one.draining_since is not None),
        *(tally.last for tally in snapshot.xids.tallies.values()),
        *(at for entry in snapshot.applied.gpus.values() for at in entry.xids.values()),
    ]
