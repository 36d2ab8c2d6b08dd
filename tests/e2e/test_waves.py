"""GPUs that change what they are, on a real kubelet: nothing is withdrawn before what replaces it can be had."""

from __future__ import annotations

import pytest

from tests.e2e.cluster import Cluster
from tests.e2e.figures import Figures
from tests.e2e.options import Options
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import Probe
from tests.e2e.workload import Pods, config, exclusive, shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SHARED, TWO = "nvidia.com/gpu.shared", "nvidia.com/gpu.two"
GPUS = 4


def test_a_change_of_mode_under_one_name(pool: Pool, probe: Probe, options: Options, figures: Figures) -> None:
    """GPUs that change their mode under one resource name do so in turns: at no moment has the name no device."""
    pool.apply(exclusive(resource=SHARED))
    changes = options.times(20)
    with probe.watching() as seen:
        for number in range(changes):
            pool.apply(exclusive(resource=SHARED) if number % 2 else shared(2))
    zero = seen.at_zero(SHARED)
    figures.add(
        "change of mode under one name: polls at zero",
        f"{len(zero)} of {seen.polls}",
        f"{changes} changes, one GPU of {GPUS} at a time",
    )
    assert zero == []
    assert min(seen.counts(SHARED)) >= GPUS - 1


def test_a_name_that_two_gpus_have(pool: Pool, probe: Probe, options: Options) -> None:
    """They change one after the other, however many may be unavailable: that name never has no device either."""
    rest = f"{{name: rest, resource: {SHARED}, timeSlicing: {{replicas: 8}}}}"
    two = f"{{name: two, match: {{indices: [0, 1]}}, resource: {TWO}, %s}}"
    both = [config(two % how, rest) + "  transition: {maxUnavailable: 100%}\n" for how in MODES]
    pool.apply(both[0])
    with probe.watching() as seen:
        for number in range(1, options.times(6) + 1):
            pool.apply(both[number % 2])
    assert seen.at_zero(TWO) == []
    assert seen.at_zero(SHARED) == []


MODES = ("timeSlicing: {replicas: 4}", "exclusive: {}")


def test_a_pod_on_each_gpu(pool: Pool, pods: Pods, probe: Probe, cluster: Cluster) -> None:
    """One GPU drains, and each of the others changes when its pod has ended; no pod is disturbed."""
    running = [*pods.several(GPUS, SHARED)]
    pods.running(*running)
    until(lambda: len(pool.held()) == GPUS)
    with probe.watching() as seen:
        written = pool.commit(exclusive(resource=SHARED))
        until(lambda: len(_waiting(pool, "wave")) == GPUS - 1)
        assert {pods.phase(name) for name in running} == {"Running"}
        for name in running:
            pods.end(name)
        until(lambda: pool.applied(written))
    assert seen.at_zero(SHARED) == []
    until(lambda: cluster.capacity() == {SHARED: GPUS})


def test_mps_without_a_host(pool: Pool, probe: Probe, cluster: Cluster, figures: Figures) -> None:
    """GPUs that are to come under MPS stay what they are while nobody could start their daemons, and say so; the agent
    is ready all the same.
    """
    before = cluster.capacity()
    rule = "{name: all, resource: nvidia.com/gpu.mps, mps: {replicas: 4}}"
    with probe.watching() as seen:
        pool.commit(config(rule))
        until(lambda: pool.condition("MpsReady")["reason"] == "HostAbsent")
        until(lambda: len(_waiting(pool, "daemon")) == GPUS)
        # Longer than the kubelet takes to report what it has.
        until(lambda: pool.ready() and cluster.capacity() == before)
        pool.apply(pool.overlay.config)
    assert seen.counts(SHARED) == [before[SHARED]]
    figures.add("MPS config without an MPS host", "devices stay", f"{before[SHARED]} of {before[SHARED]}")


def _waiting(pool: Pool, reason: str) -> list[str]:
    """The GPUs that wait for this."""
    return [wait["uuid"] for wait in pool.status()["plan"]["waits"] if wait["reason"] == reason]
