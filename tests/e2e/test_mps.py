"""The component `mps`: NVIDIA's own control daemon, in real pods."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lightkube.resources.apps_v1 import DaemonSet
from lightkube.resources.core_v1 import Pod

from tests.e2e.cluster import Cluster, made_of, metadata
from tests.e2e.conftest import Install
from tests.e2e.figures import Figures
from tests.e2e.overlays import A100_INFERENCE
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import NAMESPACE, Probe
from tests.e2e.workload import Pods, config

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

MPS, SHARED, WHOLE = "nvidia.com/gpu.mps", "nvidia.com/gpu.shared", "nvidia.com/gpu"
HOST = {"app.kubernetes.io/name": "nodeagent-mps-host"}
GPUS = 8


@pytest.fixture(scope="module")
def installed_mps(install: Install, cluster: Cluster) -> Iterator[Pool]:
    """The pool `a100-inference`: six of eight GPUs under MPS."""
    with install(A100_INFERENCE) as pool:
        until(pool.ready)
        yield pool


@pytest.fixture
def pool(installed_mps: Pool, pods: Pods, cluster: Cluster) -> Iterator[Pool]:
    """That pool as it is installed, applied, and used by nobody."""
    installed_mps.apply(A100_INFERENCE.config)
    until(lambda: cluster.capacity() == A100_INFERENCE.offered)
    yield installed_mps
    pods.end()


def daemons(pool: Pool) -> dict[str, str]:
    """Which daemon each GPU has that has one: every start has a pipe directory of its own."""
    there = [gpu["uuid"] for gpu in pool.status()["gpus"] if gpu["daemon"] and gpu["daemon"]["state"] == "ready"]
    pipes = [f"/run/nodeagent/mps/{uuid}/pipe" for uuid in there]
    pod = str(metadata(pool.pod()).name)
    printed = pool.cluster.kubectl("exec", "--namespace", pool.overlay.namespace, pod, "--", "stat", "-c", "%i", *pipes)
    return dict(zip(there, printed.split(), strict=True))


def waits(pool: Pool, reason: str) -> list[str]:
    """The GPUs that wait for this."""
    return [wait["uuid"] for wait in pool.status()["plan"]["waits"] if wait["reason"] == reason]


@contextmanager
def without_host(pool: Pool) -> Iterator[float]:
    """The MPS host is taken away, and comes back in the end; when it had ended."""
    client, namespace = pool.cluster.client, pool.overlay.namespace
    (host,) = client.list(DaemonSet, namespace=namespace, labels=dict(HOST))
    found = metadata(host)
    client.delete(DaemonSet, str(found.name), namespace=namespace)
    until(lambda: not [*client.list(Pod, namespace=namespace, labels=dict(HOST))])
    ended = time.monotonic()
    try:
        yield ended
    finally:
        place = {"name": found.name, "namespace": namespace, "labels": found.labels, "annotations": found.annotations}
        client.create(made_of(DaemonSet, metadata=place, spec=host.to_dict()["spec"]))
        until(pool.ready)


def test_a_pod_gets_its_part_of_a_gpu(pool: Pool, pods: Pods, cluster: Cluster) -> None:
    """A pod with a share finds the daemon of its GPU, the limits of its share, and the memory that clients share."""
    name = pods.create(MPS)
    pods.running(name)
    inside = ("exec", "--namespace", NAMESPACE, name, "--")
    environment = dict(line.partition("=")[::2] for line in cluster.kubectl(*inside, "env").splitlines())
    assert environment["NVIDIA_VISIBLE_DEVICES"] in daemons(pool)
    assert environment["CUDA_MPS_PIPE_DIRECTORY"] == "/mps/pipe"
    assert environment["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=9216M"
    assert environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "50"
    assert "control" in cluster.kubectl(*inside, "ls", "/mps/pipe").split()
    mounted = [line.split()[1] for line in cluster.kubectl(*inside, "cat", "/proc/mounts").splitlines()]
    assert {"/mps/pipe", "/dev/shm"} <= {*mounted}


def test_daemons_outlive_the_agent(pool: Pool, pods: Pods, cluster: Cluster) -> None:
    """Another agent takes over the daemons that run, and ends none; the pods of their GPUs run on."""
    held = pods.several(2, MPS)
    pods.running(*held)
    before = daemons(pool)
    assert len(before) == 6
    cluster.kubectl(
        *("delete", "pod", "--namespace", pool.overlay.namespace, str(metadata(pool.pod()).name)),
    )
    until(pool.ready)
    until(lambda: cluster.capacity() == A100_INFERENCE.offered)
    until(lambda: daemons(pool) == before)
    assert {pods.phase(name) for name in held} == {"Running"}


def test_a_gpu_leaves_mps_and_comes_back(
    pool: Pool, pods: Pods, probe: Probe, cluster: Cluster, figures: Figures
) -> None:
    """GPUs that leave MPS and come under it again change nothing for the pods and the daemons of others."""
    held = pods.create(MPS)
    pods.running(held)
    until(lambda: len(pool.held()) == 1)
    (share,) = pool.held()
    used = share.partition("::")[0]
    index = next(gpu["index"] for gpu in pool.status()["gpus"] if gpu["uuid"] == used)
    before = daemons(pool)
    rule = (
        f"{{name: services, match: {{indices: [{index}]}}, resource: {MPS}, "
        "mps: {replicas: 4, memoryPerReplica: 9Gi, threadPercentage: 50}}"
    )
    rest = f"{{name: rest, resource: {SHARED}, timeSlicing: {{replicas: 8}}, maxSharesPerContainer: 1}}"
    with probe.watching() as seen:
        pool.apply(config(rule, rest, name="a100-inference"))
        until(lambda: cluster.capacity() == {MPS: 4, SHARED: (GPUS - 1) * 8})
        assert daemons(pool) == {used: before[used]}
        pool.apply(A100_INFERENCE.config)
        until(lambda: cluster.capacity() == A100_INFERENCE.offered)
    assert daemons(pool)[used] == before[used]
    assert not seen.at_zero(MPS)
    assert not seen.at_zero(SHARED)
    assert pods.phase(held) == "Running"
    figures.add("MPS: GPUs that left it and came back", "5 of 6", "the pod on the sixth, and its daemon, not touched")


def test_mps_waits_for_its_host(pool: Pool, probe: Probe, cluster: Cluster, figures: Figures) -> None:
    """Without the MPS host GPUs stay what they are, and go on by themselves when there is one. When the rules and the
    host leave together, the GPUs are back soon after the host's end, and need nobody to clean up.
    """
    free = config(f"{{name: rest, resource: {SHARED}, timeSlicing: {{replicas: 10}}}}", name="a100-inference")
    under = config(f"{{name: all, resource: {SHARED}, mps: {{replicas: 4}}}}", name="a100-inference")
    whole = config("{name: all, exclusive: {}}", name="a100-inference")
    pool.apply(free)
    until(lambda: cluster.capacity() == {SHARED: GPUS * 10})

    with without_host(pool):
        with probe.watching() as seen:
            written = pool.commit(under)
            until(lambda: pool.condition("MpsReady")["reason"] == "HostAbsent")
            until(lambda: len(waits(pool, "daemon")) == GPUS)
            # Longer than the kubelet takes to report what it has.
            until(lambda: pool.ready() and cluster.capacity() == {SHARED: GPUS * 10})
        assert seen.counts(SHARED) == [GPUS * 10]
    with probe.watching() as seen:
        until(lambda: pool.applied(written), within=120.0)
    assert seen.at_zero(SHARED) == []
    assert len(daemons(pool)) == GPUS

    with without_host(pool) as ended:
        written = pool.commit(whole)
        until(lambda: pool.registered(WHOLE) and len(pool.shares()) == GPUS and not waits(pool, "daemon"))
        back = time.monotonic() - ended
        assert pool.condition("MpsReady")["reason"] == "ComputeModeLeft"
    figures.seconds("MPS host and rules leave together: whole GPUs are back after", back)
    assert back < 15.0
