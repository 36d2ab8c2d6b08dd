"""The pod on the node, from outside, and what it has seen. The program in it is `node_probe.py`."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from lightkube import ApiError
from lightkube.resources.core_v1 import Pod

from tests.e2e.cluster import Cluster
from tests.e2e.holders import Holders
from tests.e2e.overlays import MADE_BY_E2E
from tests.e2e.patience import until

NAMESPACE: Final = "nodeagent-e2e"
NAME: Final = "probe"

_PROGRAM: Final = Path(__file__).with_name("node_probe.py")
_NO_IMAGE: Final = {"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"}
_NO_CONTAINER: Final = {"CreateContainerError", "RunContainerError"}

Devices = Mapping[str, frozenset[str]]


class CannotStartError(Exception):
    """The pod does not run; the message says why, and what helps."""


@dataclass(slots=True)
class Seen:
    """What the kubelet said between two moments: at each change the devices that it would hand out, and who has which;
    and which kubelets there were. Times are the node's, in seconds since 1970. Filled when the watch has ended.
    """

    devices: list[tuple[float, Devices]] = field(default_factory=list)
    holders: list[tuple[float, Holders]] = field(default_factory=list)
    kubelets: list[int | None] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    polls: int = 0
    longest_gap: float = 0.0
    ended: float = 0.0

    def counts(self, resource: str) -> list[int]:
        """How many devices there were, one count after the other."""
        found = [len(devices.get(resource, ())) for _, devices in self.devices]
        return [count for count, _ in itertools.groupby(found)]

    def offered(self, resource: str) -> list[tuple[float, frozenset[str]]]:
        """The devices of it that the kubelet would hand out, from each moment on at which they changed."""
        return [(at, devices.get(resource, frozenset())) for at, devices in self.devices]

    def at_zero(self, resource: str) -> list[float]:
        """Each time in which there was none of it: how long, in seconds."""
        moments = [(at, resource in devices) for at, devices in self.devices]
        edges = [next(group) for _, group in itertools.groupby(moments, key=lambda moment: moment[1])]
        ends = [at for at, _ in edges[1:]] + [self.ended]
        return [end - at for (at, there), end in zip(edges, ends, strict=True) if not there]

    def read(self, text: str) -> None:
        """Take the lines that the program has printed."""
        for line in text.splitlines():
            record: dict[str, Any] = json.loads(line)
            self.ended = at = record["at"]
            if "devices" in record:
                devices = {name: frozenset(ids) for name, ids in record["devices"].items()}
                self.devices.append((at, devices))
            elif "checkpoint" in record and record["checkpoint"] is not None:
                held: dict[str, frozenset[str]] = {}
                for pod, _, ids in record["checkpoint"]:
                    held[pod] = held.get(pod, frozenset()) | frozenset(ids)
                self.holders.append((at, held))
            elif record.get("error"):
                self.errors.append(record["error"])
            elif "kubelet" in record:
                self.kubelets.append(record["kubelet"])
            elif "polls" in record:
                self.polls, self.longest_gap = record["polls"], record["longest_gap"]


class Probe:
    """The pod. It is made by `start`, and lives as long as the namespace of the run."""

    def __init__(self, cluster: Cluster, image: str) -> None:
        self._cluster = cluster
        self._image = image
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Make it, and wait until it runs. Raises CannotStartError."""
        objects = [*_objects(self._cluster.node_name, self._image)]
        self._cluster.kubectl(
            "apply", "--filename", "-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
        )
        until(self._runs)

    def leftovers(self) -> list[str]:
        """What an agent has left on the node."""
        return self._call("leftovers").split()

    def cards(self) -> list[str]:
        """The device nodes of NVIDIA's cards that the node has."""
        return self._call("cards").split()

    def wipe(self) -> list[str]:
        """Remove it; what could not be removed."""
        return self._call("wipe").split()

    def clean(self) -> None:
        """Remove it. Raises AssertionError for what stays."""
        left = self.wipe()
        assert not left, f"left on the node: {left}"

    def kubelet(self) -> str:
        """Which kubelet there is at the moment."""
        return self._call("kubelet").strip()

    def toolkit_is_ready(self) -> None:
        """Say on the node what NVIDIA's GPU operator says when the driver is there."""
        self._call("toolkit_is_ready")

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Watch the kubelet meanwhile. What was seen is there when the block has ended."""
        file = f"/tmp/{next(self._numbers)}"
        seen = Seen()
        self._call("start", file)
        try:
            yield seen
        finally:
            seen.read(until(lambda: self._call("stop", file)))

    def _call(self, *arguments: str) -> str:
        command = ("exec", "--namespace", NAMESPACE, NAME, "--", "python3", "/probe/node_probe.py")
        return self._cluster.kubectl(*command, *arguments)

    def _runs(self) -> bool:
        try:
            pod = self._cluster.client.get(Pod, NAME, namespace=NAMESPACE)
        except ApiError:
            return False
        for status in (pod.status.containerStatuses if pod.status else None) or ():
            state = status.state
            if state is not None and state.running is not None:
                return True
            waiting = state.waiting if state is not None else None
            if waiting is not None and waiting.reason in _NO_CONTAINER:
                raise CannotStartError(f"a privileged pod cannot run on {self._cluster.node_name}: {waiting.message}")
            if waiting is not None and waiting.reason in _NO_IMAGE:
                raise CannotStartError(
                    f"the node {self._cluster.node_name} cannot get the image {self._image}: {waiting.reason}; "
                    "load it there first, or name another with IMAGE=… (docs/e2e.md)"
                )
        return False


def _objects(node: str, image: str) -> Iterator[dict[str, Any]]:
    """Namespace, program and pod."""
    yield {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": NAMESPACE,
            # The pod mounts directories of the node, which no other level of Pod Security allows.
            "labels": {**MADE_BY_E2E, "pod-security.kubernetes.io/enforce": "privileged"},
        },
    }
    yield {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": MADE_BY_E2E},
        "data": {_PROGRAM.name: _PROGRAM.read_text(encoding="utf-8")},
    }
    mounts = [
        {"name": "program", "mountPath": "/probe", "readOnly": True},
        {"name": "device-plugins", "mountPath": "/var/lib/kubelet/device-plugins", "readOnly": True},
        {"name": "pod-resources", "mountPath": "/var/lib/kubelet/pod-resources", "readOnly": True},
        {"name": "var-lib", "mountPath": "/host/var/lib"},
        # The MPS host mounts below it; what is unmounted here has to be unmounted on the node.
        {"name": "run", "mountPath": "/host/run", "mountPropagation": "Bidirectional"},
    ]
    volumes: list[dict[str, Any]] = [
        {"name": "program", "configMap": {"name": NAME}},
        *(
            {"name": name, "hostPath": {"path": path, "type": "Directory"}}
            for name, path in {
                "device-plugins": "/var/lib/kubelet/device-plugins",
                "pod-resources": "/var/lib/kubelet/pod-resources",
                "var-lib": "/var/lib",
                "run": "/run",
            }.items()
        ),
    ]
    yield {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": NAME, "namespace": NAMESPACE, "labels": MADE_BY_E2E},
        "spec": {
            "nodeName": node,
            "priorityClassName": "system-node-critical",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": NAME,
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    # A process 1 that ends at SIGTERM, and buries what `start` leaves to it.
                    "command": ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"],
                    "securityContext": {"privileged": True},
                    "volumeMounts": mounts,
                }
            ],
            "volumes": volumes,
        },
    }
