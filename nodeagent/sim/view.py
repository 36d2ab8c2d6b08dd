"""What the stand-in kubelet shows to those who look: its node status, its pods' devices, and what it has seen."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path

from nodeagent.sim import checkpoint
from nodeagent.sim.devices import Devices
from nodeagent.sim.history import BrokenRule, Crash, History, ListMessage, RegistrationRecord, StreamEnd
from nodeagent.sim.pods import Pod

log = logging.getLogger(__name__)


class KubeletView:
    """The books of a kubelet, the pods of its node and the record of what happened, to be read. `record` also counts.

    `checkpoint_path` is where the books are saved; `grace` how many seconds a resource without a plugin is kept.
    """

    def __init__(self, record: History, checkpoint_path: Path, *, grace: float) -> None:
        self.record = record
        self.checkpoint_path = checkpoint_path
        self.grace = grace
        self._books = Devices()
        self._pods: dict[str, Pod] = {}

    @property
    def pods(self) -> tuple[Pod, ...]:
        """Every pod that was admitted or refused, and has not been ended."""
        return tuple(self._pods.values())

    def allocatable(self, resource: str) -> int:
        """Healthy devices, as node.status would say at once."""
        self._forget_expired()
        return len(self._books.healthy.get(resource, ()))

    def capacity(self, resource: str) -> int:
        """Healthy and unhealthy devices; after the plugin is gone for longer than the grace, 0."""
        self._forget_expired()
        return self._books.capacity(resource)

    def resources(self) -> tuple[str, ...]:
        """Names of the resources in the node's status, sorted."""
        self._forget_expired()
        return tuple(sorted(self._books.healthy))

    def schedulable(self, resource: str) -> int:
        """What the scheduler would still place: allocatable minus requested, which may be negative."""
        return self.allocatable(resource) - sum(pod.requested(resource) for pod in self._active())

    def devices(self, resource: str) -> Mapping[str, bool]:
        """The list as the kubelet has it now: id -> healthy."""
        healthy = self._books.healthy.get(resource, set())
        return {id_: id_ in healthy for id_ in sorted(healthy | self._books.unhealthy.get(resource, set()))}

    def held(self, resource: str) -> frozenset[str]:
        """Ids that active pods hold."""
        return self._books.held(resource, (pod.uid for pod in self._active()))

    def free(self, resource: str) -> frozenset[str]:
        """Ids that the next pod could get."""
        return frozenset(self._books.healthy.get(resource, set()) - self.held(resource))

    @property
    def history(self) -> list[ListMessage]:
        return list(self.record.messages)

    @property
    def registrations(self) -> list[RegistrationRecord]:
        return list(self.record.registrations)

    @property
    def streams_ended(self) -> list[StreamEnd]:
        return list(self.record.streams_ended)

    @property
    def violations(self) -> list[BrokenRule]:
        return list(self.record.violations)

    @property
    def crashes(self) -> list[Crash]:
        return list(self.record.crashes)

    def fewest(self, resource: str) -> int:
        """Fewest allocatable devices at any moment since the first list, or since `reset_fewest`."""
        return self.record.fewest(resource)

    def reset_fewest(self, resource: str) -> None:
        self.record.reset_fewest(resource, self.allocatable(resource))

    # --- for the kubelet itself ---

    def _active(self) -> list[Pod]:
        return [pod for pod in self._pods.values() if pod.active]

    def _forget_expired(self) -> None:
        """What the kubelet does at each tick of its node status."""
        if self._books.forget_expired(time.monotonic(), self.grace):
            self._save()

    def _save(self) -> None:
        try:
            checkpoint.write(self.checkpoint_path, self._books.entries.values(), self._books.healthy)
        except OSError as error:
            log.warning("the kubelet cannot write its checkpoint: %s", error)
