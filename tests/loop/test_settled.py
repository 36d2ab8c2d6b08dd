"""Whether everything is as the accepted document wants it: said by itself, by every report alike, at every moment."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import pytest

from nodeagent.commands import wait
from nodeagent.commands.pool_verdict import Question, judge_pool
from nodeagent.commands.wait import Verdict
from nodeagent.model.config import Document, Loaded, Rule, Stage, Violation, Where
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.node import NodeObject
from nodeagent.report.status import to_json
from nodeagent.state.labels import ACCEPTED, SETTLED, STATE
from tests.loop.agent import Agent
from tests.loop.fakes import Reading
from tests.loop.worlds import World, give, is_as_wanted, world
from tests.state import make

TWO = (make.sliced(2),)
OTHER = (make.sliced(4, 0), make.whole(1), make.sliced(2))
"""Of GPU 0 more, and GPU 1 another way, which has to wait for its pod."""


@dataclass
class Watched:
    """A node of which every turn is looked at: what says that it is settled must be so, and all say the same."""

    node: World

    def has_applied(self, *rules: Rule) -> bool:
        """What `wait --applied` says of the document with these rules, by the labels and by the status alike."""
        blob = Document("", repr(make.config(*rules)).encode()).git_blob
        report = self.node.agent.node.wanted
        assert report is not None
        pool = judge_pool([NodeObject("node", report.labels)], Question(blob, "a=b", applied=True)).verdict
        status: Any = json.loads(json.dumps(to_json(self.node.agent.snapshot)))
        alone = wait.judge(status, blob, applied=True).verdict
        assert (pool is Verdict.YES) == (alone is Verdict.YES)
        return pool is Verdict.YES

    def works(self, rounds: int = 30) -> None:
        for _ in range(rounds):
            self.node.works()
            report, snapshot = self.node.agent.node.wanted, self.node.agent.snapshot
            assert report is not None
            assert report.labels[SETTLED] == ("true" if snapshot.settled else "false")
            if snapshot.settled:
                assert snapshot.config.desired is not None
                assert report.labels[ACCEPTED] == snapshot.config.desired.git_blob[:12]
                assert snapshot.plan.converged
                assert is_as_wanted(self.node.agent)

    @property
    def state(self) -> str:
        """What the label says that names the gravest thing."""
        report = self.node.agent.node.wanted
        assert report is not None
        return report.labels[STATE]

    def hangs(self, *indices: int) -> None:
        """These GPUs are not healthy any more."""
        self.node.agent.driver.inventory = make.inventory(
            *(make.gpu(index, health=GpuHealth.HANG if index in indices else GpuHealth.OK) for index in range(3))
        )

    def rejects(self) -> None:
        """Git says something that cannot be accepted."""
        wrong = Violation("sharing.yaml", Where(), "no", Stage.SCHEMA)
        loaded = Loaded(Document("sharing.yaml", b"wrong"), None, (wrong,))
        self.node.agent.around.mount.newest = Reading(loaded, self.node.clock.now)


@pytest.fixture
def reverted() -> Watched:
    """A config that has been applied, then another one that was on its way, and now the first one again, while pods
    have shares of the other one.
    """
    node = world(*((make.entry(index, make.SLICED, range(2)), frozenset({0})) for index in range(3)))
    found = Watched(node)
    node.follow(*TWO)
    found.works()
    assert found.has_applied(*TWO)
    node.follow(*OTHER)
    found.works()
    assert not found.has_applied(*OTHER)
    give(node, 0, make.keys(make.SHARED, 0, 1, 2, 3))
    found.works(3)
    node.follow(*TWO)
    found.works()
    return found


def test_a_reverted_config_is_not_applied_while_it_drains(reverted: Watched) -> None:
    """That it was applied once does not count, and it does when its last pod has left."""
    assert (reverted.has_applied(*TWO), reverted.state) == (False, "draining")
    reverted.node.pods_end()
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (True, "applied")


def test_an_unhealthy_gpu_hides_no_drain(reverted: Watched) -> None:
    """The node is degraded for both reasons, and settled when nothing drains, though the GPU is as ill as before."""
    reverted.hangs(2)
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (False, "degraded")
    reverted.node.pods_end()
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (True, "degraded")


def test_a_newer_document_that_is_wrong_hides_no_drain(reverted: Watched) -> None:
    """What is in force is the document before it, and whether that is everywhere is told of that one."""
    reverted.rejects()
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (False, "rejected")
    assert not reverted.node.agent.snapshot.in_sync
    reverted.node.pods_end()
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (True, "rejected")
    assert not reverted.node.agent.snapshot.in_sync


def test_a_mount_that_is_gone_hides_no_drain(reverted: Watched) -> None:
    """As for a document that is wrong."""
    reverted.node.agent.around.mount.has(None, reverted.node.clock.now)
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (False, "degraded")
    reverted.node.pods_end()
    reverted.works()
    assert (reverted.has_applied(*TWO), reverted.state) == (True, "degraded")


def test_a_config_that_suspends_is_never_settled(reverted: Watched) -> None:
    """Whatever is applied: it wants nothing, so nothing is as it wants."""
    suspended = make.config(*TWO, suspend=True)
    reverted.node.agent.around.mount.has(suspended, reverted.node.clock.now)
    reverted.node.pods_end()
    reverted.works()
    assert reverted.state == "suspended"
    assert not reverted.node.agent.snapshot.settled
    reverted.node.follow(*TWO)
    reverted.works()
    assert reverted.has_applied(*TWO)


def test_a_config_at_odds_with_the_gpus_is_not_settled(monkeypatch: pytest.MonkeyPatch, reverted: Watched) -> None:
    """It was applied on the GPUs of before, and is not on those of now."""
    reverted.node.pods_end()
    reverted.works()
    assert reverted.has_applied(*TWO)
    monkeypatch.setattr("nodeagent.state.desired.MAX_SHARES", 5)
    reverted.node.agent.around.mount.has(None, reverted.node.clock.now)
    reverted.works()
    assert not reverted.has_applied(*TWO)
    assert reverted.node.agent.snapshot.config.obstacles


def test_waves_are_on_their_way_until_the_last() -> None:
    """Half of the GPUs as the document says are not all of them."""
    node = world(*((make.entry(index, make.SLICED, range(2)), frozenset[int]()) for index in range(3)))
    watched = Watched(node)
    node.follow(*TWO)
    watched.works()
    node.follow(make.whole())
    seen = set()
    for _ in range(60):
        watched.works(1)
        waves = node.agent.plan.waves
        seen.add((waves.changed, watched.has_applied(make.whole())))
    assert {changed for changed, applied in seen if not applied} >= {1, 2}
    assert {changed for changed, applied in seen if applied} == {3}


def test_an_agent_that_has_just_started_says_what_is_so_now(reverted: Watched) -> None:
    """Nothing before it knows, and then whether it drains, though the agent before it may have said that it was
    applied.
    """
    before = reverted.node.agent
    agent = Agent(before.around, before.driver.inventory)
    found = Watched(replace(reverted.node, agent=agent))
    found.works()
    assert not found.has_applied(*TWO)
    found.node.pods_end()
    found.works()
    assert found.has_applied(*TWO)


def test_a_node_that_never_accepted_anything_is_not_settled() -> None:
    """Nor is one whose first document is wrong."""
    watched = Watched(world())
    watched.rejects()
    watched.works()
    report = watched.node.agent.node.wanted
    assert report is not None
    assert report.labels[SETTLED] == "false"
    assert ACCEPTED not in report.labels


def test_a_disk_that_cannot_be_written_settles_nothing() -> None:
    """What is not written is not advertised, so the node is not as the document wants it."""
    node = world()
    watched = Watched(node)
    node.follow(*TWO)
    watched.works()
    node.agent.disk.writable = False
    node.follow(*OTHER)
    watched.works(5)
    assert not watched.has_applied(*OTHER)
    node.agent.disk.writable = True
    watched.works()
    assert watched.has_applied(*OTHER)
