"""A disk that fails, at any moment: nothing is forgotten that is to be done, and an agent that restarts shows no pod a
fault that is not there.
"""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from nodeagent import reconciler
from nodeagent.model.allocation import Refused
from nodeagent.model.config import MaxUnavailable, Mode, Rule
from nodeagent.model.kubelet import CheckpointEntry
from nodeagent.model.plan import Fence, WaitReason
from tests.loop.agent import Agent
from tests.loop.model_kubelet import Pod
from tests.loop.test_waves import change, ends, modes, node, pod, waits, whole
from tests.loop.worlds import World, world
from tests.state import make
from tests.waiting import eventually_sync

FIRST = "GPU-0::0"


def healthy(found: World, share: str, resource: str = make.SHARED) -> bool:
    """Whether the kubelet was told that a share is Healthy, in the newest list."""
    return found.kubelet.told[resource][share]


def draining() -> tuple[World, str]:
    """A GPU that is to become a whole one and waits for the pod on its first share."""
    found = node(make.sliced(4), gpus=1)
    uid = pod(found, make.SHARED, FIRST)
    change(found, whole())
    found.works(4)
    return found, uid


def handed_out_again(found: World, uid: str, share: str = FIRST) -> str:
    """A draining share whose pod ends is given to another one, before anybody has looked."""
    ends(found, uid)
    return pod(found, make.SHARED, share)


def restarts(found: World, *, reads: bool = True) -> None:
    """Another agent starts, with what is on the disk. `reads` is False where the document cannot be read yet."""
    for resource in found.agent.streams.served:
        found.kubelet.disconnect(resource)
    if not reads:
        found.agent.around.mount.newest = None
    found.agent = Agent(found.agent.around, found.agent.driver.inventory)


@pytest.mark.parametrize("full_for", [1, 2, 5])
def test_a_draining_share_that_is_handed_out_while_the_disk_is_full_is_fenced_when_it_has_room(full_for: int) -> None:
    """However many turns later: the fence was not performed, so what calls for it is not forgotten."""
    found, uid = draining()
    found.agent.disk.writable = False
    handed_out_again(found, uid)
    found.works(full_for)
    assert healthy(found, FIRST)
    found.agent.disk.writable = True
    found.works(3)
    assert waits(found) == {0: WaitReason.PODS}
    assert not healthy(found, FIRST)


