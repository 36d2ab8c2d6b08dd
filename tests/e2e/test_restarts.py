"""Kubelet and agent that are started again under pods that run."""

from __future__ import annotations

import subprocess

import pytest

from tests.e2e.cluster import Cluster, metadata
from tests.e2e.figures import Figures
from tests.e2e.options import Options
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import Probe
from tests.e2e.workload import Pods, shared
from tests.waiting import longer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

SHARED = "nvidia.com/gpu.shared"
DEVICES = 32


def test_the_kubelet_is_restarted(
    pool: Pool, pods: Pods, probe: Probe, cluster: Cluster, options: Options, figures: Figures
) -> None:
    """After each restart of the kubelet the agent has registered again, with the same devices; pods keep their shares,
    and run on as if nothing had been. A config that came meanwhile is followed.
    """
    if not options.restart_kubelet:
        pytest.skip("nothing says how the kubelet of the node is restarted: RESTART_KUBELET='…' (docs/e2e.md)")
    held = pods.several(6, SHARED)
    pods.running(*held)
    until(lambda: set(pool.held().values()) == set(held))
    before = pool.held()
    gaps = []
    for _ in range(options.times(10)):
        with probe.watching() as seen:
            old = probe.kubelet()
            subprocess.run(options.restart_kubelet, check=True, timeout=longer(120), capture_output=True)
            until(lambda old=old: probe.kubelet() not in {old, "None"})  # type: ignore[misc]
            until(lambda: pool.registered(SHARED))
            until(lambda: cluster.capacity() == {SHARED: DEVICES})
        gaps.append(sum(seen.at_zero(SHARED)))
        assert len([kubelet for kubelet in set(seen.kubelets) if kubelet is not None]) == 2, "it was not restarted"
        until(lambda: pool.held() == before)
        assert {pods.phase(name) for name in held} == {"Running"}
    assert pods.restarts() == 0
    pool.apply(shared(9))
    figures.seconds("kubelet restart: without devices, longest", max(gaps), f"{len(gaps)} restarts")


def test_the_agents_pod_is_deleted(pool: Pool, pods: Pods, cluster: Cluster) -> None:
    """Another agent goes on where the one before stopped: pods keep their shares and run on, what they have is given
    to nobody else, and the same devices are offered.
    """
    held = pods.several(6, SHARED)
    pods.running(*held)
    until(lambda: set(pool.held().values()) == set(held))
    before = pool.held()
    for grace in ("10", "0"):
        old = str(metadata(pool.pod()).name)
        cluster.kubectl(
            *("delete", "pod", "--namespace", pool.overlay.namespace, old, f"--grace-period={grace}"),
            *(["--force"] if grace == "0" else []),
        )
        until(lambda old=old: old not in [metadata(pod).name for pod in pool.pods()])  # type: ignore[misc]
        until(pool.ready)
        until(lambda: pool.held() == before)
        until(lambda: cluster.capacity() == {SHARED: DEVICES})
        assert {pods.phase(name) for name in held} == {"Running"}
    assert pods.restarts() == 0
    rest = pods.several(DEVICES - len(held), SHARED)
    pods.running(*rest)
    until(lambda: set(pool.held().values()) == {*held, *rest})
