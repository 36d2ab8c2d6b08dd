"""The plan as a whole: its order, what is checked, and what belongs to no single GPU. Cases are in `golden/`."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.model.config import Rule
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.kubelet import PodResourcesStatus
from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.plan import (
    Advertise,
    Drop,
    Limit,
    Plan,
    Register,
    Remember,
    Restore,
    ShareAction,
    Start,
    Verdict,
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.desired import Desired
from nodeagent.state.effect import InvariantBroken
from nodeagent.state.families import families
from nodeagent.state.invariants import verify
from nodeagent.state.observed import BLIND_SECONDS, Observed
from nodeagent.state.plan import plan
from tests.state import make, words

GPUS = [make.gpu(0), make.gpu(1), make.gpu(2)]


def test_what_leaves_comes_before_what_comes() -> None:
    """Of all GPUs: facts, fences, drops, releases, restores, additions; then limits and registrations."""
    have = make.applied(
        make.entry(0, make.SLICED, range(3), {2: 90.0}),
        make.entry(1, make.WHOLE, {0}, {0: 90.0}),
        make.entry(2, make.SLICED, range(2), {1: 90.0}),
    )
    desired = make.wanted(GPUS, make.sliced(1, 0), make.sliced(3, 1, 2, most=1))
    gpus = (make.gpu(0, health=GpuHealth.LOST), *GPUS[1:])
    made = plan(desired, make.seen(have, gpus=gpus))
    assert words.actions(made) == [
        "remember GPU 0 lost",
        "fence GPU 0 1",
        "drop GPU 0 2",
        "drop GPU 1 0",
        "release GPU 1",
        "restore GPU 2 1",
        "advertise GPU 1 time-sliced nvidia.com/gpu.shared 0-2",
        "advertise GPU 2 time-sliced nvidia.com/gpu.shared 2",
        "limit GPU 1 1",
        "limit GPU 2 1",
        "retire nvidia.com/gpu",
    ]


def test_daemons_are_asked_for_before_shares_come_and_judged_after() -> None:
    """Of all GPUs: what ends, what is started, what comes; then what is known of the daemons of what is there."""
    have = make.applied(
        make.entry(0, make.QUARTER, range(2), {0: 90.0, 1: 90.0}, leaving=True),
        make.entry(1, make.SLICED, range(2), {0: 90.0, 1: 90.0}, leaving=True),
        make.entry(2, make.QUARTER, range(2)),
    )
    desired = make.wanted(GPUS, make.sliced(1, 0), make.mps(2))
    made = plan(desired, make.seen(have, mps=make.host(make.daemon(0))))
    assert words.actions(made) == [
        "drop GPU 0 0-1",
        "drop GPU 1 0-1",
        "release GPU 0",
        "release GPU 1",
        f"start GPU 1 {make.QUARTER}",
        "verdict GPU 2 its MPS daemon is not ready: it has not been started yet",
        "limit GPU 1 1",
        "limit GPU 2 1",
    ]
    assert words.waits(made) == ["GPU 0 waits for daemon: 0", "GPU 1 waits for daemon: 0-1"]


def test_what_is_known_of_a_daemon_is_part_of_the_plan_once() -> None:
    """When it changes; and never of a GPU whose shares need none, or whose shares leave in this very plan."""
    have = make.applied(make.entry(0, make.QUARTER, range(2)), make.entry(1, make.SLICED, range(2)), make.entry(2))
    desired = make.wanted(GPUS, make.mps(2, 0), make.sliced(2, 1), make.withheld(2))
    failed = make.host(make.daemon(0, state=DaemonState.FAILED, message="it has ended"))

    (ill,) = [one for one in plan(desired, make.seen(have, mps=failed)).actions if isinstance(one, Verdict)]
    assert ill == Verdict("GPU-0", "its MPS daemon is not ready: it has ended")
    told = make.applied(make.entry(0, make.QUARTER, range(2), fault=ill.fault), *have.ordered()[1:])
    assert not [one for one in plan(desired, make.seen(told, mps=failed)).actions if isinstance(one, Verdict)]
    well = plan(desired, make.seen(told, mps=make.host(make.daemon(0))))
    assert [one for one in well.actions if isinstance(one, Verdict)] == [Verdict("GPU-0", "")]
    leaving = make.applied(make.entry(0, make.QUARTER, range(2), {0: 90.0, 1: 90.0}, fault=ill.fault))
    gone = plan(make.wanted(GPUS[:1], make.withheld()), make.seen(leaving, mps=failed))
    assert words.actions(gone) == ["drop GPU 0 0-1", "release GPU 0", "retire nvidia.com/gpu.mps"]


def test_adopted_shares_are_told_unhealthy_in_the_same_plan() -> None:
    """A pod's share of a daemon that is not there is never on a list as Healthy, not even on the first."""
    held = make.keys(make.MPS, 0, 1)
    have = make.applied(make.entry(0, make.QUARTER))
    for mps in (make.host(), MpsStatus(MpsReason.PENDING)):
        made = plan(make.wanted(GPUS[:1], make.mps(2)), make.seen(have, held=held, mps=mps))
        assert words.actions(made)[:2] == [
            f"adopt GPU 0 {make.QUARTER} 1",
            "verdict GPU 0 its MPS daemon is not ready: it has not been started yet",
        ]


