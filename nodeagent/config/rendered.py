"""What was put together in vain in rendered manifests: valid by every schema, and it does not work.

Components of kustomize are listed one after another, and one that changes what another brings in has to come after it;
some have another half, some exclude each other. kustomize says nothing of that, so that it is noted here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from nodeagent.config.configmap import Mount, called, identity
from nodeagent.config.search import Found
from nodeagent.config.selection import REVISION_NAME
from nodeagent.config.workloads import AGENT, MPS_HOST, Manifest, Process, items, mounted, part, processes, table
from nodeagent.model.config import Mode, SharingConfig

_ACCESS: Final = "driver-access/runtime-class (or driver-access/driver-root)"
_FILES: Final = "the driver's files"
_LABELS_API: Final = "nodeagent.io/labels-api"
_WAIT: Final = "wait-for-driver"
_MOST: Final = 50
_HASHED: Final = re.compile(r"-[bcdfghkmt2456789]{10}$")
"""How kustomize's hashes look."""


def notes(manifests: Sequence[Manifest], found: Sequence[Found]) -> tuple[str, ...]:
    """A note for each thing that does not work together among these, whose configs were `found`."""
    ours = processes(manifests)
    if not ours:
        return ()
    by_config_map = mounted(manifests)
    told: list[str] = []
    for process in ours:
        told += _driver(process, ours)
        if process.command == AGENT:
            told += _config(process, _configs(process, by_config_map, found), ours)
            told += _labels(process)
            told += _api(process, manifests)
            told += _canaries(process, manifests)
            told += _same_nodes(process, ours)
        else:
            told += _host(process, ours)
    told += _unmounted(by_config_map, manifests, found)
    told += _hashed(by_config_map, manifests)
    once = list(dict.fromkeys(told))
    more = [f"{len(once) - _MOST} more things do not work together"] if len(once) > _MOST else []
    return (*once[:_MOST], *more)


def _beside(process: Process, ours: Sequence[Process], command: str) -> list[Process]:
    """Those of a command that belong to the same pool."""
    return [
        one
        for one in ours
        if one.command == command
        and _alike(one.namespace, process.namespace)
        and _alike(one.instance, process.instance)
    ]


def _alike(one: str, other: str) -> bool:
    """Whether two may be the same: what is empty is not said yet."""
    return one == other or not (one and other)


def _configs(
    agent: Process, by_config_map: Mapping[tuple[str, str], Sequence[Mount]], found: Sequence[Found]
) -> list[SharingConfig]:
    """What an agent may be told to do by what is rendered with it."""
    keys: dict[tuple[str, str], set[str]] = {}
    for one in found:
        if one.owner is not None:
            keys.setdefault(one.owner[:2], set()).add(one.owner[2])
    return [
        one.loaded.config
        for one in found
        if one.loaded.config is not None and one.owner is not None
        for mount in by_config_map.get(one.owner[:2], ())
        if mount.agent == agent.name and (mount.by_label or mount.reads(keys[one.owner[:2]]) == one.owner[2])
    ]


def _driver(process: Process, ours: Sequence[Process]) -> Iterator[str]:
    """One way to the driver, and one alone."""
    if process.simulated:
        return
    ways = [*process.accesses()]
    others = [one for one in _beside(process, ours, AGENT) if any(one.accesses())]
    if not ways:
        late = process.command == MPS_HOST and others
        yield f"{process.name} has no access to the driver: list {_ACCESS}{' after mps' if late else ''}"
    elif len(ways) > 1:
        yield f"{process.name} has access to the driver by {' and '.join(ways)}: list one component of driver-access"
    if process.pod.get("runtimeClassName") and not process.environment.get("NVIDIA_VISIBLE_DEVICES"):
        yield f"{process.name} has a runtime class and no NVIDIA_VISIBLE_DEVICES, without which it brings no driver in"
    if _FILES not in ways:
        return
    if process.command == AGENT and _beside(process, ours, MPS_HOST) and not process.option("--mps-control"):
        yield f"{process.name} has no NODEAGENT_MPS_CONTROL, for MPS: list driver-access/driver-root after mps"
    if not table(process.container, "securityContext").get("privileged"):
        yield f"{process.name} has the driver's files and no privilege, without which the node refuses it the GPUs"
    if _waits(process):
        yield f"{process.name} waits for the driver of the GPU operator and has the node's: take runtime-class with it"


def _waits(process: Process) -> bool:
    return any(one.get("name") == _WAIT for one in items(process.pod, "initContainers"))


def _host(host: Process, ours: Sequence[Process]) -> Iterator[str]:
    """An MPS host is where its agent looks, and comes when it does."""
    agents = _beside(host, ours, AGENT)
    if not _waits(host) and any(_waits(agent) for agent in agents):
        yield f"{host.name} does not wait for the GPU operator's driver, as its agent does: list gpu-operator after mps"
    if agents and all(agent.option("--mps-root") != host.option("--mps-root") for agent in agents):
        yield f"{host.name} and {agents[0].name} have two directories for MPS (--mps-root): both need the same"


def _same_nodes(agent: Process, ours: Sequence[Process]) -> Iterator[str]:
    """Two agents of which a node gets both: the second waits for the first, for ever."""
    where = agent.pod.get("nodeSelector"), agent.pod.get("affinity")
    for one in ours[ours.index(agent) + 1 :]:
        if one.command == AGENT and (one.pod.get("nodeSelector"), one.pod.get("affinity")) == where:
            yield f"{agent.name} and {one.name} are for the same nodes, and a node takes one agent: tell them apart"


