"""What the kubelet says, and how our registrations stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum


@dataclass(frozen=True, slots=True)
class Holder:
    """One container and the device ids of one resource that PodResources lists for it."""

    namespace: str
    pod: str
    container: str
    resource: str
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CheckpointEntry:
    """One id in the kubelet's `kubelet_internal_checkpoint`: which pod and container was given which id."""

    pod_uid: str
    container: str
    resource: str
    id: str


@dataclass(frozen=True, slots=True)
class PodListing:
    """One complete look at PodResources and the checkpoint. Times are monotonic seconds.

    `kubelet` identifies the kubelet process that answered (it changes when the kubelet restarts). `allocatable` maps
    each resource to the ids that this kubelet would hand out: healthy ones, held or not. `checkpoint` is None when it
    could not be read.
    """

    begun_at: float
    kubelet: str
    holders: tuple[Holder, ...] = ()
    allocatable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    checkpoint: frozenset[CheckpointEntry] | None = None


class PodResourcesReason(Enum):
    """Reasons of the condition PodResourcesReady."""

    LISTED = "Listed"
    PENDING = "Pending"
    KUBELET_ABSENT = "KubeletAbsent"
    TIMEOUT = "Timeout"
    UNAVAILABLE = "Unavailable"


@dataclass(frozen=True, slots=True)
class PodResourcesStatus:
    """The newest complete listing, and how the last look went. While `reason` is not LISTED every share counts as
    held.
    """

    reason: PodResourcesReason = PodResourcesReason.PENDING
    message: str = "the kubelet's PodResources have not been read yet"
    listing: PodListing | None = None


class RegistrationState(Enum):
    """Where one resource stands with the kubelet."""

    ABSENT = "absent"  # no kubelet.sock
    BACKOFF = "backoff"  # the last try failed; another follows
    PENDING = "pending"  # registered; the kubelet has not opened its stream yet
    LIVE = "live"  # the stream is open
    FOREIGN = "foreign"  # another plugin has the resource, which the kubelet shows


@dataclass(frozen=True, slots=True)
class RegistrationStatus:
    """How one resource stands with the kubelet: `registrations` and `failures` count since the agent's start."""

    resource: str
    state: RegistrationState
    message: str = ""
    streams: int = 0
    registrations: int = 0
    failures: int = 0
    sent_revision: int = 0
