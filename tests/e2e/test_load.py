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


def test_pods_that_fail_at_once_and_then_a_change_of_mode(
    pool: Pool, pods: Pods, options: Options, figures: Figures
) -> None:
    """Shares of pods that have failed hold a change of mode up for 15 s at most, whether their container ended at once,
    or the kubelet refused them when one of their containers had got its share.
    """
    waited = []
    for _ in range(options.times(5)):
        failing = [*pods.several(18, SHARED, command=FAILS), pods.create(SHARED, 1, 2), pods.create(SHARED, 1, 2)]
        until(lambda failing=failing: {pods.phase(name) for name in failing} == {"Failed"})  # type: ignore[misc]
        begun = time.monotonic()
        written = pool.commit(exclusive())
        until(lambda written=written: pool.applied(written), within=15.0)  # type: ignore[misc]
        waited.append(time.monotonic() - begun)
        pool.apply(pool.overlay.config)
        pods.forgotten(pool, SHARED)
    figures.seconds("20 pods fail at once, then a change of mode: longest", max(waited), f"{len(waited)} times")


def _let_users_go_on(seconds: float) -> None:
    """What is tested takes place meanwhile: there is no condition to wait for."""
    time.sleep(seconds)
