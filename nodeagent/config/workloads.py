"""The agent and the MPS host among rendered manifests: what they are told, what they have, and which ConfigMap is read.

Pure: manifests may hold anything, and what is not as Kubernetes would have it counts as not there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from nodeagent.config.configmap import Mount, called, identity
from nodeagent.config.selection import file_names
from nodeagent.model.node import Selection

AGENT: Final = "run"
MPS_HOST: Final = "mps-host"

_PART_OF: Final = "app.kubernetes.io/part-of"
_INSTANCE: Final = "app.kubernetes.io/instance"
_NAME: Final = "nodeagent"
_KINDS: Final = frozenset({"DaemonSet", "Deployment", "StatefulSet", "ReplicaSet", "Job"})
_LOCAL: Final = "simulated:"

Manifest = Mapping[str, object]


def part(value: object, *keys: str) -> Any:  # noqa: ANN401 - anything may be there
    """What is at these keys; an empty object where nothing is."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return {} if value is None else value


def table(value: object, *keys: str) -> Mapping[str, Any]:
    """The object at these keys; an empty one where there is none."""
    found = part(value, *keys)
    return found if isinstance(found, dict) else {}


def items(value: object, *keys: str) -> list[Mapping[str, Any]]:
    """The objects of the list at these keys."""
    found = part(value, *keys)
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


@dataclass(frozen=True, slots=True)
class Process:
    """A container that runs one of our commands, and the pod that it is in. `labels` are those of the workload."""

    name: str
    namespace: str
    instance: str
    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    container: Mapping[str, Any]
    pod: Mapping[str, Any]
    labels: Mapping[str, Any]
    annotations: Mapping[str, Any]

    def option(self, flag: str) -> str:
        """What an option is set to; empty where it has its default."""
        for position, argument in enumerate(self.arguments):
            if argument.startswith(f"{flag}="):
                return argument.partition("=")[2]
            if argument == flag:
                following = self.arguments[position + 1 : position + 2]
                return following[0] if following and not following[0].startswith("--") else "true"
        return self.environment.get("NODEAGENT" + flag[1:].replace("-", "_").upper(), "")

    @property
    def speaks(self) -> bool:
        """Whether it speaks to the Kubernetes API."""
        return self.option("--kube-api") == "on"

    @property
    def simulated(self) -> bool:
        return self.option("--driver").startswith(_LOCAL)

    @property
    def host_paths(self) -> tuple[str, ...]:
        """What of the node is mounted into its pod."""
        return tuple(str(part(volume, "hostPath", "path")) for volume in items(self.pod, "volumes"))

    def accesses(self) -> Iterator[str]:
        """By which ways the driver comes in."""
        if self.pod.get("runtimeClassName"):
            yield f"the runtime class {self.pod['runtimeClassName']}"
        elif "NVIDIA_VISIBLE_DEVICES" in self.environment:
            yield "the default runtime of the node"
        root, library = self.option("--driver-root"), self.option("--nvml-library")
        if root not in {"", "/"} or library or any("libnvidia-ml" in path for path in self.host_paths):
            yield "the driver's files"
        if any(str(key).startswith("cdi.k8s.io/") for key in self.annotations):
            yield "CDI"


def processes(manifests: Iterable[Manifest]) -> tuple[Process, ...]:
    """Those of our commands that workloads among these start."""
    return tuple(process for manifest in manifests for process in _processes(manifest))


def _processes(manifest: Manifest) -> Iterator[Process]:
    kind = manifest.get("kind")
    if not isinstance(kind, str) or (kind != "Pod" and kind not in _KINDS):
        return
    template = manifest if kind == "Pod" else part(manifest, "spec", "template")
    labels = table(manifest, "metadata", "labels")
    for container in items(template, "spec", "containers"):
        words = [str(word) for key in ("command", "args") for word in _list(container.get(key))]
        image = str(container.get("image", "")).rpartition("/")[2]
        ours = image.startswith(_NAME) or labels.get(_PART_OF) == _NAME
        command = next((word for word in words[:2] if word in {AGENT, MPS_HOST}), None)
        if ours and command is not None:
            yield Process(
                called(manifest),
                identity(manifest)[0],
                str(labels.get(_INSTANCE, "")),
                command,
                tuple(words[words.index(command) + 1 :]),
                {str(one.get("name")): str(one.get("value", "")) for one in items(container, "env")},
                container,
                table(template, "spec"),
                labels,
                table(template, "metadata", "annotations"),
            )


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def mounted(manifests: Iterable[Manifest]) -> dict[tuple[str, str], list[Mount]]:
    """By namespace and name of a ConfigMap: the agents among these that have it as their config."""
    found: dict[tuple[str, str], list[Mount]] = {}
    for process in processes(manifests):
        if process.command == AGENT and (one := _mount(process)) is not None:
            name, mount = one
            found.setdefault((process.namespace, name), []).append(mount)
    return found


def _mount(agent: Process) -> tuple[str, Mount] | None:
    """The name of the ConfigMap that an agent has as its config, and how."""
    config = PurePosixPath(agent.option("--config"))
    mounts = [one for one in items(agent.container, "volumeMounts") if config.is_relative_to(str(one.get("mountPath")))]
    if not mounts or not config.is_absolute():
        return None
    mount = max(mounts, key=lambda one: len(str(one.get("mountPath"))))
    volume = next((one for one in items(agent.pod, "volumes") if one.get("name") == mount.get("name")), {})
    found = next(_sources(volume), None)
    if found is None:
        return None
    name, listed = found
    inside, sub_path = config.relative_to(str(mount.get("mountPath"))), str(mount.get("subPath") or "")
    whole = not inside.parts and not sub_path
    names = file_names(Selection(), agent.option("--config-default") or None) if whole else (str(inside),)
    names = (sub_path,) if sub_path else names
    if listed:
        keys = {one.get("path"): str(one.get("key")) for one in listed}
        names = tuple(keys[file] for file in names if file in keys) or names
    by_label = whole and agent.speaks and agent.option("--config-label") != "off"
    return name, Mount(agent.name, names, by_label=by_label, whole=whole, frozen=bool(sub_path))


def _sources(volume: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """The ConfigMaps and Secrets of a volume, each with the keys that it lists, if it does."""
    for one in (volume, *items(volume, "projected", "sources")):
        for source, name in (("configMap", "name"), ("secret", "secretName"), ("secret", "name")):
            if isinstance(called_ := table(one, source).get(name), str):
                yield called_, items(one, source, "items")
