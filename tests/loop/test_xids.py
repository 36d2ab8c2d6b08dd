"""What becomes of an XID in the loop: it stands against something, or it is waited for, counted and logged."""

from __future__ import annotations

import logging

import pytest

from nodeagent.model.health import XidSource
from nodeagent.report.dates import dated
from nodeagent.report.families import families
from nodeagent.state.health import PLACED_WITHIN
from tests.loop.worlds import World, world
from tests.state import make


def unplaced(node: World) -> dict[str, float]:
    """How many XIDs have been dropped, by uuid, as they are scraped."""
    return {
        sample.labels["uuid"]: sample.value
        for family in families(node.agent.snapshot, 0.0, {})
        for sample in family.samples
        if sample.name == "nodeagent_gpu_xid_events_unplaced_total"
    }


def parts() -> World:
    """A GPU with two MIG devices, and one without MIG."""
    node = world(gpus=2)
    node.agent.driver.inventory = make.inventory(make.with_mig(0), make.mig(0, 1), make.mig(0, 2), make.gpu(1))
    node.follow(make.sliced(4, 1))
    node.rests()
    return node


@pytest.mark.parametrize("instances", [(0, 0), (0, None), (3, 1), (None, None)])
def test_instances_of_a_gpu_without_mig(instances: tuple[int | None, int | None]) -> None:
    """All its shares are unhealthy at once, and nothing is dropped."""
    node = parts()
    node.agent.reports(XidSource("GPU-1", 79, *instances))
    node.agent.turn()
    assert set(node.agent.applied.gpus["GPU-1"].xids) == {79}
    node.clock.now += 2 * PLACED_WITHIN
    node.works()
    assert unplaced(node) == {"GPU-0": 0.0, "GPU-1": 0.0}


def test_what_is_nobodys_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """When it has been waited for, without an event: a turn is due then. It makes nothing unhealthy."""
    node = parts()
    caplog.set_level(logging.WARNING)
    reported = node.clock.now
    node.agent.reports(XidSource("GPU-0", 48, 9, 0))
    node.agent.reports(XidSource("GPU-0", 13, 9, 0))
    node.agent.reports(XidSource("GPU-9", 79))
    node.agent.news.clear()
    node.agent.turn()
    assert node.agent.due is not None
    assert node.agent.due <= reported + PLACED_WITHIN
    assert unplaced(node) == {"GPU-0": 0.0, "GPU-1": 0.0}
    node.clock.now = reported + PLACED_WITHIN
    node.agent.turn()
    assert unplaced(node) == {"GPU-0": 2.0, "GPU-1": 0.0, "GPU-9": 1.0}
    assert all(entry.healthy for entry in node.agent.applied.gpus.values())
    told = [record.message for record in caplog.records if "nothing becomes unhealthy" in record.message]
    assert len(told) == 2
    assert any("GPU-0: GPU instance 9, compute instance 0, which no MIG device has" in line for line in told)
    assert any("GPU-9: which this node does not have" in line for line in told)
    for _ in range(3):
        node.agent.reports(XidSource("GPU-0", 48, 9, 0))
        node.agent.news.clear()
        node.clock.now += PLACED_WITHIN + 1.0
        node.works()
        node.clock.now += PLACED_WITHIN + 1.0
        node.works()
    assert unplaced(node)["GPU-0"] == 5.0
    assert [record.message for record in caplog.records if "nothing becomes unhealthy" in record.message] == told


def test_what_turns_out_to_be_somebodys_is_not_dropped() -> None:
    """An instance that the driver lists a look later."""
    node = parts()
    node.agent.reports(XidSource("GPU-0", 48, 9, 0))
    node.agent.news.clear()
    node.works()
    node.agent.driver.inventory = make.inventory(
        make.with_mig(0), make.mig(0, 1), make.mig(0, 2), make.mig(0, 9), make.gpu(1)
    )
    node.works(4)
    assert set(node.agent.applied.gpus["MIG-0-9"].xids) == {48}
    node.clock.now += 2 * PLACED_WITHIN
    node.works()
    assert unplaced(node)["GPU-0"] == 0.0


def test_the_wall_clock_has_no_say_in_how_long_it_is_waited_for() -> None:
    """Neither is an XID dropped too early, nor is it kept until its instance is somebody else's."""
    node = parts()
    node.agent.reports(XidSource("GPU-0", 48, 9, 0))
    node.agent.news.clear()
    node.clock.ahead += 86_400.0
    node.works(2)
    assert unplaced(node)["GPU-0"] == 0.0
    node.clock.ahead -= 3 * 86_400.0
    node.clock.now += PLACED_WITHIN
    node.works()
    assert unplaced(node)["GPU-0"] == 1.0
    assert dated(node.agent.snapshot, node.clock.moment()).xids.unplaced == {"GPU-0": 1}
