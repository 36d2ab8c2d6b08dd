"""What the kubelet asks for when a pod is admitted, and what it gets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from nodeagent.model.shares import Listing


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory or a file of the host that a container gets."""

    container_path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device node of the host that a container may read and write."""

    container_path: str
    host_path: str


@dataclass(frozen=True, slots=True)
class ContainerGrant:
    """What one container gets. The ids it asked for are thereby its. `cdi_devices` are fully qualified names."""

    envs: Mapping[str, str]
    mounts: Sequence[Mount] = ()
    devices: Sequence[DeviceSpec] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    cdi_devices: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class PreferenceRequest:
    """One container's GetPreferredAllocation: choose `size` of `available`, all of `must_include` among them."""

    available: Sequence[str]
    must_include: Sequence[str]
    size: int


class RefusalReason(Enum):
    """Why a request is refused (metric label `result`)."""

    UNKNOWN_SHARE = "unknown"
    UNHEALTHY = "unhealthy"
    TOO_MANY = "too_many"
    SEVERAL_GPUS = "several_gpus"
    INVALID = "invalid"


class Refused(Exception):
    """A request of the kubelet that is not granted; the message is for the pod's author."""

    def __init__(self, reason: RefusalReason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Desk(Protocol):
    """Answers the kubelet's questions from the newest snapshot: at once, without waiting for anything.

    `listing` of a resource that nothing is advertised of is an empty list. `allocate` and `prefer` take one entry per
    container and raise `Refused`; when `allocate` returns, the grant is recorded. `choosing` is to be awaited before
    `prefer`: it waits for a moment, if need be, until the kubelet may choose.
    """

    def listing(self, resource: str) -> Listing: ...

    def allocate(self, resource: str, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]: ...

    async def choosing(self) -> None: ...

    def prefer(self, resource: str, requests: Sequence[PreferenceRequest]) -> list[list[str]]: ...