def test_a_resource_is_registered_when_something_of_it_is_there() -> None:
    """Not with its contract alone: an empty list would take away what pods have from another plugin, or from an agent
    before this one. It stays registered while a daemon of it is there, or wanted.
    """
    started = make.applied(make.entry(0, make.QUARTER))
    wish = make.wanted(GPUS[:1], make.mps(2))
    nothing: frozenset[str] = frozenset()
    waiting = plan(wish, make.seen(started, mps=make.host(), registered=nothing))
    assert "register nvidia.com/gpu.mps" not in words.actions(waiting)
    there = plan(wish, make.seen(started, mps=make.host(make.daemon(0)), registered=nothing))
    assert "register nvidia.com/gpu.mps" in words.actions(there)
    held = plan(wish, make.seen(started, held=make.keys(make.MPS, 0, 1), mps=make.host(), registered=nothing))
    assert "register nvidia.com/gpu.mps" in words.actions(held)
    registered = frozenset({make.MPS})
    for desired in (wish, None, make.wanted(GPUS[:1], make.whole())):
        kept = plan(desired, make.seen(started, mps=make.host(), registered=registered, decided_at=100.5))
        assert "retire nvidia.com/gpu.mps" not in words.actions(kept)
    gone = plan(make.wanted(GPUS[:1], make.whole()), make.seen(started, mps=make.host(), registered=registered))
    assert words.actions(gone) == ["release GPU 0", "retire nvidia.com/gpu.mps"]


@pytest.mark.parametrize(
    ("mps", "rule", "waits"),
    [
        (MpsStatus(MpsReason.PENDING), make.mps(4), True),
        (MpsStatus(MpsReason.PENDING), make.mps(2), False),
        (MpsStatus(MpsReason.PENDING), make.whole(), False),
        (MpsStatus(MpsReason.PENDING), None, False),
        (MpsStatus(MpsReason.ABSENT), make.mps(4), False),
        (make.host(make.daemon(0)), make.mps(4), False),
    ],
    ids=["soon", "nothing-more", "something-else", "no-document", "no-host", "verified"],
)
def test_a_first_list_waits_for_shares_that_follow_in_a_moment(
    mps: MpsStatus, rule: Rule | None, *, waits: bool
) -> None:
    """An agent whose memory is lost finds two of four shares with pods, and the daemons a moment later: a first list
    without the others would take those away from the kubelet. Where nothing follows, nothing is waited for.
    """
    have = make.applied(make.entry(0, make.QUARTER, range(2)))
    desired = make.wanted([make.gpu(0)], rule) if rule is not None else None
    held = make.keys(make.QUARTER.resource, 0, 0, 1)
    made = plan(desired, make.seen(have, held=held, mps=mps, registered=frozenset()))
    assert ("register nvidia.com/gpu.mps" in words.actions(made)) is not waits


def test_a_daemon_that_was_found_is_adopted_with_its_gpu() -> None:
    """In the plan that remembers the GPU; one whose GPU has a contract, or is not there, is left alone."""
    have = make.applied(make.entry(1, make.SLICED, range(2)))
    orphans = {"GPU-0": make.QUARTER, "GPU-1": make.HALF, "GPU-9": make.HALF}
    made = plan(None, make.seen(have, gpus=tuple(GPUS[:2]), mps=make.host(make.daemon(0)), orphans=orphans))
    assert words.actions(made) == ["remember GPU 0", f"adopt GPU 0 {make.QUARTER}"]


def test_one_gpu_that_drains_holds_no_other_up() -> None:
    """Each GPU goes its own way."""
    have = make.applied(make.entry(0, make.WHOLE, {0}), make.entry(1, make.SLICED, range(2)))
    desired = make.wanted(GPUS[:2], make.sliced(4))
    made = plan(desired, make.seen(have, held=make.keys("nvidia.com/gpu", 0)))
    assert words.actions(made) == ["advertise GPU 1 time-sliced nvidia.com/gpu.shared 2-3"]
    assert made.waits == (Wait("GPU-0", WaitReason.PODS, frozenset({0})),)


def test_a_limit_comes_with_its_contract() -> None:
    """No limit is set on a GPU that has another contract, or none: it would outlive the wish for it."""
    have = make.applied(make.entry(0), make.entry(1, make.WHOLE, {0}))
    desired = make.wanted(GPUS[:2], make.sliced(2, most=1))
    made = plan(desired, make.seen(have, held=make.keys("nvidia.com/gpu", 1)))
    assert [one for one in made.actions if isinstance(one, Limit)] == [Limit("GPU-0", 1)]
    waiting = plan(desired, make.seen(have, pods=PodResourcesStatus()))
    assert not [one for one in waiting.actions if isinstance(one, Limit)]


