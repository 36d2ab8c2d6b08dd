"""What was put together in vain in rendered manifests: valid by every schema, and it does not work.

Components of kustomize are listed one after another, and one that changes what another brings in has to come after it;
some have another half, some exclude each other. kustomize says nothing of that, so that it is noted here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, TypeVar

from nodeagent.config.configmap import KINDS
from nodeagent.config.mounted import Mount, Reference, reference
from nodeagent.config.search import Found
from nodeagent.config.selection import REVISION_NAME, file_names
from nodeagent.config.workloads import (
    AGENT,
    MOST,
    MPS_HOST,
    Manifest,
    Process,
    called,
    identity,
    items,
    part,
    table,
)
from nodeagent.documents.tree import brief
from nodeagent.model.config import Mode
from nodeagent.model.node import Selection

_ACCESS: Final = "driver-access/runtime-class (or driver-access/driver-root)"
_FILES: Final = "the driver's files"
_LABELS_API: Final = "nodeagent.io/labels-api"
_WAIT: Final = "wait-for-driver"
_MOST: Final = 50
_LISTED: Final = 6
_APP: Final = "app.kubernetes.io/name"
_CHECK: Final = "nodeagent-canary-check"
_MPS: Final = "MPS"
_MIG: Final = "MIG"
_HASHED: Final = re.compile(r"-[bcdfghkmt2456789]{10}$")
"""How kustomize's hashes look."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Those:
    """What is to be known of the processes of one command in a pool."""

    first: Process | None
    access: bool = False
    waiting: bool = False
    mps_roots: frozenset[str | None] = frozenset()


class _Whole:
    """All that is rendered together. What concerns several is worked out once, however many ask for it."""

    def __init__(self, ours: Sequence[Process], manifests: Sequence[Manifest]) -> None:
        self._ours: dict[str, list[tuple[Process, bool, bool, str | None]]] = {}
        for one in ours:
            facts = (one, any(one.accesses()), _waits(one), one.told("--mps-root"))
            self._ours.setdefault(one.command, []).append(facts)
        self._beside: dict[tuple[str, str, str], _Those] = {}
        self.bound: dict[str, set[str]] = {}
        """Accounts with a role, each with its namespaces."""
        self.jobs: dict[str, dict[str, Manifest]] = {}
        """By component: the first in each namespace."""
        self.policies: dict[str, bool] = {}
        """Whether those of a namespace that let anybody in let canary-check in."""
        for manifest in manifests:
            self._note(manifest)

    def _note(self, manifest: Manifest) -> None:
        kind, namespace = manifest.get("kind"), identity(manifest)[0]
        if kind in ("ClusterRoleBinding", "RoleBinding"):
            for subject in items(manifest, "subjects"):
                self.bound.setdefault(str(subject.get("name")), set()).add(str(subject.get("namespace") or ""))
        elif kind == "Job":
            component = str(part(manifest, "metadata", "labels", "app.kubernetes.io/component"))
            self.jobs.setdefault(component, {}).setdefault(namespace, manifest)
        elif kind == "NetworkPolicy" and (rules := items(manifest, "spec", "ingress")):
            sources = [part(one, "podSelector", "matchLabels", _APP) for rule in rules for one in items(rule, "from")]
            self.policies[namespace] = self.policies.get(namespace, False) or _CHECK in sources

    def beside(self, process: Process, command: str) -> _Those:
        """Those of a command that belong to the same pool."""
        key = process.namespace, process.instance, command
        if key not in self._beside:
            found = [
                one
                for one in self._ours.get(command, ())
                if _alike(one[0].namespace, process.namespace) and _alike(one[0].instance, process.instance)
            ]
            self._beside[key] = _Those(
                found[0][0] if found else None,
                any(access for _, access, _, _ in found),
                any(waiting for _, _, waiting, _ in found),
                frozenset(root for _, _, _, root in found),
            )
        return self._beside[key]

    def job(self, component: str, namespace: str) -> Manifest | None:
        """The Job of a component in a namespace."""
        return _of(self.jobs.get(component, {}), namespace)

    def kept_out(self, namespace: str) -> bool:
        """Whether policies of a namespace let others in, and not canary-check."""
        opened = [let for where, let in self.policies.items() if _alike(where, namespace)]
        return bool(opened) and not any(opened)


def _of(found: Mapping[str, _T], namespace: str) -> _T | None:
    """What belongs to a namespace, or may belong to it."""
    if not namespace:
        return next(iter(found.values()), None)
    return found.get(namespace, found.get(""))


