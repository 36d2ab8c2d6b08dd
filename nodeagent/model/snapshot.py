"""The immutable summary of one turn of the loop: what every report, stream and answer is made from.

All times in it are monotonic seconds. A report shows them in Unix seconds, by the wall clock as it is set then: see
`nodeagent.report.dates`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from nodeagent.model.config import Contract, LabelTerms, Violation
from nodeagent.model.handover import HandOver, HostFiles
from nodeagent.model.health import XidLog
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu, Inventory
from nodeagent.model.kubelet import RegistrationStatus, SharedTwice
from nodeagent.model.mps import MpsDaemon, MpsStatus
from nodeagent.model.node import NodeStatus
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied, Listing, ShareState


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition. `since` is when `status` or `reason` last changed."""

    type: str
    status: bool
    reason: str
    message: str
    since: float = 0.0


ABNORMAL = frozenset(
    {"Draining", "Stalled", "ServingLastKnownGood", "SharedTwice", "Suspended", "PlanRefused", "GpusRenumbered"}
)
"""Conditions that are true when something is out of the ordinary."""


class DriftKind(Enum):
    """Which difference: between Git and the accepted config, wanted and advertised shares, an MPS daemon and its
    contract, our list and the kubelet's, what is true and the labels that say it, or a GPU and its health.
    """

    CONFIG = "config"
    SHARES = "shares"
    MPS = "mps"
    KUBELET = "kubelet"
    LABELS = "labels"
    HARDWARE = "hardware"


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference: of what, what is wanted, what is there, and since when."""

    kind: DriftKind
    subject: str
    want: str
    have: str
    since: float = 0.0


class ReloadResult(Enum):
    """How a look at a document ended."""

    ACCEPTED = "accepted"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    FAILED = "failed"


class ChangeClass(Enum):
    """What an accepted document does to the node: nothing, shares come and go at once, or held shares must drain
    first.
    """

    NONE = "none"
    LIVE = "live"
    DRAINED = "drained"


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """Which document: enough to find it in Git. `name` is the `metadata.name` of its config, if it could be read."""

    path: str
    sha256: str
    git_blob: str
    revision: str | None
    name: str | None
    size: int


@dataclass(frozen=True, slots=True)
class Reload:
    """One reload as the log and the status tell it. `duration` from file event to published, in seconds."""

    at: float
    document: DocumentInfo | None
    result: ReloadResult
    change: ChangeClass | None
    message: str
    duration: float


@dataclass(frozen=True, slots=True)
class ConfigState:
    """How the node stands to Git.

    `newest` is the document in the mount (None: there is none), `violations` what is wrong with it; `desired` the
    accepted one, with the `obstacles` that keep it from being applied to this node's GPUs as they are now,
    `applied` the last one that was converged to, `last_known_good` the one on disk.
    """

    path: str
    newest: DocumentInfo | None = None
    desired: DocumentInfo | None = None
    applied: DocumentInfo | None = None
    last_known_good: DocumentInfo | None = None
    violations: tuple[Violation, ...] = ()
    obstacles: tuple[Violation, ...] = ()
    notes: tuple[str, ...] = ()
    problem: str | None = None
    generation: int = 0
    observed_generation: int = 0
    suspended: bool = False
    using_last_known_good: bool = False


@dataclass(frozen=True, slots=True)
class ShareStatus:
    """One share: its number and id, its state, and who holds it (`namespace/pod/container`).

    `held` and `fenced` are said apart from `state`, which can name one thing only: an unhealthy share may be held as
    well.
    """

    number: int
    id: str
    state: ShareState
    holder: str | None = None
    held: bool = False
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class GpuStatus:
    """One GPU: facts, what Git wants of it (rule, contract, number of shares), what is applied, its MPS daemon, and its
    shares by number.
    """

    gpu: Gpu
    rule: str | None
    wanted: Contract | None
    wanted_shares: int
    contract: Contract | None
    shares: Sequence[ShareStatus]
    daemon: MpsDaemon | None = None


@dataclass(frozen=True, slots=True)
class ResourceStatus:
    """One resource: shares by state, registration, and since when its longest draining share drains."""

    resource: str
    counts: Mapping[ShareState, int]
    registration: RegistrationStatus | None
    draining_since: float | None = None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is known after one turn of the loop. `terms` are those of the config in force, `machine` is what
    the firmware calls this machine, `node_object` how the Node stands. It is `settled` when everything is as the
    accepted document wants it, and `in_sync` when that is the newest one. `timestamp` is when the agent started, by the
    wall clock of then: a label that says so is not written anew when that clock is set. `held_since` is since when
    shares count as held though PodResources names nobody who has them.
    """

    revision: int
    at: float
    started_at: float
    node: str
    pool: str | None
    version: str
    config: ConfigState
    inventory: Inventory
    mps: MpsStatus = field(default_factory=MpsStatus)
    xids: XidLog = field(default_factory=XidLog)
    applied: Applied = field(default_factory=Applied)
    conditions: tuple[Condition, ...] = ()
    gpus: tuple[GpuStatus, ...] = ()
    resources: tuple[ResourceStatus, ...] = ()
    drift: tuple[Drift, ...] = ()
    plan: Plan = field(default_factory=Plan)
    reloads: tuple[Reload, ...] = ()
    listings: Mapping[str, Listing] = field(default_factory=dict)
    in_sync: bool = False
    settled: bool = False
    machine: str = "unknown"
    terms: LabelTerms = field(default_factory=LabelTerms)
    handover: HandOver = field(default_factory=HandOver)
    host_files: HostFiles = field(default_factory=HostFiles)
    node_object: NodeStatus = field(default_factory=NodeStatus)
    shared_twice: tuple[SharedTwice, ...] = ()
    timestamp: int = 0
    held_since: Mapping[ShareKey, float] = field(default_factory=dict)

    def condition(self, type_: str) -> Condition | None:
        return next((entry for entry in self.conditions if entry.type == type_), None)
