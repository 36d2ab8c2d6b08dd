"""A GPU that flaps costs the others nothing: not a moment, not a line in the log, not the story of a reload."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from nodeagent.model.config import Mode
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory
from nodeagent.model.plan import WaitReason
from tests.loop.test_waves import change, ends, modes, node, pod, whole
from tests.loop.worlds import World
from tests.state import make

Flap = Callable[[Inventory], Inventory]


def other(**facts: object) -> Flap:
    """GPU 1 with other facts."""

    def flap(good: Inventory) -> Inventory:
        changed: Gpu = replace(good.gpus[1], **facts)  # type: ignore[arg-type]
        return replace(good, gpus=(good.gpus[0], changed, *good.gpus[2:]))

    return flap


def vanishes(good: Inventory) -> Inventory:
    """The driver lists GPU 1 no longer, and numbers the others anew."""
    left = (good.gpus[0], *good.gpus[2:])
    return replace(good, gpus=tuple(replace(one, index=index) for index, one in enumerate(left)))


def is_divided(good: Inventory) -> Inventory:
    """MIG is enabled on GPU 1, and it has two instances."""
    parts = make.inventory(make.with_mig(1), make.mig(1, 1), make.mig(1, 2)).gpus
    return replace(good, gpus=(good.gpus[0], *parts, *good.gpus[2:]))


def another_appears(good: Inventory) -> Inventory:
    """One GPU more than before."""
    return replace(good, gpus=(*good.gpus, make.gpu(len(good.gpus))))


FLAPS = {
    "health": other(health=GpuHealth.HANG, message="it hangs"),
    "message": other(message="its MIG devices are not known"),
    "driver index": other(index=5),
    "minor": other(minor=7),
    "NUMA node": other(numa_node=1),
    "PCI address": other(pci_bus_id="00000000:FF:00.0"),
    "it vanishes": vanishes,
    "it is not seen yet": lambda good: replace(vanishes(good), complete=False),
    "MIG": is_divided,
    "another one appears": another_appears,
}


@pytest.fixture(params=FLAPS.values(), ids=list(FLAPS))
def flap(request: pytest.FixtureRequest) -> Flap:
    """What is wrong with GPU 1, every other turn."""
    found: Flap = request.param
    return found


def lives(found: World, rounds: int = 1) -> None:
    """Half a second passes, as in `World.works`; but each look has begun a moment before the turn that sees it."""
    for _ in range(rounds):
        found.clock.now += 0.45
        found.looks()
        found.clock.now += 0.05
        found.agent.settle()
        found.agent.check()
        found.kubelet.arrive_all()


def flapping(found: World, flap: Flap | None, until: Callable[[], bool]) -> int:
    """How many turns, half a second apart, it takes until something is so; GPU 1 flaps in each."""
    good = found.agent.driver.inventory
    for number in range(60):
        if until():
            return number
        found.agent.driver.inventory = flap(good) if flap is not None and number % 2 == 0 else good
        lives(found)
    raise AssertionError("it does not come to an end")


def drains(flap: Flap | None) -> list[int]:
    """How long GPU 0 takes to drain: its free shares until they have gone, and all of it once its pod has ended."""
    found = node(make.sliced(4), gpus=4)
    first = pod(found, make.SHARED, "GPU-0::0")
    change(found, whole(0), make.sliced(4))
    taken = [flapping(found, flap, lambda: found.agent.applied.gpus["GPU-0"].numbers == {0})]
    ends(found, first)
    taken.append(flapping(found, flap, lambda: modes(found)[0] is Mode.EXCLUSIVE))
    return taken


def test_another_gpu_drains_as_fast_as_it_would_alone(flap: Flap) -> None:
    """Its fences are not set later for what is decided of another one."""
    assert drains(flap) == drains(None)


def test_an_agent_that_follows_two_gpus_by_turns_loses_nothing() -> None:
    """Git changes its mind about GPU 1 at every turn: what GPU 0 is to become has been decided once."""
    found = node(make.sliced(4), gpus=4)
    change(found, whole(0), make.sliced(4))
    alone = flapping(found, None, lambda: modes(found)[0] is Mode.EXCLUSIVE)
    found = node(make.sliced(4), gpus=4)
    for number in range(60):
        if modes(found)[0] is Mode.EXCLUSIVE:
            break
        change(found, whole(0), make.sliced(3 + number % 2, 1), make.sliced(4))
        lives(found)
    assert number <= alone


def test_the_log_does_not_speak_of_another_gpu(flap: Flap, caplog: pytest.LogCaptureFixture) -> None:
    """What changes is told of the GPU of which something else is wanted, and of no other, however far that is."""
    found = node(make.sliced(4), gpus=4)
    pod(found, make.SHARED, "GPU-0::0")
    change(found, whole(0), make.sliced(4))
    lives(found, 4)
    caplog.set_level(logging.INFO)
    caplog.clear()
    good = found.agent.driver.inventory
    for number in range(6):
        found.agent.driver.inventory = flap(good) if number % 2 == 0 else good
        lives(found)
    told = [record.getMessage() for record in caplog.records]
    assert not [line for line in told if "GPU 0" in line]
    assert not [line for line in told if line.startswith("GPUs changed") and flap not in CHANGES_TERMS]


CHANGES_TERMS = (is_divided, another_appears)
"""Flaps after which something else is wanted of a GPU."""


def test_a_reload_is_told_once_and_as_soon(flap: Flap) -> None:
    """Its story is of the GPUs that it asks something of."""

    def told(one: Flap | None) -> tuple[int, list[str]]:
        found = node(make.sliced(4), gpus=4)
        change(found, whole(0), make.sliced(4))
        known = len(found.agent.snapshot.reloads)
        rounds = flapping(found, one, lambda: len(found.agent.snapshot.reloads) > known)
        flapping(found, one, lambda: modes(found)[0] is Mode.EXCLUSIVE)
        return rounds, [reload.result.value for reload in found.agent.snapshot.reloads]

    assert told(flap) == told(None)


def test_the_next_list_is_looked_for_by_those_who_wait() -> None:
    """A GPU that is decided anew at every turn has no `List` sent out for it while nothing of it waits."""
    found = node(make.sliced(4), gpus=4)
    pod(found, make.SHARED, "GPU-0::0")
    change(found, whole(0), make.sliced(4))
    lives(found, 6)
    good = found.agent.driver.inventory
    found.agent.driver.inventory = another_appears(good)
    before = found.clock.now
    lives(found)
    assert {wait.reason for wait in found.agent.plan.waits} == {WaitReason.PODS}
    list_at = found.agent.looks.wanted.list_at
    assert list_at is None or list_at > before + 1.0


def test_mig_devices_that_come_and_go_are_decided_by_themselves() -> None:
    """Of the GPU that flaps itself nothing is taken away by an old look."""
    found = node(make.sliced(4), gpus=2)
    good = found.agent.driver.inventory
    found.clock.now += 0.1
    found.agent.driver.inventory = is_divided(good)
    found.agent.turn()
    assert not found.agent.applied.gpus["GPU-1"].fences, "no look has begun since"
    lives(found, 2)
    assert found.agent.applied.gpus["GPU-1"].fences
    assert not found.agent.applied.gpus["GPU-0"].fences
