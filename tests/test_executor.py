"""What the executor does with a plan: the disk before the kubelet, and without a disk only what needs none."""

from __future__ import annotations

import pytest

from nodeagent.executor import Executor
from nodeagent.keeper import Keeper
from nodeagent.model.config import Document
from nodeagent.model.holds import Holds
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Drop,
    Fence,
    KubeletAction,
    Limit,
    Reconnect,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    ShareAction,
    Start,
    Verdict,
)
from nodeagent.model.shares import Applied
from nodeagent.state.nodegpus import unseen
from tests.state import make

HAVE = make.applied(make.entry(0, make.SLICED, range(4), {3: 1.0}), make.entry(1))


class Disk:
    """A state directory that can be full, and a clock that a write moves on."""

    def __init__(self) -> None:
        self.full = False
        self.now = 100.0
        self.written: list[Applied] = []

    def clock(self) -> float:
        return self.now

    def save_applied(self, applied: Applied) -> None:
        self.now += 2.0
        if self.full:
            raise OSError(28, "No space left on device")
        self.written.append(applied)

    def save_holds(self, holds: Holds) -> None:
        raise AssertionError

    def save_last_known_good(self, document: Document) -> None:
        raise AssertionError


class Kubelet:
    """Notes what is asked of registrations."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def register(self, resource: str) -> None:
        self.asked.append(("register", resource))

    def retire(self, resource: str) -> None:
        self.asked.append(("retire", resource))

    def resend(self, resource: str) -> None:
        self.asked.append(("resend", resource))

    def reconnect(self, resource: str) -> None:
        self.asked.append(("reconnect", resource))


def executor(disk: Disk, kubelet: Kubelet | None = None) -> Executor:
    """Return an executor whose disk knows what is applied."""
    keeper = Keeper(disk, applied=HAVE, holds=Holds(), document=None)
    return Executor(keeper, kubelet or Kubelet(), clock=disk.clock)


async def test_what_is_applied_is_on_disk_first() -> None:
    """The contract that comes back has been written, as a whole."""
    disk = Disk()
    after = (await executor(disk).apply(HAVE, [Drop("GPU-0", frozenset({3})), Fence("GPU-0", frozenset({2}))])).applied
    assert [entry.numbers for entry in after.ordered()] == [{0, 1, 2}, frozenset()]
    assert [entry.gpus["GPU-0"].numbers for entry in disk.written] == [{0, 1, 2}]


async def test_a_fence_is_as_young_as_its_publication() -> None:
    """The time that the write takes is not counted: nobody has been shown the fence before."""
    disk = Disk()
    after = (await executor(disk).apply(HAVE, [Fence("GPU-0", frozenset({2}))])).applied
    assert after.gpus["GPU-0"].fences == {3: 1.0, 2: 102.0}


@pytest.mark.parametrize(
    ("action", "done"),
    [
        (Remember(make.gpu(0, health=GpuHealth.LOST)), True),
        (Adopt("GPU-1", make.WHOLE, frozenset({0})), True),
        (Adopt("GPU-1", make.QUARTER, frozenset()), True),
        (Verdict("GPU-0", "its MPS daemon is not ready: it has ended"), True),
        (Limit("GPU-0", 1), True),
        (Restore("GPU-0", frozenset({3})), True),
        (Advertise("GPU-1", make.WHOLE, frozenset({0})), False),
        (Start("GPU-1", make.QUARTER), False),
        (Fence("GPU-0", frozenset({2})), False),
        (Drop("GPU-0", frozenset({3})), False),
    ],
    ids=[
        "a GPU's health",
        "what pods have",
        "a daemon that was found",
        "a daemon's health",
        "a limit",
        "wanted again",
        "something new",
        "a daemon",
        "a fence",
        "a drop",
    ],
)
async def test_a_full_disk_begins_nothing(action: ShareAction, done: bool) -> None:
    """Only what an agent that restarts would decide once more is done without the disk."""
    disk = Disk()
    disk.full = True
    after = (await executor(disk).apply(HAVE, [action])).applied
    assert (after != HAVE) is done


async def test_a_full_disk_ends_no_contract() -> None:
    """So no daemon is taken from a GPU of which the disk says that it is under MPS; what is known of it is told."""
    disk = Disk()
    disk.full = True
    under = make.applied(make.entry(0, make.QUARTER, {0}, {0: 1.0}), make.entry(1, make.QUARTER, {0}))
    agent = executor(disk)
    ended = Verdict("GPU-1", "it has ended")
    done = await agent.apply(under, [Drop("GPU-0", frozenset({0})), Release("GPU-0"), Start("GPU-0", make.HALF), ended])
    assert done.applied == make.applied(under.gpus["GPU-0"], make.entry(1, make.QUARTER, {0}, fault="it has ended"))
    assert done.actions == (ended,)


async def test_what_was_decided_for_a_contract_that_does_not_come_is_not_done() -> None:
    """A limit, or that a daemon is well: it was meant for what the GPU was to be. That it is ill is told in any case,
    and what concerns another GPU is done.
    """
    disk = Disk()
    disk.full = True
    change: list[ShareAction] = [Release("GPU-0"), Advertise("GPU-0", make.WHOLE, frozenset({0}))]
    other: list[ShareAction] = [Limit("GPU-1", 1), Verdict("GPU-1", "")]
    have = make.applied(make.entry(0, make.SLICED, ()), HAVE.gpus["GPU-1"])
    done = await executor(disk).apply(have, [*change, Limit("GPU-0", 1), Verdict("GPU-0", ""), *other])
    assert done.actions == tuple(other)
    ill = Verdict("GPU-0", "it has ended")
    assert (await executor(disk).apply(have, [*change, ill])).actions == (ill,)


async def test_what_was_decided_for_the_contract_that_stays_is_done() -> None:
    """A daemon that is back makes its shares Healthy, though those that are to leave cannot be fenced yet."""
    disk = Disk()
    disk.full = True
    contract = HAVE.gpus["GPU-0"].contract
    assert contract is not None
    leaving: list[ShareAction] = [
        Fence("GPU-0", frozenset({2}), leaving=True),
        Drop("GPU-0", frozenset({3})),
        Advertise("GPU-0", contract, frozenset({7})),
    ]
    rest: list[ShareAction] = [Verdict("GPU-0", ""), Limit("GPU-0", 1)]
    assert (await executor(disk).apply(HAVE, [*leaving, *rest])).actions == tuple(rest)


async def test_a_verdict_is_on_disk_like_everything_else() -> None:
    """Another agent begins with it."""
    disk = Disk()
    ill = (await executor(disk).apply(HAVE, [Verdict("GPU-0", "it has ended")])).applied
    assert [entry.gpus["GPU-0"].fault for entry in disk.written] == ["it has ended"]
    assert ill.gpus["GPU-0"].fault == "it has ended"


async def test_what_is_owed_to_the_disk_is_written_when_it_can_be() -> None:
    """What was done without the disk is written with the next step that finds one, even a step without actions."""
    disk = Disk()
    disk.full = True
    agent = executor(disk)
    after = (await agent.apply(HAVE, [Adopt("GPU-1", make.WHOLE, frozenset({0}))])).applied
    disk.full = False
    assert (await agent.apply(after, [])).applied is after
    assert disk.written == [after]
    await agent.apply(after, [])
    assert len(disk.written) == 1


async def test_what_a_reboot_changed_is_written() -> None:
    """What is applied differs from what is on disk before anything has been done."""
    disk = Disk()
    rebooted = unseen(HAVE)
    assert (await executor(disk).apply(rebooted, [])).applied is rebooted
    assert disk.written == [rebooted]


async def test_a_step_without_actions_writes_nothing() -> None:
    """A turn in which nothing is to be done costs no write."""
    disk = Disk()
    assert (await executor(disk).apply(HAVE, [])).applied is HAVE
    assert disk.written == []


def test_each_kubelet_action_is_one_call() -> None:
    """In the plan's order."""
    kubelet = Kubelet()
    actions: list[KubeletAction] = [Register("a.io/b"), Retire("c.io/d"), Resend("e.io/f"), Reconnect("g.io/h")]
    executor(Disk(), kubelet).register(actions)
    assert kubelet.asked == [
        ("register", "a.io/b"),
        ("retire", "c.io/d"),
        ("resend", "e.io/f"),
        ("reconnect", "g.io/h"),
    ]
