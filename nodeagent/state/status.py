"""The summary of one turn: conditions, GPUs, resources. The one place that computes conditions, from everything that is
known.

Conditions are states, stated positively: `Ready` and its like are True when all is well, `Draining`, `Stalled`,
`ServingLastKnownGood`, `SharedTwice`, `Suspended`, `PlanRefused` and `GpusRenumbered` are True when something is out of
the ordinary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from nodeagent.model.config import THROUGH_MIG, Following, Stage, mistakes
from nodeagent.model.handover import HandOver, HostFiles
from nodeagent.model.health import EventsReason, XidLog
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.kubelet import (
    Obstacle,
    PodResourcesReason,
    PodResourcesStatus,
    RegistrationState,
    RegistrationStatus,
    SharedTwice,
)
from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.node import NodeStatus, SyncReason
from nodeagent.model.plan import Plan, Refusal, WaitReason
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import (
    Condition,
    ConfigState,
)
from nodeagent.model.words import count
from nodeagent.state.daemons import daemons, left_over, troubles
from nodeagent.state.desired import Desired
from nodeagent.state.handing import readiness
from nodeagent.state.naming import gpus


class Reason(StrEnum):
    """Every reason that a condition can have."""

    # Ready
    SERVING = "Serving"
    NOTHING_ACCEPTED = "NothingAccepted"
    NO_GPUS = "NoGpus"
    NOT_REGISTERED = "NotRegistered"
    FAILING = "Failing"
    # ConfigAccepted
    PENDING = "Pending"
    ACCEPTED = "Accepted"
    MISSING = "Missing"
    UNREADABLE = "Unreadable"
    PARSE_ERROR = "ParseError"
    SCHEMA_ERROR = "SchemaError"
    SEMANTIC_ERROR = "SemanticError"
    # ConfigFollowed
    FOLLOWED = "Followed"
    SUB_PATH = "SubPath"
    SINGLE_FILE = "SingleFile"
    # InventoryReady
    FOUND = "Found"
    DRIVER_MISSING = "DriverMissing"
    DRIVER_ERROR = "DriverError"
    GPU_LOST = "GpuLost"
    GPU_HANGS = "GpuHangs"
    INVALID_FILE = "InvalidFile"
    NO_MIG_DEVICES = "NoMigDevices"
    # HealthWatched
    WATCHING = "Watching"
    NOT_SUPPORTED = "NotSupported"
    EVENTS_FAILED = "Failed"
    # Registered
    ALL_REGISTERED = "AllRegistered"
    NOTHING_TO_REGISTER = "NothingToRegister"
    KUBELET_ABSENT = "KubeletAbsent"
    FOREIGN_PLUGIN = "ForeignPlugin"
    ACCESS_DENIED = "AccessDenied"
    DIRECTORY_UNWRITABLE = "DirectoryUnwritable"
    # PodResourcesReady
    LISTED = "Listed"
    TIMEOUT = "Timeout"
    UNAVAILABLE = "Unavailable"
    # MpsReady
    IDLE = "Idle"
    DAEMONS_READY = "DaemonsReady"
    HOST_OFF = "HostOff"
    HOST_ABSENT = "HostAbsent"
    UNUSABLE = "Unusable"
    STARTING = "Starting"
    OCCUPIED = "Occupied"
    DAEMON_FAILED = "DaemonFailed"
    STOPPING = "Stopping"
    LIMITS_ALTERED = "LimitsAltered"
    NOT_PREPARED = "NotPrepared"
    COMPUTE_MODE_LEFT = "ComputeModeLeft"
    # LabelsSynced
    LABELS_OFF = "LabelsOff"
    SYNCED = "Synced"
    NODE_READ_FAILED = "NodeReadFailed"
    LABELS_FAILED = "LabelWriteFailed"
    FORBIDDEN = "Forbidden"
    UNREACHABLE = "Unreachable"
    # HandOverReady
    NOTHING_NEEDED = "NothingNeeded"
    NODES_FOUND = "NodesFound"
    SPEC_FOUND = "SpecFound"
    SPEC_MISSING = "SpecMissing"
    SPEC_OUTDATED = "SpecOutdated"
    DEVICES_MISSING = "DevicesMissing"
    CHANNEL_MISSING = "ChannelMissing"
    MIG_BY_INDEX = "MigByIndex"
    INDEX_UNKNOWN = "IndexUnknown"
    # StateDirWritable
    WRITABLE = "Writable"
    WRITE_FAILED = "WriteFailed"
    # Draining, Stalled, ServingLastKnownGood, SharedTwice, Suspended, GpusRenumbered
    PODS_HOLD_SHARES = "PodsHoldShares"
    NOTHING_DRAINS = "NothingDrains"
    DRAIN_TIMEOUT = "DrainTimeout"
    IN_TIME = "InTime"
    DOCUMENT_NOT_ACCEPTED = "DocumentNotAccepted"
    DOCUMENT_ACCEPTED = "DocumentAccepted"
    SEVERAL_PODS = "SeveralPods"
    ONE_POD_EACH = "OnePodEach"
    CONFIG_SUSPENDS = "ConfigSuspends"
    NOT_SUSPENDED = "NotSuspended"
    # PlanRefused
    INVARIANT_BROKEN = "InvariantBroken"
    NOTHING_REFUSED = "NothingRefused"
    # GpusRenumbered
    NUMBERS_DIFFER = "NumbersDiffer"
    NUMBERS_AGREE = "NumbersAgree"


_REJECTED = {
    Stage.READ: Reason.UNREADABLE,
    Stage.PARSE: Reason.PARSE_ERROR,
    Stage.SCHEMA: Reason.SCHEMA_ERROR,
    Stage.SEMANTIC: Reason.SEMANTIC_ERROR,
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What conditions are computed from. `now` and `draining` (by uuid, since when) are in monotonic
    seconds, `transition_timeout` in seconds.

    `desired` is what the config in force wants. `missing` tells a document that is not there from one that cannot be
    read. `foreign` are the ids of another plugin that the kubelet shows of a resource, by their number. `disk_problem`
    is the last failed write, None when all is written. `handover` is how devices are handed over by now. `shared_twice`
    are the shares that the kubelet has handed out to several pods. `following` says whether a change of the document
    can be seen, `remark` what the agent does about a driver that only a new container can use.
    """

    now: float
    config: ConfigState
    inventory: Inventory
    applied: Applied = field(default_factory=Applied)
    registrations: tuple[RegistrationStatus, ...] = ()
    foreign: Mapping[str, int] = field(default_factory=dict)
    mps: MpsStatus = field(default_factory=MpsStatus)
    pods: PodResourcesStatus = field(default_factory=PodResourcesStatus)
    plan: Plan = field(default_factory=Plan)
    draining: Mapping[str, float] = field(default_factory=dict)
    transition_timeout: float = 0.0
    missing: bool = False
    looked: bool = True
    disk_problem: str | None = None
    desired: Desired | None = None
    xids: XidLog = field(default_factory=XidLog)
    node: NodeStatus = field(default_factory=NodeStatus)
    handover: HandOver = field(default_factory=HandOver)
    host_files: HostFiles = field(default_factory=HostFiles)
    shared_twice: tuple[SharedTwice, ...] = ()
    following: Following = Following.FOLLOWED
    remark: str = ""

    @property
    def wanted(self) -> frozenset[str]:
        """The resources that the config in force wants."""
        return self.desired.resources() if self.desired is not None else frozenset()


