"""Pods that use GPUs, as their users make them, and what becomes of them."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx2
from lightkube import ApiError, Client
from lightkube.resources.core_v1 import Pod

from tests.e2e.cluster import absent, made_of, metadata
from tests.e2e.overlays import MADE_BY_E2E
from tests.e2e.patience import until
from tests.e2e.pool import Pool
from tests.e2e.probe import NAMESPACE

WORKLOAD: Final = {"app.kubernetes.io/name": "nodeagent-e2e-workload"}

LASTS: Final = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
FAILS: Final = "exit 1"
FAILS_WHEN_ASKED: Final = LASTS.replace("exit 0", "exit 1")


class Pods:
    """All pods of the workload, as a watch shows them. `close` ends the watch."""

    def __init__(self, client: Client, host: str, image: str) -> None:
        self._client = client
        self._host = host
        self._image = image
        self._numbers = itertools.count(1)
        self._known: dict[str, Pod] = {}
        self._ends = threading.Event()
        self._watch = threading.Thread(target=self._follow, daemon=True)
        self._watch.start()

    def create(self, resource: str, *counts: int, command: str = LASTS, name: str = "", initial: bool = False) -> str:
        """A pod on the node, of a container for each count of shares, or of one with one share; its name. Where they
        are `initial` they run before a container without shares.
        """
        name = name or f"w{next(self._numbers)}"
        containers = [
            self._container(f"c{number}", command, {resource: count}) for number, count in enumerate(counts or (1,))
        ]
        place = {"initContainers": containers, "containers": [self._container("main", LASTS, {})]}
        spec = {
            **(place if initial else {"containers": containers}),
            "nodeSelector": {"kubernetes.io/hostname": self._host},
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
        }
        labels = {**MADE_BY_E2E, **WORKLOAD}
        self._client.create(made_of(Pod, metadata={"name": name, "namespace": NAMESPACE, "labels": labels}, spec=spec))
        return name

    def _container(self, name: str, command: str, limits: Mapping[str, int]) -> dict[str, Any]:
        return {
            "name": name,
            "image": self._image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-c", command],
            "resources": {"limits": {resource: str(count) for resource, count in limits.items()}},
        }

    def several(self, number: int, resource: str, *, command: str = LASTS) -> list[str]:
        """So many pods of one share each."""
        return [self.create(resource, command=command) for _ in range(number)]

    def delete(self, *names: str) -> None:
        """Have them end; what has gone already is fine."""
        for name in names:
            try:
                self._client.delete(Pod, name, namespace=NAMESPACE)
            except ApiError as error:
                if not absent(error):
                    raise

    def end(self, *names: str) -> None:
        """Delete them, all when none is named, and wait until they have gone."""
        ending = names or tuple(self.names())
        self.delete(*ending)
        until(lambda: not set(ending) & set(self.names()))

    def forgotten(self, pool: Pool, resource: str) -> None:
        """Wait until nobody holds anything: the kubelet forgets pods that have ended at the next admission, which is of
        a pod that is seen to run, so that it is not such a one itself.
        """
        self.end()
        last = self.create(resource)
        until(lambda: last in pool.held().values())
        self.end(last)
        until(lambda: not pool.held())

    # --- what has become of them --------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """All that there are."""
        return [*self._known]

    def phase(self, name: str) -> str:
        """Its phase, or "Gone"."""
        pod = self._known.get(name)
        return "Gone" if pod is None else str((pod.status.phase if pod.status else None) or "Pending")

    def reason(self, name: str) -> str:
        """Why it failed, as the kubelet says."""
        pod = self._known.get(name)
        return str((pod.status.reason if pod and pod.status else None) or "")

    def running(self, *names: str) -> None:
        """Wait until they all run. Raises AssertionError when one cannot any more."""
        for name in names:
            until(lambda name=name: self.phase(name) not in {"Pending", "Gone"})  # type: ignore[misc]
            assert self.phase(name) == "Running", f"{name}: {self.phase(name)} {self.reason(name)}"

    def restarts(self) -> int:
        """How often containers of theirs have been started again."""
        statuses = [
            status for pod in self._known.values() for status in (pod.status and pod.status.containerStatuses) or ()
        ]
        return sum(status.restartCount for status in statuses)

    # --- the watch ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End the watch, with what it hears next. Nobody waits for that: the client opens a quiet one anew for ever."""
        self._ends.set()

    def _follow(self) -> None:
        while not self._ends.is_set():
            with suppress(ApiError, httpx2.HTTPError):
                self._read()
            self._ends.wait(0.2)

    def _read(self) -> None:
        """One watch, from what there is now. What went between two watches has gone."""
        listed = self._client.list(Pod, namespace=NAMESPACE, labels=dict(WORKLOAD))
        self._known = {str(metadata(pod).name): pod for pod in listed}
        for event, pod in self._client.watch(
            Pod,
            namespace=NAMESPACE,
            labels=dict(WORKLOAD),
            server_timeout=30,
            resource_version=listed.resourceVersion,
        ):
            name = str(metadata(pod).name)
            if event == "DELETED":
                self._known.pop(name, None)
            else:
                self._known[name] = pod
            if self._ends.is_set():
                return


