"""An overlay that is installed, the agent in it, and what both say."""

from __future__ import annotations

import hashlib
import http.client
import json
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError

from lightkube import ApiError
from lightkube.resources.apps_v1 import DaemonSet
from lightkube.resources.core_v1 import ConfigMap, Namespace, Pod
from lightkube.types import PatchType

from tests.e2e.cluster import Cluster, absent, made_of, metadata, run_kubectl
from tests.e2e.overlays import Overlay
from tests.e2e.patience import until
from tests.e2e.probe import Probe
from tests.waiting import longer

PORT: Final = 9400
AGENT: Final = {"app.kubernetes.io/name": "nodeagent"}
_NUDGE: Final = "nodeagent.io/e2e-nudge"
_NUDGE_AGAIN: Final = 3.0


def blob(text: str) -> str:
    """The git blob id of a document: what `git hash-object` prints."""
    data = text.encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


class Pool:
    """One pool, of one node."""

    def __init__(self, cluster: Cluster, overlay: Overlay) -> None:
        self.cluster = cluster
        self.overlay = overlay
        self._forwarded = ExitStack()
        self._address: tuple[str, str] | None = None

    # --- the agent's pod ----------------------------------------------------------------------------------------------

    def pods(self) -> list[Pod]:
        """The agent's pods that are not about to end."""
        found = self.cluster.client.list(Pod, namespace=self.overlay.namespace, labels=dict(AGENT))
        return [pod for pod in found if metadata(pod).deletionTimestamp is None]

    def pod(self) -> Pod:
        """The agent's pod, once there is one alone."""
        (found,) = until(lambda: pods if len(pods := self.pods()) == 1 else [])
        return found

    def ready(self) -> bool:
        """Whether all pods of the overlay are ready, and there is a pod of each DaemonSet."""
        sets = [*self.cluster.client.list(DaemonSet, namespace=self.overlay.namespace)]
        statuses = [one.status for one in sets if one.status is not None]
        return bool(sets) and all(
            status.desiredNumberScheduled == status.numberReady == 1
            and status.observedGeneration == metadata(one).generation
            for one, status in zip(sets, statuses, strict=True)
        )

    def restarts(self) -> int:
        """How often containers of the agent's pod have been started again."""
        status = self.pod().status
        return sum(one.restartCount for one in (status.containerStatuses if status else None) or ())

    def log(self) -> list[dict[str, Any]]:
        """What the agent's container has logged, an entry a line."""
        name = str(metadata(self.pod()).name)
        text = self.cluster.kubectl("logs", "--namespace", self.overlay.namespace, "--container", "nodeagent", name)
        return [json.loads(line) for line in text.splitlines()]

    def described(self) -> str:
        """What a person would look at first when a case fails; nothing of it is waited for."""
        of = ("--namespace", self.overlay.namespace)
        selector = ("--selector", "app.kubernetes.io/name=nodeagent")
        asked = (("get", "pods", *of, "--output", "wide"), ("logs", *of, *selector, "--tail=60", "--prefix"))
        return "\n".join(done.stdout + done.stderr for done in (run_kubectl(*one) for one in asked))

    @contextmanager
    def reached(self) -> Iterator[str]:
        """The address of the agent on this machine, as `kubectl port-forward` gives it to a person."""
        with self.cluster.forwarded(self.overlay.namespace, str(metadata(self.pod()).name), PORT) as address:
            yield address

    def status(self) -> dict[str, Any]:
        """`/status` of the agent. Raises AssertionError when it does not answer, nor by a connection that is new."""
        with suppress(AssertionError):
            return self._status()
        return self._status()

    def _status(self) -> dict[str, Any]:
        pod = str(metadata(self.pod()).uid)
        if self._address is None or self._address[0] != pod:
            self._forwarded.close()
            self._address = (pod, self._forwarded.enter_context(self.reached()))
        try:
            with urllib.request.urlopen(f"http://{self._address[1]}/status", timeout=longer(10)) as answer:
                status: dict[str, Any] = json.load(answer)
                return status
        except (OSError, URLError, http.client.HTTPException, ValueError) as error:
            self._address = None  # it ended with the container, or with the kubelet
            raise AssertionError(f"the agent does not answer: {error}") from None

    def close(self) -> None:
        """End what it has open."""
        self._forwarded.close()
        self._address = None

    def condition(self, type_: str) -> dict[str, Any]:
        """A condition of the agent."""
        (found,) = [one for one in self.status()["conditions"] if one["type"] == type_]
        return dict(found)

    # --- its config ---------------------------------------------------------------------------------------------------

    def write(self, text: str, *, key: str = "sharing.yaml", nudge: bool = True) -> str:
        """Change the ConfigMap as a sync does; the document's blob id. With `nudge` the kubelet looks at it at once,
        and not within the minute or so that it takes otherwise.
        """
        self._patch_config_map(self.overlay.config_map, {key: text})
        if nudge:
            self.nudge()
        return blob(text)

    def simulate(self, text: str) -> None:
        """Change the simulation file, by which GPUs come and go."""
        self._patch_config_map("simulated-node", {"node.yaml": text})
        self.nudge()

    def nudge(self) -> None:
        """A change of the pod makes the kubelet look at everything that it mounts."""
        pod = metadata(self.pod())
        patch = {"metadata": {"annotations": {_NUDGE: str(time.time())}}}
        with suppress(ApiError):  # the pod has ended meanwhile: the next one mounts what is there now
            self.cluster.client.patch(
                Pod, str(pod.name), patch, namespace=self.overlay.namespace, patch_type=PatchType.MERGE
            )

    def commit(self, text: str) -> str:
        """Write a config, and wait until it is accepted; its blob id."""
        written = self.write(text)
        self.nudging(lambda: (self.status()["config"]["desired"] or {}).get("gitBlob") == written)
        return written

    def applied(self, written: str) -> bool:
        """Whether every GPU is as this document says."""
        return bool((self.status()["config"]["applied"] or {}).get("gitBlob") == written)

    def apply(self, text: str) -> str:
        """Write a config, and wait until every GPU is as it says; its blob id."""
        written = self.commit(text)
        until(lambda: self.applied(written))
        return written

    def nudging(self, check: Any, *, within: float = 120.0) -> Any:  # noqa: ANN401 - as `until`
        """As `until`; meanwhile the kubelet is nudged again and again, since it may look before it has heard of a
        change.
        """
        nudged = time.monotonic()

        def checked() -> Any:  # noqa: ANN401
            nonlocal nudged
            if time.monotonic() - nudged > _NUDGE_AGAIN:
                self.nudge()
                nudged = time.monotonic()
            return check()

        return until(checked, within=within, every=0.05)

    def accepted_at(self, written: str) -> float:
        """When a document was accepted: the node's time, in seconds since 1970. A reload is reported when it is over,
        which is a moment after the document is the accepted one.
        """

        def reported() -> list[float]:
            return [
                datetime.fromisoformat(reload["at"]).timestamp()
                for reload in self.status()["reloads"]
                if reload["result"] == "accepted" and reload["document"]["gitBlob"] == written
            ]

        return until(reported)[-1]

    def shares(self) -> dict[str, dict[str, Any]]:
        """Every share that the agent knows of, by its id."""
        return {share["id"]: share for gpu in self.status()["gpus"] for share in gpu["shares"]}

    def held(self) -> dict[str, str]:
        """The name of the pod that has each share that one has, by the share's id; empty while that is not known."""
        return {
            id_: share["holder"].split("/")[1] if share["holder"] else ""
            for id_, share in self.shares().items()
            if share["held"]
        }

    def registered(self, resource: str) -> bool:
        """Whether the kubelet has a stream of it."""
        return [one["registration"]["state"] for one in self.status()["resources"] if one["resource"] == resource] == [
            "live"
        ]

    def delete_config_map(self) -> None:
        """Take the sharing config away."""
        self.cluster.client.delete(ConfigMap, self.overlay.config_map, namespace=self.overlay.namespace)
        self.nudge()

    def restore_config_map(self) -> None:
        """Bring the one that the overlay installs."""
        place = {"name": self.overlay.config_map, "namespace": self.overlay.namespace}
        self.cluster.client.create(made_of(ConfigMap, metadata=place, data={"sharing.yaml": self.overlay.config}))
        self.nudge()

    def _patch_config_map(self, name: str, data: Mapping[str, str]) -> None:
        self.cluster.client.patch(
            ConfigMap, name, {"data": dict(data)}, namespace=self.overlay.namespace, patch_type=PatchType.MERGE
        )


@contextmanager
def installed(cluster: Cluster, probe: Probe, overlay: Overlay, folder: Path) -> Iterator[Pool]:
    """`kubectl apply -k` of a folder that `overlays.kustomization` has made, and `kubectl delete -k` in the end.
    Nothing of it is waited for in the beginning; in the end nothing of it is left on the node.
    """
    pool = Pool(cluster, overlay)
    before = cluster.labels()
    cluster.label(overlay.node_labels)
    try:
        cluster.kubectl("apply", "--kustomize", folder)
        yield pool
    finally:
        pool.close()
        remove(cluster, overlay, folder)
        cluster.label({key: before.get(key) for key in overlay.node_labels})
        probe.clean()


def remove(cluster: Cluster, overlay: Overlay, folder: Path) -> None:
    """Take it away; wait until it has gone."""
    cluster.kubectl("delete", "--ignore-not-found", "--kustomize", folder, within=300.0)
    until(lambda: gone(cluster, overlay.namespace), within=300.0)
    until(cluster.idle, within=300.0)


def gone(cluster: Cluster, namespace: str) -> bool:
    """Whether there is no such namespace."""
    try:
        cluster.client.get(Namespace, namespace)
    except ApiError as error:
        if absent(error):
            return True
        raise
    return False
