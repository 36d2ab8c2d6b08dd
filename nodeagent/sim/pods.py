"""Pods as the stand-in kubelet knows them, and how it says no.

A pod belongs to the API server and so outlives the kubelet; what was allocated to it belongs to the device manager and
outlives the kubelet only through the checkpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

Requests = Mapping[str, int]
"""How many devices of each resource one container asks for."""

UNEXPECTED_ADMISSION_ERROR = "UnexpectedAdmissionError"
CREATE_CONTAINER_CONFIG_ERROR = "CreateContainerConfigError"


class AdmissionError(Exception):
    """A pod that the kubelet did not admit; it is Failed for good. The message is the one of its status."""

    reason = UNEXPECTED_ADMISSION_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(f"{self.reason}: {message}")


class ContainerError(Exception):
    """A container that could not be started; the pod stays and the kubelet would try again."""

    reason = CREATE_CONTAINER_CONFIG_ERROR

    def __init__(self, message: str) -> None:
        super().__init__(f"{self.reason}: {message}")


class KubeletDown(Exception):
    """The stand-in kubelet is not running, or stopped in the middle of the request."""


class KubeletCrash(Exception):
    """The real kubelet would have died of a nil pointer here; the stand-in refuses all further use."""


class Phase(Enum):
    """Where a pod stands: PENDING until admitted; SUCCEEDED and FAILED pods hold nothing."""

    PENDING = "Pending"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True)
class Grant:
    """What one container was given of one resource: the ids, and the plugin's answer."""

    ids: tuple[str, ...]
    envs: Mapping[str, str]
    mounts: Mapping[str, str] = field(default_factory=dict)
    """The host's path by the container's."""


@dataclass(eq=False)
class Pod:
    """One pod. `running` are the names of its containers that run now; `message` says why it Failed.

    `grants` tells what each container (init containers too) was given, by container and resource.
    """

    name: str
    namespace: str
    containers: Mapping[str, Requests]
    init_containers: Mapping[str, Requests] = field(default_factory=dict)
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))
    phase: Phase = Phase.PENDING
    message: str = ""
    running: set[str] = field(default_factory=set)
    grants: dict[str, dict[str, Grant]] = field(default_factory=dict)

    @property
    def active(self) -> bool:
        return self.phase in (Phase.PENDING, Phase.RUNNING)

    def ids(self, resource: str | None = None) -> frozenset[str]:
        """Ids that its containers were given, of one resource or of all."""
        return frozenset(
            id_
            for grants in self.grants.values()
            for name, grant in grants.items()
            if resource in (None, name)
            for id_ in grant.ids
        )

    def envs(self, container: str) -> dict[str, str]:
        """Environment variables that the plugins' answers set in a container."""
        return {key: value for grant in self.grants.get(container, {}).values() for key, value in grant.envs.items()}

    def mounts(self, container: str) -> dict[str, str]:
        """What the plugins' answers mount into a container: the host's path by the container's."""
        return {key: value for grant in self.grants.get(container, {}).values() for key, value in grant.mounts.items()}

    def requested(self, resource: str) -> int:
        """How many the scheduler counts for this pod: containers run together, plain init containers one by one."""
        together = sum(requests.get(resource, 0) for requests in self.containers.values())
        return max([together, *(requests.get(resource, 0) for requests in self.init_containers.values())])

    def fail(self, message: str) -> None:
        self.phase = Phase.FAILED
        self.message = message
        self.running.clear()