def test_a_gpu_that_pods_have_is_not_forgotten() -> None:
    """A GPU that is gone stays remembered while anything of it is held."""
    have = make.applied(make.entry(0))
    held = make.keys("nvidia.com/gpu", 0)
    gone = plan(make.wanted([]), make.seen(have, gpus=()))
    assert words.actions(gone) == ["forget GPU 0"]
    kept = plan(make.wanted([]), make.seen(have, held=held, gpus=()))
    assert "forget GPU 0" not in words.actions(kept)


def test_what_was_remembered_in_part_is_shown_when_it_is_known_what_pods_have() -> None:
    """Where the contract of a GPU could not be read, the first list of its name would lack what pods have of it: none
    is shown before PodResources has been read, or has not been readable for a while.
    """
    have = make.applied(make.entry(0, make.SLICED, range(3)))
    desired = make.wanted(GPUS[:2], make.sliced(3, 0, 1))
    register = Register(make.SHARED)
    blind = make.seen(have, gpus=tuple(GPUS[:2]), pods=make.unreadable(), registered=frozenset(), blind_since=99.0)
    assert register in plan(desired, blind).actions
    partly = replace(blind, partial=True)
    assert register not in plan(desired, partly).actions
    assert register in plan(desired, replace(partly, blind_since=99.0 - BLIND_SECONDS)).actions
    read = make.seen(have, gpus=tuple(GPUS[:2]), registered=frozenset(), partial=True)
    assert register in plan(desired, read).actions


def test_a_plan_says_when_it_is_converged() -> None:
    """Nothing to do and nothing to wait for."""
    assert Plan().converged
    assert not Plan(waits=(Wait("GPU-0", WaitReason.PODS),)).converged
    assert not Plan(actions=(Remember(make.gpu(0)),)).converged


HAVE = make.entry(0, make.SLICED, range(4), {2: 90.0, 3: 99.9})


def checked(view: Observed, desired: Desired, actions: list[ShareAction]) -> Applied:
    """What is applied after the actions, if they break no invariant."""
    (family,) = families(view)
    return verify(family, view, desired, actions)


@pytest.mark.parametrize(
    ("entry", "action"),
    [
        (HAVE, Drop("GPU-0", frozenset({3}))),
        (HAVE, Drop("GPU-0", frozenset({1}))),
        (HAVE, Restore("GPU-0", frozenset({2}))),
        (HAVE, Advertise("GPU-0", make.SLICED, frozenset({7}))),
        (make.entry(0), Advertise("GPU-0", make.WHOLE, frozenset({0}))),
    ],
    ids=["a young fence", "no fence", "more than wanted", "more than wanted, added", "what nobody wants"],
)
def test_a_plan_that_breaks_an_invariant_is_never_made(entry: AppliedGpu, action: ShareAction) -> None:
    """Every plan is performed on a copy, action by action, and held against the invariants."""
    desired = make.wanted([make.gpu(0)], make.sliced(2))
    with pytest.raises(InvariantBroken, match=r"^cannot "):
        checked(make.seen(make.applied(entry)), desired, [action])


@pytest.mark.parametrize(
    "mps",
    [make.host(), make.host(make.daemon(0, make.HALF)), MpsStatus(), MpsStatus(MpsReason.PENDING)],
    ids=["none", "other limits", "off", "pending"],
)
def test_a_plan_that_advertises_without_a_daemon_is_never_made(mps: MpsStatus) -> None:
    """Also not where its contract is started in the same plan."""
    desired = make.wanted([make.gpu(0)], make.mps(2))
    actions: list[ShareAction] = [
        Start("GPU-0", make.QUARTER),
        Advertise("GPU-0", make.QUARTER, frozenset({0, 1})),
    ]
    with pytest.raises(InvariantBroken, match=r"^cannot advertise .* its daemon is not verified: GPU-0$"):
        checked(make.seen(make.applied(make.entry(0)), mps=mps), desired, actions)
    ready = make.seen(make.applied(make.entry(0)), mps=make.host(make.daemon(0)))
    assert checked(ready, desired, actions).gpus["GPU-0"].numbers == {0, 1}


def test_what_pods_have_may_always_come_back() -> None:
    """However many are wanted."""
    held = make.keys(make.SHARED, 0, 2, 7)
    desired = make.wanted([make.gpu(0)], make.withheld())
    have = make.seen(make.applied(HAVE), held=held)
    actions: list[ShareAction] = [Restore("GPU-0", frozenset({2})), Advertise("GPU-0", make.SLICED, frozenset({7}))]
    assert checked(have, desired, actions).gpus["GPU-0"].numbers == {0, 1, 2, 3, 7}
