"""The agent and the MPS host among rendered manifests: what they are told, and what they have.

Pure: manifests may hold anything, and what is not as Kubernetes would have it counts as not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from nodeagent.documents.tree import brief

AGENT: Final = "run"
MPS_HOST: Final = "mps-host"

MOST: Final = 500
"""So many agents and MPS hosts are looked at. Each is a pool, and nobody has as many."""

_PART_OF: Final = "app.kubernetes.io/part-of"
_INSTANCE: Final = "app.kubernetes.io/instance"
_NAME: Final = "nodeagent"
_KINDS: Final = frozenset({"DaemonSet", "Deployment", "StatefulSet", "ReplicaSet", "Job"})
_VISIBLE: Final = "NVIDIA_VISIBLE_DEVICES"
_LOCAL: Final = "simulated:"
_REFERENCE: Final = re.compile(r"\$(?:\$|\(([^()$]+)\))")
_LONGEST: Final = 4096
"""A value that other values have made longer than this is not known."""

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
    """A container that runs one of our commands, and the pod that it is in. `labels` are those of the workload.

    A variable that is None has a value that only the cluster knows; `open`: so may any other one be there.
    """

    name: str
    namespace: str
    instance: str
    command: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str | None]
    open: bool
    container: Mapping[str, Any]
    pod: Mapping[str, Any]
    labels: Mapping[str, Any]
    annotations: Mapping[str, Any]

    def option(self, flag: str) -> str:
        """What an option is set to; empty where it has its default, or nobody knows."""
        return self.told(flag) or ""

    def told(self, flag: str) -> str | None:
        """What an option is set to; empty where it has its default, None where only the cluster knows."""
        for position, argument in enumerate(self.arguments):
            if argument.startswith(f"{flag}="):
                return _expanded(argument.partition("=")[2], self.environment, self.open)
            if argument == flag:
                following = self.arguments[position + 1 : position + 2]
                if not following or following[0].startswith("--"):
                    return "true"
                return _expanded(following[0], self.environment, self.open)
        return self.variable("NODEAGENT" + flag[1:].replace("-", "_").upper())

    def variable(self, name: str) -> str | None:
        """The value of a variable; empty where it is not there, None where only the cluster knows."""
        return self.environment.get(name, None if self.open else "")

    @property
    def speaks(self) -> bool:
        """Whether it speaks to the Kubernetes API."""
        return self.option("--kube-api") == "on"

    @property
    def simulated(self) -> bool:
        """Whether its GPUs are, as far as is known."""
        driver = self.told("--driver")
        return driver is None or driver.startswith(_LOCAL)

    @property
    def host_paths(self) -> tuple[str, ...]:
        """What of the node is mounted into its pod."""
        return tuple(str(part(volume, "hostPath", "path")) for volume in items(self.pod, "volumes"))

    def accesses(self) -> Iterator[str]:
        """By which ways the driver comes in."""
        if self.pod.get("runtimeClassName"):
            yield f"the runtime class {self.pod['runtimeClassName']}"
        elif self.variable(_VISIBLE) != "" or _VISIBLE in self.environment:
            yield "the default runtime of the node"
        root, library = self.option("--driver-root"), self.option("--nvml-library")
        if root not in {"", "/"} or library or any("libnvidia-ml" in path for path in self.host_paths):
            yield "the driver's files"
        if any(str(key).startswith("cdi.k8s.io/") for key in self.annotations):
            yield "CDI"


def processes(manifests: Iterable[Manifest]) -> tuple[Process, ...]:
    """Those of our commands that workloads among these start; of many the first."""
    return tuple(islice((process for manifest in manifests for process in _processes(manifest)), MOST))


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
                _environment(container),
                bool(items(container, "envFrom")),
                container,
                table(template, "spec"),
                labels,
                table(template, "metadata", "annotations"),
            )


def _environment(container: Mapping[str, Any]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    more = bool(items(container, "envFrom"))
    for one in items(container, "env"):
        value = None if "valueFrom" in one else _expanded(str(one.get("value") or ""), found, more)
        found[str(one.get("name"))] = value
    return found


def _expanded(text: str, environment: Mapping[str, str | None], more: bool) -> str | None:  # noqa: FBT001
    """A text with `$(NAME)` replaced as Kubernetes does it, by a variable that is there; None where it is not known."""
    if len(text) > _LONGEST:
        return text if "$" not in text else None
    made, end = "", 0
    for found in _REFERENCE.finditer(text):
        name = found[1]
        value = "$" if name is None else environment.get(name, None if more else found[0])
        if value is None or len(made) > _LONGEST:
            return None
        made, end = f"{made}{text[end : found.start()]}{value}", found.end()
    return made + text[end:]


def identity(manifest: Mapping[str, object]) -> tuple[str, str]:
    """Namespace and name."""
    metadata = table(manifest, "metadata")
    return str(metadata.get("namespace") or ""), str(metadata.get("name") or "")


def called(manifest: Mapping[str, object]) -> str:
    """`ConfigMap gpu/sharing`."""
    metadata = table(manifest, "metadata")
    kind, namespace, name, generated = (
        brief(value) if isinstance(value, str) and value else ""
        for value in (
            manifest.get("kind", "ConfigMap"),
            metadata.get("namespace"),
            metadata.get("name"),
            metadata.get("generateName"),
        )
    )
    own = name or (f"{generated}*" if generated else "without name")
    return f"{kind} {namespace}/{own}" if namespace else f"{kind} {own}"


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