def conditions(facts: Facts, before: Iterable[Condition]) -> tuple[Condition, ...]:
    """All conditions, with `since` carried over from `before` where status and reason are the same."""
    before = tuple(before)
    config = _config_accepted(facts)
    registered = _registered(facts)
    found = (
        _ready(facts, config, registered),
        config,
        _config_followed(facts),
        _inventory_ready(facts),
        Condition(
            "HealthWatched",
            facts.xids.reason is EventsReason.WATCHING,
            Reason(facts.xids.reason.value),
            _with_names(facts.xids.message, facts),
        ),
        registered,
        Condition(
            "PodResourcesReady",
            facts.pods.reason is PodResourcesReason.LISTED,
            Reason(facts.pods.reason.value),
            facts.pods.message,
        ),
        _mps_ready(facts),
        Condition(
            "LabelsSynced",
            facts.node.reason in {SyncReason.OFF, SyncReason.SYNCED},
            Reason(facts.node.reason.value),
            facts.node.message,
        ),
        _handover_ready(facts),
        Condition(
            "StateDirWritable",
            facts.disk_problem is None,
            Reason.WRITABLE if facts.disk_problem is None else Reason.WRITE_FAILED,
            facts.disk_problem or "",
        ),
        *_drains(facts),
        Condition(
            "ServingLastKnownGood",
            facts.config.using_last_known_good,
            Reason.DOCUMENT_NOT_ACCEPTED if facts.config.using_last_known_good else Reason.DOCUMENT_ACCEPTED,
            "the newest document is not accepted; the last known good one is in force"
            if facts.config.using_last_known_good
            else "",
        ),
        Condition(
            "SharedTwice",
            bool(facts.shared_twice),
            Reason.SEVERAL_PODS if facts.shared_twice else Reason.ONE_POD_EACH,
            "; ".join(map(str, facts.shared_twice)),
        ),
        Condition(
            "Suspended",
            facts.config.suspended,
            Reason.CONFIG_SUSPENDS if facts.config.suspended else Reason.NOT_SUSPENDED,
            "spec.suspend is true: what is applied is kept" if facts.config.suspended else "",
        ),
        _plan_refused(facts),
        _renumbered(facts, before),
    )
    known = {(entry.type, entry.status, entry.reason): entry.since for entry in before}
    return tuple(
        replace(entry, since=known.get((entry.type, entry.status, entry.reason), facts.now)) for entry in found
    )


