"""Nodes with more shares than the agent takes on, as an agent of before that limit has left them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.config import Contract, Mode, SharingConfig
from nodeagent.report.words import Names, describe_wait
from nodeagent.state import desired, plan
from tests.loop.worlds import World, world
from tests.state import make

MOST, EACH = 100, 40
NAMES = [f"example.com/{index}" for index in range(3)]
CONTRACTS = [Contract(name, Mode.TIME_SLICED) for name in NAMES]
TOO_MANY = make.config(*(make.sliced(EACH, index, resource=name) for index, name in enumerate(NAMES)))


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit that is soon reached."""
    monkeypatch.setattr(desired, "MAX_SHARES", MOST)
    monkeypatch.setattr(plan, "MAX_SHARES", MOST)


def left_behind(*, mounted: SharingConfig | None) -> World:
    """An agent that takes on any number of shares has applied this config, a pod has two of them, and now there is
    another agent, to which the mount says so or nothing any more.
    """
    have = [make.entry(index, contract, range(EACH)) for index, contract in enumerate(CONTRACTS)]
    held = [frozenset({0, EACH - 1}), frozenset[int](), frozenset[int]()]
    node = world(*zip(have, held, strict=True))
    node.checked = False
    mount, disk = node.agent.around.mount, node.agent.disk
    mount.has(TOO_MANY, node.clock.now)
    assert mount.newest is not None
    disk.document = mount.newest.loaded.document  # type: ignore[union-attr]
    mount.has(mounted, node.clock.now)
    return replace(node, agent=type(node.agent)(node.agent.around, node.agent.driver.inventory))


def counts(node: World) -> list[int]:
    """How many shares of each GPU are offered."""
    return [len(one.numbers) - len(one.fences) for one in node.agent.applied.ordered()]


def test_what_an_agent_without_a_limit_has_applied_is_kept() -> None:
    """Nothing is withdrawn, whether the mounted document is the same, or gone; a condition says why nothing follows."""
    for mounted, reason in ((TOO_MANY, "SemanticError"), (None, "Missing")):
        node = left_behind(mounted=mounted)
        node.works(30)
        assert counts(node) == [EACH, EACH, EACH]
        assert node.agent.condition("ConfigAccepted") == reason
        (obstacle,) = node.agent.snapshot.config.obstacles or node.agent.snapshot.config.violations
        assert f"at most {MOST} shares on a node, got {3 * EACH} on 3 GPUs" in obstacle.message
        assert not node.agent.snapshot.in_sync


def test_a_smaller_config_drains_down_as_usual() -> None:
    """What is free leaves within seconds, what a pod has when the pod ends; other GPUs do not wait for it."""
    node = left_behind(mounted=TOO_MANY)
    node.works(30)
    node.follow(*(make.sliced(10, index, resource=name) for index, name in enumerate(NAMES)))
    node.works(6)
    assert counts(node) == [10, 10, 10]
    node.follow(make.whole(0), *(make.sliced(10, index, resource=NAMES[index]) for index in (1, 2)))
    node.works(6)
    assert [len(one.numbers) for one in node.agent.applied.ordered()] == [2, 10, 10]
    node.pods_end()
    assert node.rests().converged


def test_one_share_that_drains_keeps_one_share_from_another_gpu() -> None:
    """While the lists of all together are as long as they may be, what comes waits for what leaves, number by number:
    what there is room for comes at once.
    """
    node = world((make.entry(0, CONTRACTS[0], range(50)), frozenset({0, 1})), gpus=2)
    node.checked = False
    node.follow(make.sliced(50, 0, resource=NAMES[0]), make.sliced(50, 1, resource=NAMES[1]))
    node.works(30)
    assert counts(node) == [50, 50]
    node.follow(make.whole(0), make.sliced(MOST - 1, 1, resource=NAMES[1]))
    node.works(6)
    assert [len(one.numbers) for one in node.agent.applied.ordered()] == [2, MOST - 2]
    assert "1 more" in describe_wait(node.agent.plan.waits[-1], Names(node.agent.applied, node.agent.mps))
    node.pods_end()
    assert node.rests().converged
