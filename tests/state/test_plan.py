"""The plan as a whole: its order, what is checked, and what belongs to no single GPU. Cases are in `golden/`."""

from __future__ import annotations

import pytest

from nodeagent.model.inventory import GpuHealth
from nodeagent.model.kubelet import PodResourcesStatus
from nodeagent.model.plan import Advertise, Drop, Limit, Plan, Remember, Restore, ShareAction, Wait, WaitReason
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.effect import InvariantBroken
from nodeagent.state.plan import plan, verify
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


def test_a_plan_says_when_it_is_converged() -> None:
    """Nothing to do and nothing to wait for."""
    assert Plan().converged
    assert not Plan(waits=(Wait("GPU-0", WaitReason.PODS),)).converged
    assert not Plan(actions=(Remember(make.gpu(0)),)).converged


HAVE = make.entry(0, make.SLICED, range(4), {2: 90.0, 3: 99.9})


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
        verify(make.seen(make.applied(entry)), desired, [action])


def test_what_pods_have_may_always_come_back() -> None:
    """However many are wanted."""
    held = make.keys(make.SHARED, 0, 2, 7)
    desired = make.wanted([make.gpu(0)], make.withheld())
    have = make.seen(make.applied(HAVE), held=held)
    actions: list[ShareAction] = [Restore("GPU-0", frozenset({2})), Advertise("GPU-0", make.SLICED, frozenset({7}))]
    assert verify(have, desired, actions).gpus["GPU-0"].numbers == {0, 1, 2, 3, 7}
