"""The node of a run: found, checked, prepared, and given back as it was."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Final

from lightkube import ApiError, Client
from lightkube.core.exceptions import ConfigError
from lightkube.resources.apps_v1 import DaemonSet
from lightkube.resources.core_v1 import Event, Node

from tests.e2e.cluster import Cluster, configured, metadata, run_kubectl
from tests.e2e.options import Options
from tests.e2e.overlays import MADE_BY, cluster_scoped
from tests.e2e.patience import until
from tests.e2e.probe import NAMESPACE, CannotStartError, Probe

BEFORE: Final = "nodeagent.io/e2e-before"
"""Annotation of the Node, as long as a run uses it: what is to be put back."""

CHECKED: Final = "checked"

OLDEST: Final = (1, 30)
"""The first Kubernetes that serves admission policies as `v1`, and says in a pod's token on which node it is."""

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
    refuse_old(server_version())
    cluster = Cluster(client, choose(nodes, options.node), real_gpus=options.real_gpus)
    refuse_others(cluster, options)
    return cluster


def server_version() -> dict[str, str]:
    """Which Kubernetes it is."""
    return dict(json.loads(run_kubectl("version", "--output", "json").stdout)["serverVersion"])


def refuse_old(version: Mapping[str, str]) -> None:
    """Raises RefusedError for a Kubernetes that lacks what the suite tries. Some add a sign to the minor version."""
    found = tuple(int(re.sub(r"\D", "", version[part])) for part in ("major", "minor"))
    if found < OLDEST:
        raise RefusedError(f"expected Kubernetes {OLDEST[0]}.{OLDEST[1]} or newer, got {version['gitVersion']}")


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
    """Raises RefusedError where something is in the cluster that a run would take for its own, and remove."""
    annotations = {str(metadata(node).name): metadata(node).annotations or {} for node in cluster.client.list(Node)}
    elsewhere = sorted(name for name, found in annotations.items() if BEFORE in found and name != cluster.node_name)
    if elsewhere:
        raise RefusedError(
            f"the node {elsewhere[0]} is in use by a run that has not come to its end: NODE={elsewhere[0]}"
        )
    agents = cluster.client.list(DaemonSet, namespace="*", labels={"app.kubernetes.io/part-of": "nodeagent"})
    refuse_foreign([f"daemonset {metadata(one).namespace}/{metadata(one).name}" for one in agents if _foreign(one)])
    asked = sorted(cluster_scoped() | {f"Namespace/{NAMESPACE}"})
    text = cluster.kubectl("get", *asked, "--ignore-not-found", "--output", "json") or "{}"
    found = json.loads(text)
    refuse_foreign(
        [
            f"{one['kind']} {one['metadata']['name']}"
            for one in found.get("items", [found] if found else [])
            if MADE_BY not in one["metadata"].get("labels", {})
        ]
    )
    if BEFORE not in annotations[cluster.node_name]:
        refuse_cards(cluster, [] if options.real_gpus else gpus(cluster))


def _foreign(one: DaemonSet) -> bool:
    return MADE_BY not in (metadata(one).labels or {})


def refuse_foreign(found: list[str]) -> None:
    """Raises RefusedError when there is something that no run has made."""
    if found:
        raise RefusedError(
            f"the cluster has what a run would take over, and remove: {', '.join(sorted(found))}; use another one"
        )


def gpus(cluster: Cluster) -> list[str]:
    """What of a Node says that it has GPUs: devices that somebody offers, and labels."""
    found = [f"{name}: {count}" for name, count in cluster.capacity().items()]
    labels = cluster.labels()
    return found + [f"label {key}" for key, value in REAL.items() if labels.get(key) == value]


def refuse_cards(cluster: Cluster, real: list[str]) -> None:
    """Raises RefusedError when something says that the node has GPUs."""
    if real:
        raise RefusedError(
            f"the node {cluster.node_name} has GPUs ({', '.join(real)}): agents with simulated GPUs would take their "
            "place for every pod of the node. Name another node with NODE=…, or allow it with REAL_GPUS=1"
        )


