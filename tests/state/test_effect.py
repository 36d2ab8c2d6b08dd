"""What actions do to the applied contract, and those that are never done."""

from __future__ import annotations

import pytest

from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Drop,
    Fence,
    Forget,
    Limit,
    Release,
    Remember,
    Restore,
    ShareAction,
    Start,
    Verdict,
)
from nodeagent.state.effect import InvariantBroken, perform
from tests.state import make

HAVE = make.applied(make.entry(0, make.SLICED, range(4), {3: 5.0}, most=1), make.entry(1))
SOME = frozenset({0, 1})


def test_a_gpu_is_remembered_with_what_it_has() -> None:
    """Newer facts and health come in, shares stay as they are; a new GPU begins with nothing."""
    lost = make.gpu(0, health=GpuHealth.LOST)
    after = perform(HAVE, [Remember(lost), Remember(make.gpu(2))], 10)
    assert after.gpus["GPU-0"] == make.entry(0, make.SLICED, range(4), {3: 5.0}, health=GpuHealth.LOST, most=1)
    assert after.gpus["GPU-2"] == make.entry(2)


def test_shares_are_added_under_the_contract_of_the_gpu() -> None:
    """A GPU without a contract takes that of its first shares."""
    after = perform(HAVE, [Advertise("GPU-0", make.SLICED, frozenset({7})), Advertise("GPU-1", make.WHOLE, {0})], 10)  # type: ignore[arg-type]
    assert after.gpus["GPU-0"].numbers == {0, 1, 2, 3, 7}
    assert after.gpus["GPU-1"].contract == make.WHOLE


def test_a_fence_keeps_its_first_time() -> None:
    """Fencing again makes no fence younger; one that was restored begins anew."""
    after = perform(HAVE, [Fence("GPU-0", frozenset({2, 3}))], 10)
    assert after.gpus["GPU-0"].fences == {2: 10, 3: 5.0}
    again = perform(after, [Restore("GPU-0", frozenset({3})), Fence("GPU-0", frozenset({3}))], 20)
    assert again.gpus["GPU-0"].fences == {2: 10, 3: 20}


def test_a_dropped_share_leaves_list_and_fences() -> None:
    """Nothing of it is left, so that the number may come again as any other."""
    after = perform(HAVE, [Drop("GPU-0", frozenset({3}))], 10)
    assert after.gpus["GPU-0"] == make.entry(0, make.SLICED, range(3), most=1)


def test_a_released_gpu_is_as_new() -> None:
    """Contract and limit end together, and the GPU may be forgotten."""
    every = frozenset(range(4))
    actions: list[ShareAction] = [Fence("GPU-0", every), Drop("GPU-0", every), Release("GPU-0")]
    assert perform(HAVE, actions, 10).gpus["GPU-0"] == make.entry(0)
    assert "GPU-0" not in perform(HAVE, [*actions, Forget("GPU-0")], 10).gpus


def test_a_started_gpu_has_a_contract_and_no_share() -> None:
    """Its daemon is asked for; shares of the very contract come later, and the GPU is not forgotten meanwhile."""
    started = perform(HAVE, [Start("GPU-1", make.QUARTER)], 10)
    assert started.gpus["GPU-1"] == make.entry(1, make.QUARTER)
    after = perform(started, [Advertise("GPU-1", make.QUARTER, SOME)], 10)
    assert after.gpus["GPU-1"] == make.entry(1, make.QUARTER, SOME)
    assert perform(started, [Release("GPU-1")], 10) == HAVE


def test_a_daemon_that_was_found_is_adopted_without_a_share() -> None:
    """Its contract alone; those of its shares that pods have follow."""
    found = perform(HAVE, [Adopt("GPU-1", make.QUARTER, frozenset())], 10)
    assert found.gpus["GPU-1"] == make.entry(1, make.QUARTER)
    after = perform(found, [Adopt("GPU-1", make.QUARTER, frozenset({3}))], 10)
    assert after.gpus["GPU-1"] == make.entry(1, make.QUARTER, {3})


def test_a_verdict_changes_no_share() -> None:
    """It makes all of a GPU unhealthy, until another says that it is well, or the contract ends."""
    ill = perform(HAVE, [Verdict("GPU-0", "its daemon has ended")], 10)
    assert ill.gpus["GPU-0"] == make.entry(0, make.SLICED, range(4), {3: 5.0}, most=1, fault="its daemon has ended")
    assert not ill.gpus["GPU-0"].healthy
    assert ill.gpus["GPU-0"].trouble == "GPU 0: its daemon has ended"
    assert perform(ill, [Verdict("GPU-0", "")], 10) == HAVE
    every = frozenset(range(4))
    gone = perform(ill, [Fence("GPU-0", every), Drop("GPU-0", every), Release("GPU-0")], 10)
    assert gone.gpus["GPU-0"] == make.entry(0)


def test_a_limit_is_set_and_lifted() -> None:
    """`maxSharesPerContainer` changes without touching a share."""
    assert perform(HAVE, [Limit("GPU-0", None)], 10).gpus["GPU-0"].max_shares_per_container is None


def test_nothing_is_changed_in_place() -> None:
    """The applied contract before is still there after."""
    before = make.applied(make.entry(0, make.SLICED, range(4), {3: 5.0}, most=1), make.entry(1))
    perform(HAVE, [Drop("GPU-0", frozenset({3})), Fence("GPU-0", SOME), Forget("GPU-1")], 10)
    assert before == HAVE


@pytest.mark.parametrize(
    "action",
    [
        Drop("GPU-0", frozenset({2})),
        Drop("GPU-0", frozenset({2, 3})),
        Fence("GPU-0", frozenset({9})),
        Restore("GPU-0", SOME),
        Advertise("GPU-0", make.WHOLE, frozenset({0})),
        Advertise("GPU-0", make.SLICED, frozenset({3})),
        Release("GPU-0"),
        Forget("GPU-0"),
        Forget("GPU-7"),
        Fence("GPU-7", SOME),
        Limit("GPU-7", 1),
        Start("GPU-0", make.QUARTER),
        Start("GPU-0", make.SLICED),
        Start("GPU-7", make.QUARTER),
        Adopt("GPU-0", make.QUARTER, frozenset()),
        Verdict("GPU-7", "its daemon has ended"),
    ],
    ids=str,
)
def test_what_breaks_an_invariant_is_not_done(action: ShareAction) -> None:
    """Dropping unfenced, changing a contract in use, and speaking of what is not there raise."""
    with pytest.raises(InvariantBroken, match=r"^cannot "):
        perform(HAVE, [action], 10)
