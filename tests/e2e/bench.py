"""The node of a run: found, checked, prepared, and given back as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from lightkube import ApiError, Client
from lightkube.core.exceptions import ConfigError
from lightkube.resources.apps_v1 import DaemonSet
from lightkube.resources.core_v1 import Event, Node

from tests.e2e.cluster import Cluster, configured, metadata, run_kubectl
from tests.e2e.options import Options
from tests.e2e.overlays import MADE_BY
from tests.e2e.patience import until
from tests.e2e.probe import NAMESPACE, CannotStartError, Probe

BEFORE: Final = "nodeagent.io/e2e-before"
"""Annotation of the Node, as long as a run uses it: what is to be put back."""

OURS: Final = ("nvidia.com/", "nodeagent.io/", "feature.node.kubernetes.io/pci-10de")
REAL: Final = {
    "nvidia.com/gpu.present": "true",
    "feature.node.kubernetes.io/pci-10de.present": "true",
    "feature.node.kubernetes.io/pci-0302_10de.present": "true",
    "feature.node.kubernetes.io/pci-0300_10de.present": "true",
}
CLUSTER_KINDS: Final = (
    "namespaces",
    "nodes",
    "clusterroles",
    "clusterrolebindings",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
)
"""What a run makes beside objects in its own namespaces."""


class RefusedError(Exception):
    """This cluster is not used; the message says why, and what would help."""


def connect(options: Options) -> Cluster:
    """The cluster of `$KUBECONFIG`, and the node. Raises RefusedError."""
    try:
        client = Client(configured())
        nodes = [*client.list(Node)]
    except (ConfigError, ApiError, OSError) as error:
        raise RefusedError(f"cannot use the cluster of $KUBECONFIG: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever the transport raises
        raise RefusedError(f"cannot reach the cluster of $KUBECONFIG: {error}") from None
    cluster = Cluster(client, choose(nodes, options.node), real_gpus=options.real_gpus)
    refuse_others(cluster, options)
    return cluster


def choose(nodes: list[Node], wanted: str) -> str:
    """The node to use: that one, or the only one on which pods are scheduled. Raises RefusedError."""
    names = sorted(str(metadata(node).name) for node in nodes)
    if wanted:
        if wanted not in names:
            raise RefusedError(f"there is no node {wanted}: expected one of {', '.join(names)}")
        return wanted
    free = sorted(str(metadata(node).name) for node in nodes if _takes_pods(node))
    if len(free) != 1:
        found = ", ".join(free) or "none"
        raise RefusedError(f"expected one node on which pods are scheduled, got {found}: name one with NODE=…")
    return free[0]


def _takes_pods(node: Node) -> bool:
    spec, status = node.spec, node.status
    taints = (spec.taints if spec else None) or ()
    ready = any(one.type == "Ready" and one.status == "True" for one in (status and status.conditions) or ())
    return (
        ready
        and not (spec and spec.unschedulable)
        and not [taint for taint in taints if taint.effect != "PreferNoSchedule"]
    )


def refuse_others(cluster: Cluster, options: Options) -> None:
    """Raises RefusedError where GPUs are real, or an agent is installed that no run has made."""
    found = metadata(cluster.node())
    if BEFORE in (found.annotations or {}):
        return  # what is there was left by a run that did not come to its end
    real = [f"{name}: {count}" for name, count in cluster.capacity().items()]
    real += [f"label {key}" for key, value in REAL.items() if (found.labels or {}).get(key) == value]
    if real and not options.real_gpus:
        raise RefusedError(
            f"the node {cluster.node_name} has GPUs ({', '.join(real)}): agents with simulated GPUs would take their "
            "place for every pod of the node. Name another node with NODE=…, or allow it with REAL_GPUS=1"
        )
    installed = [
        f"{metadata(one).namespace}/{metadata(one).name}"
        for one in cluster.client.list(DaemonSet, namespace="*", labels={"app.kubernetes.io/part-of": "nodeagent"})
        if MADE_BY not in (metadata(one).labels or {})
    ]
    if installed:
        raise RefusedError(f"the cluster has nodeagent installed ({', '.join(installed)}): use one that has not")


@contextmanager
def prepared(cluster: Cluster, options: Options) -> Iterator[Probe]:
    """The node with the probe on it, and in the end as it was. Raises RefusedError."""
    probe = Probe(cluster, options.image)
    interrupted = BEFORE in (metadata(cluster.node()).annotations or {})
    if not interrupted:
        cluster.patch_node({"metadata": {"annotations": {BEFORE: json.dumps(told(cluster.node()))}}})
    try:
        if interrupted:
            remove_agents(cluster)
        try:
            probe.start()
        except CannotStartError as error:
            raise RefusedError(str(error)) from None
        if interrupted:
            probe.wipe()
            put_back(cluster)
        elif left := probe.leftovers():
            raise RefusedError(
                f"the node {cluster.node_name} has what an agent has left there ({', '.join(left)}): it would be lost; "
                "see docs/install.md#removing"
            )
        yield probe
    finally:
        give_back(cluster)


def give_back(cluster: Cluster) -> None:
    """Remove what the run has made, and put back what it has changed. Raises AssertionError for what stays."""
    remove_agents(cluster)
    cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", within=300.0)
    for event in cluster.events():
        cluster.client.delete(Event, str(metadata(event).name), namespace="default")
    put_back(cluster)
    cluster.patch_node({"metadata": {"annotations": {BEFORE: None}}})
    left = cluster.made(CLUSTER_KINDS)
    assert not left, f"the run has left {left}"


def remove_agents(cluster: Cluster) -> None:
    """Remove every object that bears our label, but the probe and its namespace."""
    for name in cluster.made(CLUSTER_KINDS):
        if name != f"namespace/{NAMESPACE}":
            cluster.kubectl("delete", name, "--ignore-not-found", within=300.0)
    until(cluster.idle, within=300.0)


def told(node: Node) -> dict[str, dict[str, str]]:
    """What of a Node a run may change: labels and annotations of ours and of NVIDIA's."""
    meta = metadata(node)
    return {
        "labels": {key: value for key, value in (meta.labels or {}).items() if key.startswith(OURS)},
        "annotations": {
            key: value for key, value in (meta.annotations or {}).items() if key.startswith(OURS) and key != BEFORE
        },
    }


