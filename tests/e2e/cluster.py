"""The cluster of `$KUBECONFIG`: kubectl for what a person types, lightkube for what is asked often."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from lightkube import KubeConfig, SingleConfig
from lightkube.core.exceptions import ConfigError
from lightkube.resources.core_v1 import Event, Node
from lightkube.types import PatchType

from tests.deploy.manifests import KUBECTL
from tests.e2e.overlays import MADE_BY, MADE_BY_E2E
from tests.waiting import longer

if TYPE_CHECKING:
    from lightkube import ApiError, Client

ABSENT: Final = 404

T = TypeVar("T")


class Cluster:
    """One cluster, and of its nodes the one that a run uses. `real_gpus`: that may have GPUs of its own."""

    def __init__(self, client: Client, node: str, *, real_gpus: bool = False) -> None:
        self.client = client
        self.node_name = node
        self._real_gpus = real_gpus

    # --- as a person does ---------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, within: float = 180.0) -> str:
        """What it prints. Raises AssertionError with what it says when it fails."""
        done = run_kubectl(*arguments, stdin=stdin, within=within)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}: {done.stderr or done.stdout}"
        return done.stdout

    def nodeagent(self, *arguments: str, within: float = 180.0) -> subprocess.CompletedProcess[str]:
        """A command of ours on this machine, with the same kubeconfig."""
        return subprocess.run(
            [sys.executable, "-m", "nodeagent", *arguments],
            capture_output=True,
            text=True,
            timeout=longer(within),
            check=False,
        )

    # --- the node -----------------------------------------------------------------------------------------------------

    def node(self) -> Node:
        """The Node, as the API server has it."""
        return self.client.get(Node, self.node_name)

    def capacity(self) -> dict[str, int]:
        """What the scheduler may give of each device: `status.allocatable`, those with none left out."""
        status = self.node().status
        assert status is not None
        found = (status.allocatable or {}).items()
        return {name: int(str(count)) for name, count in found if name.startswith("nvidia.com/") and str(count) != "0"}

    def idle(self) -> bool:
        """Whether nobody offers devices on the node any more; always true of a node that may have GPUs of its own."""
        return self._real_gpus or not self.capacity()

    def labels(self) -> dict[str, str]:
        """The labels of the Node."""
        return dict(metadata(self.node()).labels or {})

    def label(self, labels: Mapping[str, str | None]) -> None:
        """Set labels of the Node; None removes one."""
        self.patch_node({"metadata": {"labels": dict(labels)}})

    def patch_node(self, patch: Mapping[str, Any]) -> None:
        self.client.patch(Node, self.node_name, dict(patch), patch_type=PatchType.MERGE)

    def events(self) -> list[Event]:
        """The events of agents about the Node."""
        return [
            event
            for event in self.client.list(Event, namespace="default")
            if event.involvedObject.kind == "Node"
            and event.involvedObject.name == self.node_name
            and "nodeagent" in {event.reportingComponent, event.source.component if event.source else None}
        ]

    # --- what a run has made ------------------------------------------------------------------------------------------

    def made(self, kinds: Sequence[str]) -> list[str]:
        """The objects of these kinds with our label, in all namespaces, as `kind/name`."""
        label = f"{MADE_BY}={MADE_BY_E2E[MADE_BY]}"
        text = self.kubectl("get", ",".join(kinds), "--all-namespaces", "--selector", label, "--output", "name")
        return sorted(text.split())

    @contextmanager
    def forwarded(self, namespace: str, pod: str, port: int) -> Iterator[str]:
        """`kubectl port-forward`: the address of a port of a pod on this machine. It ends with the pod's container, and
        with the kubelet through which it goes.
        """
        process = subprocess.Popen(
            [KUBECTL, "port-forward", "--namespace", namespace, f"pod/{pod}", f":{port}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            assert "Forwarding from" in line, f"kubectl port-forward: {line}{process.stdout.read()}"
            # It prints a line for each connection: a pipe that nobody reads would stop it.
            reader = threading.Thread(target=process.stdout.read, daemon=True)
            reader.start()
            yield line.split()[2]
            process.kill()
            reader.join()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


def run_kubectl(
    *arguments: str | Path, stdin: str | None = None, within: float = 180.0
) -> subprocess.CompletedProcess[str]:
    """Run kubectl to its end; a failure is not raised."""
    return subprocess.run(
        [KUBECTL, *arguments], input=stdin, capture_output=True, text=True, timeout=longer(within), check=False
    )


def metadata(thing: Any) -> Any:  # noqa: ANN401 - each kind of object has a type of its own
    """The metadata of an object, which lightkube's types say may be missing."""
    assert thing.metadata is not None
    return thing.metadata


def configured() -> SingleConfig:
    """The cluster that `$KUBECONFIG` names, and no other: the library's own order takes a pod's service account first,
    while kubectl never does. Raises ConfigError.
    """
    found = KubeConfig.from_file(os.environ["KUBECONFIG"]).get()
    if found is None:
        raise ConfigError("it has no current context")
    return found


def made_of(kind: type[T], **content: object) -> T:
    """An object of this kind, which takes what a manifest has."""
    return cast("T", cast("Any", kind).from_dict({"metadata": {}, **content}))


def absent(error: ApiError) -> bool:
    """Whether it says that there is no such object."""
    return error.status.code == ABSENT