def _ready(facts: Facts, config: Condition, registered: Condition) -> Condition:
    if facts.config.desired is None:
        return Condition("Ready", False, Reason.NOTHING_ACCEPTED, _nothing_accepted(facts.config, config))
    unknown = facts.inventory.reason in {InventoryReason.PENDING, InventoryReason.DRIVER_MISSING}
    if unknown or not (facts.applied.gpus or facts.inventory.complete):
        return Condition("Ready", False, Reason.NO_GPUS, facts.inventory.message)
    if not registered.status:
        return Condition("Ready", False, Reason.NOT_REGISTERED, registered.message)
    return Condition("Ready", True, Reason.SERVING, "")


def _nothing_accepted(config: ConfigState, accepted: Condition) -> str:
    """That there is no config to go by, and what is wrong with the one that is there, or where it should be."""
    told = "no sharing config was ever accepted"
    if accepted.status or not accepted.message:
        return told
    at = f"{config.path}: " if config.problem and config.path not in accepted.message else ""
    return f"{told}: {at}{accepted.message}"


def _config_accepted(facts: Facts) -> Condition:
    config = facts.config
    if not facts.looked:
        return Condition("ConfigAccepted", False, Reason.PENDING, "the document has not been read yet")
    if config.newest is None:
        reason = Reason.MISSING if facts.missing else Reason.UNREADABLE
        return Condition("ConfigAccepted", False, reason, config.problem or "")
    if config.violations:
        first = config.violations[0]
        others = mistakes(config.violations) - 1
        more = f" (and {others} more)" if others else ""
        return Condition("ConfigAccepted", False, _REJECTED[first.stage], f"{first}{more}")
    return Condition("ConfigAccepted", True, Reason.ACCEPTED, config.newest.git_blob)