def notes(
    manifests: Sequence[Manifest],
    found: Sequence[Found],
    ours: Sequence[Process],
    by_config_map: Mapping[Reference, Sequence[Mount]],
) -> tuple[str, ...]:
    """A note for each thing that does not work together among these, whose configs were `found`. `ours` are the agents
    and MPS hosts among them, `by_config_map` is what those have mounted.
    """
    if not ours:
        return ()
    whole = _Whole(ours, manifests)
    asked = _asked(by_config_map, found)
    told: list[str] = []
    for process in ours:
        told += _driver(process, whole)
        if process.command == AGENT:
            told += _config(process, asked.get(process.name, set()), whole)
            told += _labels(process)
            told += _api(process, whole)
            told += _canaries(process, whole)
        else:
            told += _host(process, whole)
    told += _same_nodes(ours)
    told += _unmounted(by_config_map, manifests, found)
    told += _hashed(by_config_map, manifests)
    once = list(dict.fromkeys(told))
    more = [f"{len(once) - _MOST} more things do not work together"] if len(once) > _MOST else []
    more += [f"no more than {MOST} agents and MPS hosts are looked at"] if len(ours) == MOST else []
    return (*once[:_MOST], *more)


def _alike(one: str, other: str) -> bool:
    """Whether two may be the same: what is empty is not said yet."""
    return one == other or not (one and other)


def _asked(by_config_map: Mapping[Reference, Sequence[Mount]], found: Sequence[Found]) -> dict[str, set[str]]:
    """What agents may be told to do by what is rendered with them, by their names: MPS, MIG."""
    configs: dict[Reference, dict[str, set[str]]] = {}
    for one in found:
        if one.owner is not None:
            rules = one.loaded.config.rules if one.loaded.config is not None else ()
            asks = {_MPS for rule in rules if rule.mode is Mode.MPS} | {_MIG for rule in rules if rule.match.mig_only}
            configs.setdefault(one.owner[0], {})[one.owner[1]] = asks
    asked: dict[str, set[str]] = {}
    for owner, by_key in configs.items():
        keys, every = frozenset(by_key), set[str]().union(*by_key.values())
        for mount in by_config_map.get(owner, ()):
            asks = every if mount.by_label else by_key.get(mount.reads(keys) or "", set())
            asked.setdefault(mount.agent, set()).update(asks)
    return asked


def _driver(process: Process, whole: _Whole) -> Iterator[str]:
    """One way to the driver, and one alone."""
    known = [process.told(flag) for flag in ("--driver", "--driver-root", "--nvml-library")]
    if process.simulated or None in known:
        return
    ways = [*process.accesses()]
    if not ways:
        late = process.command == MPS_HOST and whole.beside(process, AGENT).access
        yield f"{process.name} has no access to the driver: list {_ACCESS}{' after mps' if late else ''}"
    elif len(ways) > 1:
        yield f"{process.name} has access to the driver by {' and '.join(ways)}: list one component of driver-access"
    if process.pod.get("runtimeClassName") and process.variable("NVIDIA_VISIBLE_DEVICES") == "":
        yield f"{process.name} has a runtime class and no NVIDIA_VISIBLE_DEVICES, without which it brings no driver in"
    if _FILES not in ways:
        return
    if process.command == AGENT and whole.beside(process, MPS_HOST).first and process.told("--mps-control") == "":
        yield f"{process.name} has no NODEAGENT_MPS_CONTROL, for MPS: list driver-access/driver-root after mps"
    if not table(process.container, "securityContext").get("privileged"):
        yield f"{process.name} has the driver's files and no privilege, without which the node refuses it the GPUs"
    if _waits(process):
        yield f"{process.name} waits for the driver of the GPU operator and has the node's: take runtime-class with it"


def _waits(process: Process) -> bool:
    return any(one.get("name") == _WAIT for one in items(process.pod, "initContainers"))


def _host(host: Process, whole: _Whole) -> Iterator[str]:
    """An MPS host is where its agent looks, and comes when it does."""
    agents = whole.beside(host, AGENT)
    if not _waits(host) and agents.waiting:
        yield f"{host.name} does not wait for the GPU operator's driver, as its agent does: list gpu-operator after mps"
    root = host.told("--mps-root")
    if agents.first is not None and root is not None and not {root, None} & agents.mps_roots:
        yield f"{host.name} and {agents.first.name} have two directories for MPS (--mps-root): both need the same"


def _same_nodes(ours: Sequence[Process]) -> Iterator[str]:
    """Two agents of which a node gets both: the second waits for the first, for ever."""
    first: dict[object, Process] = {}
    for one in ours:
        if one.command == AGENT:
            where = _frozen((one.pod.get("nodeSelector"), one.pod.get("affinity")))
            if (other := first.setdefault(where, one)) is not one:
                told = f"{other.name} and {one.name} are for the same nodes"
                yield f"{told}, and a node takes one agent: tell them apart"


def _frozen(value: object) -> object:
    """The same as something that can be looked up: objects are equal in any order."""
    if isinstance(value, dict):
        return frozenset((key, _frozen(one)) for key, one in value.items())
    return tuple(_frozen(one) for one in value) if isinstance(value, list | tuple) else value