def test_each_fence_is_ticked_off_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two draining shares that were handed out again one is fenced and the other not, as a plan is performed in
    part: the one is not fenced for it a second time, the other one is still.
    """
    found = node(make.sliced(4), gpus=2)
    pods = [pod(found, make.SHARED, f"GPU-{index}::0") for index in range(2)]
    wished = [make.withheld(0), make.withheld(1)]
    change(found, *wished, at_most="100%")
    found.works(4)
    for index, uid in enumerate(pods):
        pods[index] = handed_out_again(found, uid, f"GPU-{index}::0")
    found.looks()
    monkeypatch.setattr(reconciler, "STEPS", 1)
    found.agent.turn(cut=1)
    monkeypatch.undo()
    fenced = {uuid for uuid, one in found.agent.applied.gpus.items() if 0 in one.fences}
    assert len(fenced) == 1
    (first,), (second,) = fenced, {"GPU-0", "GPU-1"} - fenced
    found.works(1)
    assert not healthy(found, f"{second}::0")
    change(found, make.sliced(4))
    found.rests()
    assert healthy(found, f"{first}::0")
    change(found, *wished, at_most="100%")
    found.works(6)
    assert healthy(found, f"{first}::0"), "nobody has handed it out since it was wanted again"
    assert waits(found) == {0: WaitReason.PODS, 1: WaitReason.PODS}


def test_a_share_that_is_taken_back_costs_no_fence() -> None:
    """A GPU of which a share comes back to the list does nothing else in that turn, and then what it had to do."""
    found, uid = draining()
    handed_out_again(found, uid)
    found.kubelet.pods["other"] = Pod("other", make.SHARED, ("GPU-0::9",), init=False, since=0.0)
    found.kubelet.checkpoint.add(CheckpointEntry("other", "main", make.SHARED, "GPU-0::9"))
    found.works(2)
    assert healthy(found, "GPU-0::9")
    assert not healthy(found, FIRST)


def test_a_turn_that_fails_before_anybody_is_shown_anything_loses_nothing() -> None:
    """What it has done to the disk and to its memory is shown by the next one."""
    found, uid = draining()
    handed_out_again(found, uid)
    found.agent.turn_and_die(shown=False)
    found.agent.turn()
    assert not healthy(found, FIRST)


def test_a_write_that_hangs_and_returns_late_loses_nothing() -> None:
    """While it hangs the fence is not performed; when it has returned the fence is, whether or not the file has it."""
    found, uid = draining()
    go = threading.Event()

    def hangs(file: str) -> None:
        del file
        go.wait()

    found.agent.loop.gives_up_writes_after(0.05)
    found.agent.disk.meanwhile = hangs
    handed_out_again(found, uid)
    found.works(3)
    assert healthy(found, FIRST)
    go.set()
    eventually_sync(lambda: not found.agent.loop.writes)
    found.works(3)
    assert not healthy(found, FIRST)
    assert 0 in found.agent.disk.applied.gpus["GPU-0"].fences


WISHES = [(whole(),), (make.sliced(4),), (make.sliced(1),)]
"""Another contract; what was before; the same with fewer shares, of which the fenced one is not the first."""


@pytest.mark.parametrize("full", [True, False], ids=["the disk is full", "the disk has room"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "cannot read yet"])
@pytest.mark.parametrize("wish", WISHES, ids=["leaves", "stays", "has fewer"])
def test_a_fence_that_was_lifted_without_the_disk_does_not_come_back(
    full: bool, reads: bool, wish: tuple[Rule, ...]
) -> None:
    """It is on the disk still when the agent restarts, and a pod has the share by now: it has a healthy one, whatever
    the document says, and whether it can be read or not.
    """
    found = node(make.sliced(4), gpus=1)
    change(found, whole())
    found.works(1)
    found.agent.disk.writable = False
    found.works(4)
    pod(found, make.SHARED, "GPU-0::3")
    found.works(1)
    assert found.agent.disk.applied.gpus["GPU-0"].fences
    change(found, *wish)
    found.agent.disk.writable = not full
    restarts(found, reads=reads)
    for _ in range(30):
        found.works(1)
        assert healthy(found, "GPU-0::3")


def test_a_fence_that_was_lifted_is_set_again_under_pressure() -> None:
    """The agent that has lifted what it found fences the share as any other, when it is handed out once more."""
    found = node(make.sliced(4), gpus=1)
    change(found, whole())
    found.works(1)
    found.agent.disk.writable = False
    found.works(4)
    uid = pod(found, make.SHARED, FIRST)
    found.agent.disk.writable = True
    restarts(found)
    found.works(2)
    assert healthy(found, FIRST)
    handed_out_again(found, uid)
    found.works(4)
    assert not healthy(found, FIRST)


@pytest.mark.parametrize("blind_for", [0, 1, 4], ids=["reads at once", "reads soon", "reads late"])
def test_what_was_fenced_is_not_offered_once_more_by_an_agent_that_restarts(blind_for: int) -> None:
    """It is on its way out, and nobody gets it while the document has not been read, nor in the seconds in which an
    agent takes nothing away.
    """
    found = node(make.sliced(4), gpus=1)
    change(found, whole())
    newest = found.agent.around.mount.newest
    found.works(1)
    assert found.agent.applied.gpus["GPU-0"].fences.keys() == {0, 1, 2, 3}
    restarts(found, reads=not blind_for)
    for number in range(60):
        if number == blind_for:
            found.agent.around.mount.newest = newest
        found.works(1)
        assert not any(well for share, well in found.kubelet.told[make.SHARED].items() if "::" in share)
        if modes(found) == {0: Mode.EXCLUSIVE}:
            break
        if not found.agent.applied.gpus["GPU-0"].numbers:
            break
    found.agent.around.mount.newest = newest
    assert found.rests().converged
    assert modes(found) == {0: Mode.EXCLUSIVE}


def test_a_document_that_does_not_come_gives_back_what_was_fenced() -> None:
    """What is applied is kept then, as without any document; not for ever, but as soon as the agent is sure of pods."""
    found = node(make.sliced(4), gpus=1)
    change(found, whole())
    found.works(1)
    restarts(found, reads=False)
    found.works(1)
    assert {wait.reason for wait in found.agent.plan.waits} == {WaitReason.RESTART}
    found.works(25)
    assert all(found.kubelet.told[make.SHARED].values())
    assert not found.agent.plan.waits


@pytest.mark.parametrize("write", range(6))
def test_what_is_granted_while_the_disk_is_written_is_on_the_list(write: int) -> None:
    """A share on its way out that the kubelet hands out after all, during any write of a change in waves, does not
    leave the list under its pod; nor does an agent find it gone that starts right after that.
    """
    found = node(make.sliced(4), gpus=4)
    change(found, whole())
    desk, disk = found.agent.desk, found.agent.disk
    writes = 0
    granted: list[str] = []

    def allocates(file: str) -> None:
        nonlocal writes
        if file != "applied.json" or granted:
            return
        writes += 1
        fenced = [one.id for one in desk.listing(make.SHARED).devices if not one.healthy]
        if writes > write and fenced:
            try:
                desk.allocate(make.SHARED, [fenced[:1]])
            except Refused:
                return
            granted.extend(fenced[:1])
            found.kubelet.pods["late"] = Pod("late", make.SHARED, (fenced[0],), init=False, since=found.clock.now)
            found.kubelet.checkpoint.add(CheckpointEntry("late", "main", make.SHARED, fenced[0]))

    disk.meanwhile = allocates
    for _ in range(40):
        found.works(1)
        for share in granted:
            assert share in found.kubelet.told[make.SHARED]
            uuid, _, number = share.partition("::")
            assert int(number) in disk.applied.gpus[uuid].numbers
    assert granted
    ends(found, "late")
    found.rests()
    assert set(modes(found).values()) == {Mode.EXCLUSIVE}


def test_what_the_disk_has_held_up_goes_on_as_soon_as_it_is_written() -> None:
    """The turn that writes what was owed is followed by another one at once: no event tells that the disk has room."""
    found = node(make.sliced(4), gpus=2)
    change(found, whole())
    found.agent.disk.writable = False
    pod(found, make.SHARED, FIRST)
    found.works(3)
    found.agent.disk.writable = True
    found.clock.now += 0.1
    found.agent.turn()
    assert found.agent.loop.woken or any(isinstance(one, Fence) for one in found.agent.plan.actions)
    found.agent.turn()
    assert any(one.fences for one in found.agent.applied.gpus.values())


def test_a_limit_belongs_to_its_contract() -> None:
    """Where a GPU cannot change, since the disk is full, containers may ask for as many shares of it as before."""
    found = world(gpus=1)
    found.follow(make.sliced(4, most=4))
    found.rests()
    rule = make.sliced(2, resource="example.com/other", most=1)
    found.agent.around.mount.has(replace(make.config(rule), max_unavailable=MaxUnavailable(number=1)), found.clock.now)
    found.works(2)
    found.clock.now += 2.0
    found.looks()
    found.agent.disk.writable = False
    found.agent.turn()
    found.works(2)
    entry = found.agent.applied.gpus["GPU-0"]
    assert entry.contract is not None
    assert (entry.contract.resource, entry.max_shares_per_container) == (make.SHARED, 4)
    assert pod(found, make.SHARED, FIRST, "GPU-0::1")