@contextmanager
def prepared(cluster: Cluster, options: Options) -> Iterator[Probe]:
    """The node with the probe on it, and in the end as it was. Raises RefusedError."""
    probe = Probe(cluster, options.image)
    left_by_us = marked(cluster)
    if left_by_us is None:
        mark(cluster, {**changeable(cluster.node()), CHECKED: False})
    try:
        if left_by_us is not None:
            remove_agents(cluster)
            cluster.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", within=300.0)
            put_back(cluster)
            refuse_cards(cluster, [] if options.real_gpus else gpus(cluster))
        try:
            probe.start()
        except CannotStartError as error:
            raise RefusedError(str(error)) from None
        refuse_cards(cluster, [] if options.real_gpus else probe.cards())
        if left_by_us is not None and left_by_us[CHECKED]:
            probe.wipe()
        if left := probe.leftovers():
            raise RefusedError(
                f"the node {cluster.node_name} has what an agent has left there ({', '.join(left)}): it would be lost; "
                "see docs/install.md#removing"
            )
        mark(cluster, {**(marked(cluster) or {}), CHECKED: True})
        yield probe
    finally:
        give_back(cluster, probe)


def give_back(cluster: Cluster, probe: Probe) -> None:
    """Remove what the run has made, and put back what it has changed: each step, also when one before it has failed.
    The mark goes last, so that what stays is the next run's to remove. Raises AssertionError for what stays.
    """
    before = marked(cluster)
    assert before is not None
    with ExitStack() as steps:  # the last one first
        steps.callback(put_back, cluster)
        steps.callback(forget_events, cluster)
        steps.callback(cluster.kubectl, "delete", "namespace", NAMESPACE, "--ignore-not-found", within=300.0)
        if before[CHECKED]:
            steps.callback(probe.clean)
        steps.callback(remove_agents, cluster)
    left = [*cluster.made(CLUSTER_KINDS), *(str(metadata(event).name) for event in cluster.events())]
    assert not left, f"the run has left {left}"
    now = changeable(cluster.node())
    assert now == {field: before[field] for field in now}, "the run has left the Node changed"
    mark(cluster, None)


def forget_events(cluster: Cluster) -> None:
    """Remove the events of agents about the Node."""
    for event in cluster.events():
        cluster.client.delete(Event, str(metadata(event).name), namespace="default")


def marked(cluster: Cluster) -> dict[str, Any] | None:
    """What a run has noted on the Node, to be put back; None when no run uses it. `CHECKED` is whether there was found
    to be nothing of an agent on the node before: what is there then was left by a run.
    """
    text = (metadata(cluster.node()).annotations or {}).get(BEFORE)
    return None if text is None else dict(json.loads(text))


def mark(cluster: Cluster, note: Mapping[str, Any] | None) -> None:
    """Note that on the Node; None takes the note away."""
    cluster.patch_node({"metadata": {"annotations": {BEFORE: None if note is None else json.dumps(note)}}})


def remove_agents(cluster: Cluster) -> None:
    """Remove every object with our label, but the probe and its namespace; wait until nothing is offered."""
    for name in cluster.made(CLUSTER_KINDS):
        if name != f"namespace/{NAMESPACE}":
            cluster.kubectl("delete", name, "--ignore-not-found", within=300.0)
    until(cluster.idle, within=300.0)


def changeable(node: Node) -> dict[str, dict[str, str]]:
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
    before = marked(cluster)
    assert before is not None
    cluster.patch_node({"metadata": difference(changeable(cluster.node()), before)})


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
    status = cluster.node().status
    assert status is not None
    info = status.nodeInfo
    assert info is not None
    kubernetes = server_version()["gitVersion"]
    cores = (status.capacity or {}).get("cpu")
    return [
        f"Kubernetes {kubernetes}, kubelet {info.kubeletVersion}, {info.containerRuntimeVersion}",
        f"{info.osImage}, {info.kernelVersion}, {info.architecture}, {cores} cores",
        f"nodeagent from {options.image}",
    ]