def _config(agent: Process, asked: Collection[str], whole: _Whole) -> Iterator[str]:
    """What configs ask for that the agent has not, and a default that is none."""
    default = agent.told("--config-default")
    if default and not file_names(Selection(), default):
        yield f"{agent.name} has --config-default {brief(default)}, which is not the name of a file: it does not start"
    if _MPS in asked and (told := agent.told("--mps-host")) is not None:
        kept = told or "off"
        if kept == "off":
            yield f"the config of {agent.name} shares GPUs by MPS, and it has --mps-host off: list the component mps"
        elif kept == "external" and whole.beside(agent, MPS_HOST).first is None:
            yield f"the config of {agent.name} shares GPUs by MPS, and there is no MPS host: list the component mps"
    monitors = agent.variable("NVIDIA_MIG_MONITOR_DEVICES") != ""
    privileged = bool(table(agent.container, "securityContext").get("privileged"))
    if _MIG in asked and not (monitors or privileged or agent.simulated):
        yield f"the config of {agent.name} speaks of MIG devices, which it may not see: list the component mig"


def _labels(agent: Process) -> Iterator[str]:
    labels = agent.option("--labels")
    by_file = any(path.rstrip("/").endswith("node-feature-discovery/features.d") for path in agent.host_paths)
    by_api = str(agent.labels.get(_LABELS_API)) == "true" or labels == "api"
    if by_api and (by_file or labels.startswith("nfd:")):
        told = "what only the cluster knows" if agent.told("--labels") is None else labels or "off"
        yield f"{agent.name} has labels-api and labels-nfd, which write the same labels, and does {told}: list only one"
    if labels == "api" and agent.told("--kube-api") in {"", "off"}:
        yield f"{agent.name} has --labels api, and does not speak to the Kubernetes API: list labels-api"


def _api(agent: Process, whole: _Whole) -> Iterator[str]:
    if not agent.speaks or agent.told("--kubeconfig") != "":
        return
    account = str(agent.pod.get("serviceAccountName") or "default")
    if agent.pod.get("automountServiceAccountToken") is False:
        yield f"{agent.name} speaks to the Kubernetes API, and gets no token (automountServiceAccountToken: false)"
    bound = whole.bound.get(account, set())
    if not bound or not (not agent.namespace or {"", agent.namespace} & bound):
        yield f"{agent.name} speaks to the Kubernetes API, and no role is bound to its account {account}: list kube-api"


def _canaries(agent: Process, whole: _Whole) -> Iterator[str]:
    """Jobs that ask whether nodes have accepted a config."""
    waits, checks = (whole.job(component, agent.namespace) for component in ("canary-wait", "canary-check"))
    if waits is not None and agent.told("--labels") in {"", "off"}:
        yield (
            f"{called(waits)} waits for labels of nodes, which {agent.name} does not write: list"
            " labels-api or labels-nfd, or take canary-check"
        )
    if checks is not None and whole.kept_out(agent.namespace):
        yield f"{called(checks)} may not reach {agent.name}: list canary-check after network-policy"


def _hashed(by_config_map: Mapping[Reference, Sequence[Mount]], manifests: Sequence[Manifest]) -> Iterator[str]:
    """A revision in a ConfigMap whose name follows its content: every commit is another name."""
    for one in manifests:
        mounts = by_config_map.get(reference(one), ())
        if mounts and _HASHED.search(identity(one)[1]) and REVISION_NAME in table(one, "data"):
            yield (
                f"{called(one)} has a {REVISION_NAME} in it, and a name that follows its content: every commit replaces"
                f" the pods of {mounts[0].agent}; list one of rollout-on-change and argocd-revision"
            )


def _unmounted(
    by_config_map: Mapping[Reference, Sequence[Mount]], manifests: Sequence[Manifest], found: Sequence[Found]
) -> Iterator[str]:
    """An agent whose ConfigMap is not there, beside one that nobody has."""
    there = {reference(one) for one in manifests if one.get("kind") in KINDS}
    used = {
        (identity(one)[0], str(part(volume, "configMap", "name")))
        for one in manifests
        for volume in items(one, "spec", "template", "spec", "volumes")
    }
    left = dict.fromkeys(
        "/".join(filter(None, one.owner[0][1:]))
        for one in found
        if one.owner is not None and one.owner[0] not in by_config_map and one.owner[0][1:] not in used
    )
    others = ", ".join([*islice(left, _LISTED), *(["others"] if len(left) > _LISTED else [])])
    for wanted, mounts in by_config_map.items():
        if wanted not in there and left:
            name = "/".join(filter(None, wanted[1:]))
            yield f"{mounts[0].agent} has the {wanted[0]} {name}, which is not among these; nobody has {others}"
