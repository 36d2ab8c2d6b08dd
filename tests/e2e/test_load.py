"""Shares that come and go while pods do."""

from __future__ import annotations

import random
import time

import pytest

from tests.e2e import holders
from tests.e2e.figures import Figures
from tests.e2e.options import Options
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import Probe
from tests.e2e.workload import FAILS, Pods, exclusive, load, shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3600)]

SHARED = "nvidia.com/gpu.shared"
MORE, FEWER = 10, 2
USERS = 16
BATCH = 25
AT_MOST = 15.0
"""Seconds that a change of mode may wait for shares whose pods have failed."""


def test_fewer_and_more_under_load(pool: Pool, pods: Pods, probe: Probe, options: Options, figures: Figures) -> None:
    """A hundred times fewer and more shares while pods are admitted and end: the kubelet lives, there is no moment
    without devices, and no GPU is given, or offered, to more pods than are wanted there, or than had it when that
    number came to be wanted.
    """
    changes = options.times(100)
    chance = random.Random(1)
    wanted: list[tuple[float, int]] = []
    with probe.watching() as seen, load(pods, SHARED, users=USERS, holds=(1.0, 3.0), seed=1) as users:
        for number in range(changes):
            replicas = FEWER if number % 2 == 0 else MORE
            blob = pool.commit(shared(replicas, remark=f"change {number}"))
            wanted.append((pool.accepted_at(blob), replicas))
            _let_users_go_on(chance.uniform(0.5, 3.5))
    assert users.broken == []
    assert len(set(seen.kubelets)) == 1, "the kubelet was started again"
    assert seen.errors == []
    assert seen.at_zero(SHARED) == []
    taken = [(at, holders.taken(found)) for at, found in seen.holders]
    assert holders.over(taken, seen.holders, wanted) == []
    assert holders.over(seen.offered(SHARED), seen.holders, wanted) == []
    admitted = holders.admissions(seen.holders)
    assert admitted > changes, "too few pods to show anything"
    twice = len(holders.handed_out_twice(seen.holders))
    figures.add(
        "fewer and more under load: pods admitted", str(admitted), f"{changes} changes, {users.created} pods made"
    )
    figures.add(
        "… of them refused by the kubelet",
        str(sum(users.failed.values())),
        "bound within its report's time to what was just taken away",
    )
    figures.add("… polls at zero", f"0 of {seen.polls}", f"longest pause between two {seen.longest_gap:.2f} s")
    figures.add("… shares that two pods had at once", str(twice), "the kubelet's own race with PodResources List")


@pytest.mark.parametrize("deleted", [False, True], ids=["failed pods stay", "failed pods are deleted"])
def test_pods_that_fail_at_once_and_then_a_change_of_mode(
    pool: Pool, pods: Pods, options: Options, figures: Figures, *, deleted: bool
) -> None:
    """Shares of pods that have failed hold a change of mode up for 15 s at most: whether their container ended at once,
    or their init container, which PodResources never shows, or the kubelet refused them when one of their containers
    had got its share.
    """
    waited = []
    for _ in range(options.times(4)):
        failing = [_fails(pods, number) for number in range(BATCH)]
        until(lambda failing=failing: {pods.phase(name) for name in failing} == {"Failed"})  # type: ignore[misc]
        if deleted:
            pods.end()
        begun = time.monotonic()
        written = pool.commit(exclusive())
        until(lambda written=written: pool.applied(written), within=AT_MOST)  # type: ignore[misc]
        waited.append(time.monotonic() - begun)
        pool.apply(pool.overlay.config)
        pods.forgotten(pool, SHARED)
    what = "are deleted" if deleted else "stay"
    figures.seconds(
        f"{BATCH} pods fail at once and {what}, then another mode: longest", max(waited), f"{len(waited)} times"
    )


def _fails(pods: Pods, number: int) -> str:
    """A pod that fails at once, in one of three ways."""
    if number % 3 == 0:
        return pods.create(SHARED, command=FAILS)
    # The second container asks for more than one may have, when the first one has its share.
    return pods.create(SHARED, command=FAILS, initial=True) if number % 3 == 1 else pods.create(SHARED, 1, 2)


def _let_users_go_on(seconds: float) -> None:
    """What is tested takes place meanwhile: there is no condition to wait for."""
    time.sleep(seconds)