def _config_followed(facts: Facts) -> Condition:
    """Whether Git is heard at all: a file that never changes is in perfect order otherwise."""
    follows = facts.following
    message = f"{facts.config.path}: {follows.explained}" if follows.explained else ""
    return Condition("ConfigFollowed", follows is Following.FOLLOWED, Reason(follows.value), message)


def _inventory_ready(facts: Facts) -> Condition:
    """A driver that is content without a GPU which this node had does not know that one is missing."""
    inventory = facts.inventory
    if facts.remark and inventory.message:
        inventory = replace(inventory, message=f"{inventory.message}; {facts.remark}")
    ordered = facts.applied.ordered()
    lost = [entry.gpu for entry in ordered if entry.gpu.health is GpuHealth.LOST and entry.gpu.mig is None]
    if inventory.reason is InventoryReason.FOUND and lost:
        message = "; ".join(f"{gpu.name} ({gpu.uuid}): {gpu.message}" for gpu in lost)
        return Condition("InventoryReady", False, Reason.GPU_LOST, message)
    if inventory.reason is InventoryReason.FOUND and (bare := _without_devices(facts)):
        why = "; ".join(sorted({gpu.message for gpu in bare if gpu.message})) or "there is no MIG device"
        told = f"{gpus(bare)}: MIG is enabled, and nothing can be offered: {why}"
        return Condition("InventoryReady", False, Reason.NO_MIG_DEVICES, told)
    return Condition(
        "InventoryReady",
        inventory.reason is InventoryReason.FOUND,
        Reason(inventory.reason.value),
        _with_names(inventory.message, facts) or _counted(inventory),
    )


def _with_names(message: str, facts: Facts) -> str:
    """What the driver has to say of GPUs, which it calls by their uuids, with the names that they have here."""
    for entry in facts.applied.ordered():
        message = message.replace(f"{entry.gpu.uuid}: ", f"{entry.gpu.name} ({entry.gpu.uuid}): ")
    return message


def _without_devices(facts: Facts) -> list[Gpu]:
    """GPUs with MIG enabled of which the config in force would offer MIG devices, and which have none."""
    parents = {gpu.mig.parent for gpu in facts.inventory.gpus if gpu.mig is not None}
    through = {
        uuid for uuid, want in (facts.desired.wants.items() if facts.desired else ()) if want.rule == THROUGH_MIG
    }
    return [
        entry.gpu for entry in facts.applied.ordered() if entry.gpu.mig_enabled and entry.gpu.uuid in through - parents
    ]


def _counted(inventory: Inventory) -> str:
    parts = sum(gpu.mig is not None for gpu in inventory.gpus)
    told = count(len(inventory.gpus) - parts, "GPU")
    return f"{told}, {count(parts, 'MIG device')}" if parts else told


def _registered(facts: Facts) -> Condition:
    if facts.wanted and not facts.registrations:
        names = ", ".join(sorted(facts.wanted))
        if facts.pods.reason in {PodResourcesReason.KUBELET_ABSENT, PodResourcesReason.ACCESS_DENIED}:
            return Condition("Registered", False, Reason(facts.pods.reason.value), f"{names}: {facts.pods.message}")
        if _held_up_by_mps(facts):
            return Condition("Registered", True, Reason.NOTHING_TO_REGISTER, f"{names}: held up by MPS, see MpsReady")
        return Condition("Registered", False, Reason.PENDING, f"nothing is advertised yet of {names}")
    waiting = [status for status in facts.registrations if status.state is not RegistrationState.LIVE]
    if not waiting and facts.foreign:
        message = "; ".join(
            f"another plugin has registered {resource} too: the kubelet shows {count(ids, 'id')} of it that "
            f"{'is' if ids == 1 else 'are'} not ours"
            for resource, ids in sorted(facts.foreign.items())
        )
        return Condition("Registered", False, Reason.FOREIGN_PLUGIN, message)
    if not waiting:
        return Condition("Registered", True, Reason.ALL_REGISTERED, "")
    states = {status.state for status in waiting}
    obstacles = {status.obstacle for status in waiting}
    if RegistrationState.FOREIGN in states:
        reason = Reason.FOREIGN_PLUGIN
    elif Obstacle.DENIED in obstacles:
        reason = Reason.ACCESS_DENIED
    elif Obstacle.UNWRITABLE in obstacles:
        reason = Reason.DIRECTORY_UNWRITABLE
    elif RegistrationState.ABSENT in states:
        reason = Reason.KUBELET_ABSENT
    else:
        reason = Reason.PENDING
    message = "; ".join(
        f"{status.resource} is {status.state.value}" + (f": {status.message}" if status.message else "")
        for status in waiting
    )
    return Condition("Registered", False, reason, message)


