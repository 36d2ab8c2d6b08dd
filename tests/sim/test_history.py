"""What the stand-in kubelet records, and what its auditor finds."""

from __future__ import annotations

from pathlib import Path

from nodeagent.sim.history import ListMessage
from nodeagent.sim.kubelet import StandInKubelet
from tests.sim.conftest import MakePlugin
from tests.sim.plugin import RESOURCE
from tests.waiting import eventually


async def test_a_held_id_that_is_withdrawn_breaks_a_rule(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A list without an id that a running pod holds is recorded, whether or not it was Unhealthy before."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    tiny.preferred = ["a"]
    await kubelet.admit("p", containers={"main": {RESOURCE: 1}})
    await tiny.send(["b"], ["a"])
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    assert kubelet.violations == []
    await tiny.send(["b"])
    await eventually(lambda: kubelet.violations)
    (broken,) = kubelet.violations
    assert broken.ids == {"a"}
    assert str(broken) == f"{RESOURCE}: a held id was withdrawn: a"


async def test_an_id_dropped_without_a_fence_breaks_a_rule(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A free id may leave the list only when the message before had it Unhealthy."""
    tiny = await plugin("a", "b", "c")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 3)
    await tiny.send(["b", "c"], ["a"])
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    await tiny.send(["b"])
    await eventually(lambda: kubelet.violations)
    (broken,) = kubelet.violations
    assert broken.ids == {"c"}
    assert "without having been Unhealthy" in broken.rule


async def test_the_rules_hold_across_restarts_of_both_sides(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """The first list of a new plugin at a new kubelet is judged by the last list of the old ones."""
    tiny = await plugin("a", "b")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 2)
    await kubelet.restart()
    await tiny.stop()
    await plugin("a")
    await eventually(lambda: kubelet.violations)
    assert kubelet.violations[0].ids == {"b"}


async def test_the_fewest_devices_at_any_moment_are_remembered(kubelet: StandInKubelet, plugin: MakePlugin) -> None:
    """A dip is seen however short it was, until the count is begun anew."""
    tiny = await plugin("a", "b", "c")
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 3)
    assert kubelet.fewest(RESOURCE) == 3
    await tiny.send(["a"], ["b", "c"])
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 1)
    await tiny.send(["a", "b", "c"])
    await eventually(lambda: kubelet.allocatable(RESOURCE) == 3)
    assert kubelet.fewest(RESOURCE) == 1
    kubelet.reset_fewest(RESOURCE)
    assert kubelet.fewest(RESOURCE) == 3


async def test_a_bounded_history_keeps_the_newest_and_counts_all(tmp_path: Path) -> None:
    """Long runs do not grow: records are bounded, totals are not."""
    kubelet = StandInKubelet(tmp_path, history_limit=2)
    seen: list[ListMessage] = []
    kubelet.record.on_message = seen.append
    for count in range(5):
        kubelet.record.message(ListMessage(float(count), RESOURCE, "t.sock", {"a": True}), frozenset())
    assert [message.at for message in kubelet.history] == [3.0, 4.0]
    assert kubelet.record.message_count == 5
    assert len(seen) == 5
    newest = kubelet.record.newest(RESOURCE)
    assert newest is not None
    assert newest.healthy == {"a"}
