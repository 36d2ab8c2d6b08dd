"""The agent's own planner, played forward on a copy of a node: who looks needs no agent, and touches nothing.

What the plan waits for follows at once: the kubelet is taken for an ideal one, and so is an MPS host that runs, but for
a daemon that is in trouble already. Pods stay until they are said to have left.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu
from nodeagent.model.kubelet import PodListing, PodResourcesReason, PodResourcesStatus
from nodeagent.model.mps import DaemonState, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.plan import KubeletAction, Plan, Register, Retire
from nodeagent.model.shares import Applied
from nodeagent.state import plan as planning
from nodeagent.state.daemons import daemons
from nodeagent.state.desired import Desired
from nodeagent.state.effect import perform
from nodeagent.state.health import Symptoms
from nodeagent.state.observed import Observed

HOST_AT_WORK: Final = MpsStatus(MpsReason.RUNNING)
"""An MPS host that has nothing to complain of, and nothing to do yet."""

_START: Final = 1000.0
_STEP: Final = 10.0
"""Seconds between two turns of the play: longer than any fence."""

_TURNS_OF_ONE: Final = 5
"""Turns in which one device changes, and a few to spare: in the worst case they do so one after the other."""


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it stands: its GPUs, what is applied, what is held (and by whom), which resources are served.

    `readable` is whether the node knows who holds what; otherwise every share counts as held. `mps` is how its MPS host
    and the daemons stand, `symptoms` what the XIDs that stand against GPUs are judged by.
    """

    gpus: tuple[Gpu, ...]
    applied: Applied = field(default_factory=Applied)
    held: frozenset[ShareKey] = frozenset()
    holders: Mapping[str, str] = field(default_factory=dict)
    resources: frozenset[str] = frozenset()
    readable: bool = True
    mps: MpsStatus = HOST_AT_WORK
    symptoms: Symptoms = field(default_factory=Symptoms)


def start(node: Node) -> Observed:
    """The node before anything happens."""
    found = Observed(
        now=_START,
        gpus=node.gpus,
        applied=node.applied,
        held=node.held,
        decided_at=_START,
        mps=node.mps,
        registered=node.resources,
        symptoms=node.symptoms,
    )
    if not node.readable:
        return replace(found, pods=PodResourcesStatus(PodResourcesReason.UNAVAILABLE, ""))
    return _looked(found)


def _looked(observed: Observed) -> Observed:
    """As if PodResources had just been read, and the kubelet knew all that it was told."""
    allocatable: dict[str, set[str]] = {}
    for entry in observed.applied.gpus.values():
        if entry.contract is not None and entry.healthy:
            free = entry.ids(entry.numbers - entry.fences.keys())
            allocatable.setdefault(entry.contract.resource, set()).update(free)
    listing = PodListing(
        observed.now, "preview", allocatable={resource: frozenset(ids) for resource, ids in allocatable.items()}
    )
    return replace(observed, pods=PodResourcesStatus(PodResourcesReason.LISTED, "", listing))


def settle(desired: Desired | None, observed: Observed) -> tuple[Observed, Plan]:
    """The node when nothing more can be done, and the plan that is left: what still waits."""
    observed = _hosted(observed)
    plan = planning.plan(desired, observed)
    for _ in range(_TURNS_OF_ONE * (len(observed.gpus) + len(observed.applied.gpus) + 1)):
        shares = [action for action in plan.actions if not isinstance(action, KubeletAction)]
        kubelet = [action for action in plan.actions if isinstance(action, Register | Retire)]
        if not shares and not kubelet:
            break
        applied = perform(observed.applied, shares, observed.now)
        registered = observed.registered | {action.resource for action in kubelet if isinstance(action, Register)}
        registered -= {action.resource for action in kubelet if isinstance(action, Retire)}
        observed = replace(observed, now=observed.now + _STEP, applied=applied, registered=registered)
        if observed.readable:
            observed = _looked(observed)
        observed = _hosted(observed)
        plan = planning.plan(desired, observed)
    return observed, plan


def _hosted(observed: Observed) -> Observed:
    """As if the MPS host, where one runs, had done what the applied contract asks of it."""
    mps = observed.mps
    if mps.reason is not MpsReason.RUNNING:
        return observed
    kept = {
        uuid: replace(daemon, contract=contract)
        if (daemon := mps.daemons.get(uuid)) is not None and daemon.stuck and not daemon.hindered
        else MpsDaemon(uuid, contract, DaemonState.READY)
        for uuid, contract in daemons(observed.applied, {}).items()
    }
    # One that cannot be ended is where it is until its own contract is wanted again.
    staying = {
        uuid: daemon for uuid, daemon in mps.daemons.items() if daemon.hindered and kept.get(uuid) != _well(daemon)
    }
    return replace(observed, mps=replace(mps, daemons=kept | staying))


def _well(daemon: MpsDaemon) -> MpsDaemon:
    return MpsDaemon(daemon.uuid, daemon.contract, DaemonState.READY)


def with_host(observed: Observed) -> Observed:
    """The node when somebody has seen to its MPS host, and to whatever kept daemons from being ready."""
    return replace(observed, mps=HOST_AT_WORK)


def without(observed: Observed, drains: Mapping[str, AbstractSet[int]]) -> Observed:
    """The node when the pods that hold these shares have ended, and it is known."""
    left = {
        (entry.contract.resource, share)
        for uuid, numbers in drains.items()
        if (entry := observed.applied.gpus[uuid]).contract is not None
        for share in entry.ids(numbers)
    }
    return _looked(replace(observed, now=observed.now + _STEP, held=observed.held - left))