def _held_up_by_mps(facts: Facts) -> bool:
    """Whether every GPU of which shares are wanted waits for something of MPS that somebody has to see to. Nobody waits
    for GPUs that are lost or ill.
    """
    applied, wants = facts.applied.gpus, facts.desired.wants if facts.desired is not None else {}
    awaited = [uuid for uuid, want in wants.items() if want.contract is not None]
    awaited = [uuid for uuid in awaited if uuid not in applied or applied[uuid].well]
    waits = {wait.uuid: wait.detail for wait in facts.plan.waits if wait.reason is WaitReason.DAEMON}
    return bool(awaited) and all(uuid in waits and _is_held_up(uuid, waits[uuid], facts.mps) for uuid in awaited)


def _is_held_up(uuid: str, detail: str, mps: MpsStatus) -> bool:
    """Whether a wait for something of MPS does not end by itself. What is not known yet will be."""
    if mps.reason is MpsReason.PENDING:
        return False
    if mps.reason is MpsReason.RUNNING and (daemon := mps.daemons.get(uuid)) is not None:
        return daemon.stuck
    unknown = mps.reason is MpsReason.RUNNING and mps.means is not None and uuid not in mps.means
    return bool(detail) and not unknown


_DAEMON = {
    DaemonState.FAILED: Reason.DAEMON_FAILED,
    DaemonState.OCCUPIED: Reason.OCCUPIED,
    DaemonState.STARTING: Reason.STARTING,
    DaemonState.STOPPING: Reason.STOPPING,
    DaemonState.READY: Reason.LIMITS_ALTERED,
}
"""Reasons of MpsReady, the worst first."""


def _mps_ready(facts: Facts) -> Condition:
    """Whether every daemon that must run is verified, somebody looks after it, none is left over, and nothing else of
    MPS holds a GPU up.
    """
    mps, ordered = facts.mps, facts.applied.ordered()
    wanted = daemons(facts.applied, {})
    found = troubles(facts.applied, mps)
    left = {entry.gpu.uuid: told for entry in ordered if (told := left_over(entry.gpu.uuid, mps))}
    waits = {wait.uuid: wait.detail for wait in facts.plan.waits if wait.reason is WaitReason.DAEMON}
    waiting = {uuid: told for uuid, told in waits.items() if told != left.get(uuid)}
    names = {entry.gpu.uuid: entry.gpu.name for entry in ordered}
    modes = [f"{names[uuid]}: {told}" for uuid, told in left.items()]
    uuids = {*wanted, *waiting, *(one.entry.gpu.uuid for one in found)}
    if not uuids:
        if modes:
            return Condition("MpsReady", False, Reason.COMPUTE_MODE_LEFT, "; ".join(modes))
        return Condition("MpsReady", True, Reason.IDLE, "no GPU is under MPS")
    named = gpus(entry.gpu for entry in ordered if entry.gpu.uuid in uuids)
    if mps.reason is not MpsReason.RUNNING:
        message = "; ".join([f"{named}: {mps.message}", *modes])
        return Condition("MpsReady", False, Reason(mps.reason.value), message)
    troubled = {one.entry.gpu.uuid for one in found}
    unprepared = [f"{names[uuid]}: {told}" for uuid, told in waiting.items() if uuid in names.keys() - troubled]
    if not found:
        if unprepared:
            return Condition("MpsReady", False, Reason.NOT_PREPARED, "; ".join(unprepared))
        return Condition("MpsReady", True, Reason.DAEMONS_READY, f"under MPS: {named}")
    worst = next(reason for state, reason in _DAEMON.items() if any(one.state is state for one in found))
    message = "; ".join([*(f"{one.entry.gpu.name}: {one.message}" for one in found), *unprepared])
    return Condition("MpsReady", False, worst, message)