def _config(agent: Process, configs: Sequence[SharingConfig], ours: Sequence[Process]) -> Iterator[str]:
    """What configs ask for that the agent has not."""
    rules = [rule for config in configs for rule in config.rules]
    if any(rule.mode is Mode.MPS for rule in rules):
        kept = agent.option("--mps-host") or "off"
        if kept == "off":
            yield f"the config of {agent.name} shares GPUs by MPS, and it has --mps-host off: list the component mps"
        elif kept == "external" and not _beside(agent, ours, MPS_HOST):
            yield f"the config of {agent.name} shares GPUs by MPS, and there is no MPS host: list the component mps"
    monitors = bool(agent.environment.get("NVIDIA_MIG_MONITOR_DEVICES"))
    privileged = bool(table(agent.container, "securityContext").get("privileged"))
    if any(rule.match.mig_only for rule in rules) and not (monitors or privileged or agent.simulated):
        yield f"the config of {agent.name} speaks of MIG devices, which it may not see: list the component mig"


def _labels(agent: Process) -> Iterator[str]:
    labels = agent.option("--labels")
    by_file = any(path.rstrip("/").endswith("node-feature-discovery/features.d") for path in agent.host_paths)
    by_api = str(agent.labels.get(_LABELS_API)) == "true" or labels == "api"
    if by_api and (by_file or labels.startswith("nfd:")):
        told = labels or "off"
        yield f"{agent.name} has labels-api and labels-nfd, which write the same labels, and does {told}: list only one"
    if labels == "api" and not agent.speaks:
        yield f"{agent.name} has --labels api, and does not speak to the Kubernetes API: list labels-api"


def _api(agent: Process, manifests: Sequence[Manifest]) -> Iterator[str]:
    if not agent.speaks or agent.option("--kubeconfig"):
        return
    account = str(agent.pod.get("serviceAccountName") or "default")
    if agent.pod.get("automountServiceAccountToken") is False:
        yield f"{agent.name} speaks to the Kubernetes API, and gets no token (automountServiceAccountToken: false)"
    bound = {
        (str(subject.get("namespace") or ""), str(subject.get("name")))
        for manifest in manifests
        if str(manifest.get("kind")) in {"ClusterRoleBinding", "RoleBinding"}
        for subject in items(manifest, "subjects")
    }
    if not any(name == account and _alike(namespace, agent.namespace) for namespace, name in bound):
        yield f"{agent.name} speaks to the Kubernetes API, and no role is bound to its account {account}: list kube-api"


def _canaries(agent: Process, manifests: Sequence[Manifest]) -> Iterator[str]:
    """Jobs that ask whether nodes have accepted a config."""
    jobs = [one for one in manifests if one.get("kind") == "Job" and _alike(identity(one)[0], agent.namespace)]
    parts = {str(part(job, "metadata", "labels", "app.kubernetes.io/component")): job for job in jobs}
    if "canary-wait" in parts and agent.option("--labels") in {"", "off"}:
        yield (
            f"{called(parts['canary-wait'])} waits for labels of nodes, which {agent.name} does not write: list"
            " labels-api or labels-nfd, or take canary-check"
        )
    if "canary-check" in parts:
        policies = [
            one
            for one in manifests
            if one.get("kind") == "NetworkPolicy"
            and _alike(identity(one)[0], agent.namespace)
            and items(one, "spec", "ingress")
        ]
        opened = [
            part(source, "podSelector", "matchLabels", "app.kubernetes.io/name")
            for policy in policies
            for rule in items(policy, "spec", "ingress")
            for source in items(rule, "from")
        ]
        if policies and "nodeagent-canary-check" not in opened:
            yield f"{called(parts['canary-check'])} may not reach {agent.name}: list canary-check after network-policy"


def _hashed(by_config_map: Mapping[tuple[str, str], Sequence[Mount]], manifests: Sequence[Manifest]) -> Iterator[str]:
    """A revision in a ConfigMap whose name follows its content: every commit is another name."""
    for one in manifests:
        mounts = by_config_map.get(identity(one), ())
        if mounts and _HASHED.search(identity(one)[1]) and REVISION_NAME in table(one, "data"):
            yield (
                f"{called(one)} has a {REVISION_NAME} in it, and a name that follows its content: every commit replaces"
                f" the pods of {mounts[0].agent}; list one of rollout-on-change and argocd-revision"
            )


def _unmounted(
    by_config_map: Mapping[tuple[str, str], Sequence[Mount]], manifests: Sequence[Manifest], found: Sequence[Found]
) -> Iterator[str]:
    """An agent whose ConfigMap is not there, beside one that nobody has."""
    there = {identity(one) for one in manifests if one.get("kind") == "ConfigMap"}
    used = {
        (identity(one)[0], str(table(volume, "configMap").get("name")))
        for one in manifests
        for volume in items(one, "spec", "template", "spec", "volumes")
        if table(volume, "configMap")
    }
    left = dict.fromkeys(one.owner[:2] for one in found if one.owner is not None and one.owner[:2] not in used)
    for (namespace, name), mounts in by_config_map.items():
        if (namespace, name) not in there and left:
            others = ", ".join("/".join(filter(None, one)) for one in left)
            wanted = "/".join(filter(None, (namespace, name)))
            yield f"{mounts[0].agent} has the ConfigMap {wanted}, which is not among these; nobody has {others}"