def put_back(cluster: Cluster) -> None:
    """Labels and annotations of the Node as they were before the run."""
    node = cluster.node()
    before: Mapping[str, Mapping[str, str]] = json.loads((metadata(node).annotations or {})[BEFORE])
    cluster.patch_node({"metadata": difference(told(node), before)})


def difference(
    now: Mapping[str, Mapping[str, str]], before: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str | None]]:
    """The merge patch that makes the one into the other.

    >>> difference({"labels": {"a": "1", "b": "2"}}, {"labels": {"b": "3"}})
    {'labels': {'a': None, 'b': '3'}}
    """
    return {
        field: {**dict.fromkeys(values.keys() - before[field].keys()), **dict(before[field])}
        for field, values in now.items()
    }


def where(cluster: Cluster, options: Options) -> list[str]:
    """Of what the figures are, a line each."""
    version: dict[str, Any] = json.loads(run_kubectl("version", "--output", "json").stdout)
    status = cluster.node().status
    assert status is not None
    info = status.nodeInfo
    assert info is not None
    kubernetes = version["serverVersion"]["gitVersion"]
    cores = (status.capacity or {}).get("cpu")
    return [
        f"Kubernetes {kubernetes}, kubelet {info.kubeletVersion}, {info.containerRuntimeVersion}",
        f"{info.osImage}, {info.kernelVersion}, {info.architecture}, {cores} cores",
        f"nodeagent from {options.image}",
    ]