def _handover_ready(facts: Facts) -> Condition:
    """Whether the host has what containers are referred to: for every GPU and MIG device that they may get."""
    offered = (entry.gpu for entry in facts.applied.gpus.values() if entry.contract is not None and entry.healthy)
    reason, message = readiness(facts.handover, facts.host_files, offered)
    return Condition("HandOverReady", reason.well, Reason(reason.value), message)


def _plan_refused(facts: Facts) -> Condition:
    refused = facts.plan.refused
    if not refused:
        return Condition("PlanRefused", False, Reason.NOTHING_REFUSED, "")
    return Condition("PlanRefused", True, Reason.INVARIANT_BROKEN, refusals(facts.applied, refused))


def refusals(applied: Applied, refused: Iterable[Refusal]) -> str:
    """What is wrong on which GPU, in words; empty where nothing was refused."""
    told = []
    for one in refused:
        entry = applied.gpus.get(one.uuid)
        told.append(f"{entry.gpu.name if entry is not None else one.uuid} stays as it is: {one.message}")
    return "; ".join(told)


def _renumbered(facts: Facts, before: Iterable[Condition]) -> Condition:
    """Whether the driver, and so `nvidia-smi`, calls a GPU by another number than rules and messages do. While the
    driver does not answer it stays as it was.
    """
    known = next((entry for entry in before if entry.type == "GpusRenumbered"), None)
    if known is not None and not facts.inventory.complete:
        return known
    found = [entry.gpu for entry in facts.applied.ordered() if entry.gpu.renumbered and entry.gpu.mig is None]
    if not found:
        return Condition("GpusRenumbered", False, Reason.NUMBERS_AGREE, "")
    numbers = ", ".join(f"{gpu.name} has index {gpu.driver_index} there" for gpu in found)
    message = f"the driver, and nvidia-smi, count the GPUs otherwise than rules and messages: {numbers}"
    return Condition("GpusRenumbered", True, Reason.NUMBERS_DIFFER, message)


def _drains(facts: Facts) -> tuple[Condition, Condition]:
    drains = [wait for wait in facts.plan.waits if wait.reason is WaitReason.PODS]
    shares = sum(len(wait.numbers) for wait in drains)
    named = ", ".join(facts.applied.gpus[wait.uuid].gpu.name for wait in drains)
    told = f"{count(shares, 'held share')} {'drains' if shares == 1 else 'drain'} on {named}"
    late = [
        wait.uuid for wait in drains if facts.now >= facts.draining.get(wait.uuid, facts.now) + facts.transition_timeout
    ]
    stalled = ", ".join(facts.applied.gpus[uuid].gpu.name for uuid in late)
    return (
        Condition("Draining", True, Reason.PODS_HOLD_SHARES, told)
        if drains
        else Condition("Draining", False, Reason.NOTHING_DRAINS, ""),
        Condition("Stalled", True, Reason.DRAIN_TIMEOUT, f"the drain lasts longer than allowed on {stalled}")
        if late
        else Condition("Stalled", False, Reason.IN_TIME, ""),
    )
