"""What the kubelet says, and how our registrations stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

PodName = tuple[str, str]
"""Namespace and name of a pod."""


@dataclass(frozen=True, slots=True)
class Holder:
    """One container and the device ids of one resource that PodResources lists for it."""

    namespace: str
    pod: str
    container: str
    resource: str
    ids: tuple[str, ...]

    @property
    def name(self) -> PodName:
        return self.namespace, self.pod


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

    `list_begun_at` is None for a look by `List`. For a look by `Get` it says when the last `List` began: the `holders`
    are the pods that this `List` named, without those that have ended since. `asked` are those whose answers are of
    this very look; what is said of the others was true once.
    """

    begun_at: float
    kubelet: str
    holders: tuple[Holder, ...] = ()
    allocatable: Mapping[str, frozenset[str]] = field(default_factory=dict)
    checkpoint: frozenset[CheckpointEntry] | None = None
    list_begun_at: float | None = None
    asked: frozenset[PodName] = frozenset()
    cgroups: frozenset[str] | None = None

    @property
    def by_list(self) -> bool:
        """Whether this look asked for every pod of the node."""
        return self.list_begun_at is None

    @property
    def listed_at(self) -> float:
        """When the newest `List` began, this one or an earlier one."""
        return self.begun_at if self.list_begun_at is None else self.list_begun_at


@dataclass(frozen=True, slots=True)
class SharedTwice:
    """A share that the kubelet has handed out to several pods."""

    resource: str
    share: str
    pods: tuple[PodName, ...]

    def __str__(self) -> str:
        return f"{self.share} ({self.resource}): {' and '.join('/'.join(pod) for pod in self.pods)}"


@dataclass(frozen=True, slots=True)
class Looks:
    """How to look at the kubelet from now on: every `interval` seconds by `Get`, and when by `List`. Times are
    monotonic seconds.

    `asks` maps the pods that hold shares of ours to how old, in seconds, what is known of them may become. A `List` is
    needed that begins at `list_at` or later; one that begins at `names_at` or later is welcome in a quiet moment. Each
    is due from that time on, until a `List` has begun.
    """

    interval: float = 30.0
    asks: Mapping[PodName, float] = field(default_factory=dict)
    list_at: float | None = None
    names_at: float | None = None


class PodResourcesReason(Enum):
    """Reasons of the condition PodResourcesReady."""

    LISTED = "Listed"
    PENDING = "Pending"
    KUBELET_ABSENT = "KubeletAbsent"
    ACCESS_DENIED = "AccessDenied"
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


class Obstacle(Enum):
    """What keeps a resource from being registered until somebody takes it away."""

    DENIED = "denied"  # nobody lets us connect to kubelet.sock, or look at it
    UNWRITABLE = "unwritable"  # no socket can be made in the kubelet's directory


@dataclass(frozen=True, slots=True)
class RegistrationStatus:
    """How one resource stands with the kubelet: `registrations` and `failures` count since the agent's start.
    `obstacle` is what the last try has met.
    """

    resource: str
    state: RegistrationState
    message: str = ""
    streams: int = 0
    registrations: int = 0
    failures: int = 0
    sent_revision: int = 0
    obstacle: Obstacle | None = None