@dataclass(slots=True)
class Load:
    """What came of pods that were admitted and ended all the time."""

    created: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    broken: list[BaseException] = field(default_factory=list)


@contextmanager
def load(pods: Pods, resource: str, *, users: int, holds: tuple[float, float], seed: int) -> Iterator[Load]:
    """Meanwhile so many users each make a pod, use it for a random time, and end it, again and again."""
    result = Load()
    ends = threading.Event()
    lock = threading.Lock()

    def user(number: int) -> None:
        chance = random.Random(f"{seed}/{number}")
        for turn in itertools.count():
            if ends.is_set():
                return
            try:
                _use(turn, f"u{number}-{turn}", chance)
            except (ApiError, httpx2.HTTPError, AssertionError) as error:
                with lock:
                    result.broken.append(error)
                ends.wait(1.0)

    def _use(turn: int, name: str, chance: random.Random) -> None:
        pods.create(resource, name=name)
        begun = time.monotonic()
        while not ends.is_set() and pods.phase(name) in {"Pending", "Gone"} and time.monotonic() - begun < 30:
            ends.wait(0.05)
        phase, reason = pods.phase(name), pods.reason(name)
        if phase == "Running":
            ends.wait(chance.uniform(*holds))
        with lock:
            result.created += 1
            if phase == "Failed":
                result.failed[reason] += 1
        pods.delete(name)

    threads = [threading.Thread(target=user, args=(number,), daemon=True) for number in range(users)]
    for thread in threads:
        thread.start()
    try:
        yield result
    finally:
        ends.set()
        for thread in threads:
            thread.join(60)
        pods.end()


def config(*rules: str, name: str = "t4-dev", remark: str = "") -> str:
    """A sharing config of these rules, given as YAML of one rule each."""
    body = "".join(f"    - {rule}\n" for rule in rules)
    remarked = f"# {remark}\n" if remark else ""
    return (
        f"{remarked}apiVersion: nodeagent.io/v1alpha1\nkind: SharingConfig\nmetadata:\n  name: {name}\n"
        f"spec:\n  rules:\n{body}"
    )


def shared(replicas: int, *, resource: str = "nvidia.com/gpu.shared", remark: str = "", name: str = "t4-dev") -> str:
    """Every GPU time-sliced so often."""
    rule = f"{{name: everybody, resource: {resource}, timeSlicing: {{replicas: {replicas}}}, maxSharesPerContainer: 1}}"
    return config(rule, remark=remark, name=name)


def exclusive(*, resource: str = "nvidia.com/gpu", name: str = "t4-dev") -> str:
    """Every GPU for one pod at a time."""
    return config(f"{{name: every, resource: {resource}, exclusive: {{}}}}", name=name)
