"""A config that changes, on a real kubelet."""

from __future__ import annotations

import time

import pytest

from tests.deploy.pools import simulated_node
from tests.e2e.cluster import Cluster, run_kubectl
from tests.e2e.figures import Figures
from tests.e2e.options import Options
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import NAMESPACE, Probe
from tests.e2e.workload import FAILS_WHEN_ASKED, Pods, exclusive, shared

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

SHARED = "nvidia.com/gpu.shared"
GPUS = 4
AT_MOST = 15.0
"""Seconds that a change of mode may wait for shares whose pods have failed."""


# First, since an agent has events for twenty things at once, and then for one in half a minute.
@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (shared(4).replace("replicas", "replica"), 'did you mean "replicas"'),
        (shared(4).replace("rules:", "rules: ["), "expected ] to close this ["),
        (shared(4).replace("replicas: 4", "replicas: -4"), "timeSlicing.replicas"),
    ],
    ids=["unknown key", "no YAML", "out of range"],
)
def test_a_wrong_config_keeps_the_last_good_one(
    pool: Pool, pods: Pods, probe: Probe, cluster: Cluster, wrong: str, says: str
) -> None:
    """A config that is wrong changes nothing for the kubelet and for pods. It is reported with its place: in the
    status, on the Node, in the log, by an event and, in a pool that wants that, by an agent that is not ready. A right
    one ends that.
    """
    held = pods.create(SHARED)
    pods.running(held)
    with probe.watching() as seen:
        pool.write(wrong)
        pool.nudging(lambda: pool.condition("ConfigAccepted")["status"] is False)
        until(lambda: cluster.labels().get("nodeagent.io/config.state") == "rejected")
        until(lambda: not pool.ready())
        until(
            lambda: [one for one in cluster.events() if one.reason == "ConfigRejected" and says in (one.message or "")]
        )
    assert seen.counts(SHARED) == [GPUS * 8]
    assert says in str(pool.status()["config"]["violations"])
    assert says in " ".join(line["message"] for line in pool.log())
    assert pods.phase(held) == "Running"
    assert cluster.capacity() == {SHARED: GPUS * 8}

    pool.apply(pool.overlay.config)
    until(pool.ready)
    until(lambda: cluster.labels()["nodeagent.io/config.state"] == "applied")


def test_more_and_fewer_without_a_moment_at_zero(pool: Pool, probe: Probe, options: Options, figures: Figures) -> None:
    """Replicas go up and down, and at no moment does the kubelet have no device to hand out."""
    changes = options.times(60)
    took = []
    with probe.watching() as seen:
        for number in range(changes):
            begun = time.monotonic()
            pool.commit(shared((10, 2, 6)[number % 3], remark=f"change {number}"))
            took.append(time.monotonic() - begun)
        pool.apply(shared(10, remark="the last"))
    assert seen.errors == []
    assert seen.at_zero(SHARED) == []
    assert seen.polls > changes
    assert {GPUS * 10, GPUS * 2} < {*seen.counts(SHARED)}
    figures.add("replicas up and down: polls at zero", f"0 of {seen.polls}", f"{changes} changes")
    figures.seconds("ConfigMap to accepted, p50, the kubelet nudged", sorted(took)[len(took) // 2])


def test_a_change_that_nobody_hurries(pool: Pool, probe: Probe, cluster: Cluster, figures: Figures) -> None:
    """A change of the ConfigMap alone reaches the scheduler, within the time that the kubelet takes for the mount and
    for its report.
    """
    begun = time.monotonic()
    written = pool.write(shared(3), nudge=False)
    until(lambda: (pool.status()["config"]["desired"] or {}).get("gitBlob") == written, within=300.0)
    accepted = time.monotonic() - begun
    until(lambda: cluster.capacity() == {SHARED: GPUS * 3})
    figures.seconds("ConfigMap to accepted, by the kubelet's own sync", accepted)
    figures.seconds("accepted to capacity of the Node", time.monotonic() - begun - accepted, "the kubelet's report")


def test_a_config_map_that_is_gone_changes_nothing(pool: Pool, pods: Pods, probe: Probe, cluster: Cluster) -> None:
    """Without its ConfigMap the agent keeps what is applied, and says that the document is missing."""
    held = pods.create(SHARED)
    pods.running(held)
    with probe.watching() as seen:
        pool.delete_config_map()
        pool.nudging(lambda: pool.condition("ConfigAccepted")["reason"] == "Missing")
        assert pool.status()["config"]["applied"] is not None
    pool.restore_config_map()
    pool.nudging(lambda: pool.condition("ConfigAccepted")["status"])
    assert seen.counts(SHARED) == [GPUS * 8]
    assert pods.phase(held) == "Running"


def test_one_gpu_is_lost(pool: Pool, pods: Pods, probe: Probe, cluster: Cluster) -> None:
    """A GPU that is lost takes its own shares away, and no other's; pods go on; when it is back it is whole."""
    (gpu,) = pool.overlay.gpus
    held = pods.several(GPUS, SHARED)
    pods.running(*held)
    with probe.watching() as seen:
        pool.simulate(simulated_node([{**gpu, "count": GPUS - 1}, {**gpu, "count": 1, "health": "lost"}]))
        pool.nudging(lambda: [one for one in pool.status()["gpus"] if one["health"] == "lost"])
        until(lambda: cluster.capacity() == {SHARED: (GPUS - 1) * 8})
        pool.simulate(simulated_node(pool.overlay.gpus))
        pool.nudging(lambda: not [one for one in pool.status()["gpus"] if one["health"] == "lost"])
        until(lambda: cluster.capacity() == {SHARED: GPUS * 8})
    assert seen.counts(SHARED) == [GPUS * 8, (GPUS - 1) * 8, GPUS * 8]
    assert {pods.phase(name) for name in held} == {"Running"}


@pytest.mark.parametrize("initial", [True, False], ids=["an init container", "a container"])
def test_a_pod_that_fails_in_a_drain(
    pool: Pool, pods: Pods, cluster: Cluster, figures: Figures, *, initial: bool
) -> None:
    """A share is free 15 s after its pod has failed, though that is not deleted: whether PodResources shows what a
    failed pod had, or has never shown it, as of an init container.
    """
    failing = pods.create(SHARED, command=FAILS_WHEN_ASKED, initial=initial)
    until(pool.held)
    written = pool.commit(exclusive())
    # Each list of devices makes the kubelet write its checkpoint, without the pods that have ended: let all be there.
    until(lambda: pool.registered("nvidia.com/gpu"))
    until(lambda: cluster.capacity().get("nvidia.com/gpu") == GPUS - 1)
    # That ends with the container, so that how it ends is chance.
    run_kubectl("exec", "--namespace", NAMESPACE, failing, "--container", "c0", "--", "sh", "-c", "kill 1")
    until(lambda: pods.phase(failing) == "Failed")
    begun = time.monotonic()
    until(lambda: pool.applied(written))
    waited = time.monotonic() - begun
    pool.apply(pool.overlay.config)
    pods.forgotten(pool, SHARED)
    what = "an init container" if initial else "a container"
    figures.seconds(f"{what} fails in a drain, its pod stays: held after that", waited)
    assert waited < AT_MOST


def test_a_flood_of_changes(pool: Pool, cluster: Cluster, options: Options, figures: Figures) -> None:
    """While the config changes every two seconds for a minute, to a wrong one in turn, no part of the agent has to be
    started again, and in the end the Node says what is so.
    """
    changes = options.times(30)
    for number in range(changes):
        text = shared(4 + number % 5, remark=f"flood {number}")
        pool.write(text.replace("replicas", "replica") if number % 3 == 2 else text)
        time.sleep(2.0)  # the flood itself: there is nothing to wait for
    written = pool.apply(shared(9, remark="after the flood"))
    begun = time.monotonic()
    until(lambda: cluster.labels().get("nodeagent.io/config.blob") == written[:12])
    until(lambda: pool.condition("LabelsSynced")["status"])
    figures.seconds("a minute of changes: the label of the last", time.monotonic() - begun, f"{changes} changes")
    assert [line["message"] for line in pool.log() if "starting it again" in line["message"]] == []
    assert pool.restarts() == 0
    assert pool.condition("LabelsSynced")["reason"] == "Synced"
