"""What a config would do to a node, share by share: the agent's own planner, played forward on a copy of the node.

Twice: as far as things go while the pods that hold shares stay, and then as if the shares that must drain had been
left. The kubelet is taken for an ideal one that follows at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import Final

from nodeagent.model.config import Contract
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu
from nodeagent.model.kubelet import PodListing, PodResourcesReason, PodResourcesStatus
from nodeagent.model.plan import KubeletAction, Plan, Register, Retire, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import ChangeClass
from nodeagent.state import plan as planning
from nodeagent.state.desired import Desired
from nodeagent.state.drift import share_count
from nodeagent.state.effect import perform
from nodeagent.state.observed import Observed, by_gpu, holdings
from nodeagent.state.summary import change

_START: Final = 1000.0
_STEP: Final = 10.0
"""Seconds between two turns of the play: longer than any fence."""

_TURNS: Final = 50
_UNKNOWN: Final = AppliedGpu(Gpu("", 0, "", 0))


@dataclass(frozen=True, slots=True)
class Node:
    """A node as it stands: its GPUs, what is applied, what is held (and by whom), which resources are served.

    `readable` is whether the node knows who holds what; otherwise every share counts as held.
    """

    gpus: tuple[Gpu, ...]
    applied: Applied = field(default_factory=Applied)
    held: frozenset[ShareKey] = frozenset()
    holders: Mapping[str, str] = field(default_factory=dict)
    resources: frozenset[str] = frozenset()
    readable: bool = True


@dataclass(frozen=True, slots=True)
class Terms:
    """What a GPU is offered as: contract, number of shares, and how many of them one container may have (None: any)."""

    contract: Contract | None = None
    shares: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class GpuPreview:
    """What becomes of one GPU, as ids of shares.

    `added`, `removed` and `kept` at once; `draining` when their pods have ended, and `later` after that. `holders` are
    who holds shares of a GPU that has to drain, `namespace/pod/container`, "" for one that is not known.
    """

    gpu: Gpu
    before: Terms
    after: Terms
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.before != self.after or self.added or self.removed or self.draining or self.later)


@dataclass(frozen=True, slots=True)
class Preview:
    """What becomes of the node: every GPU by index, the class of the change, and which resources come and go."""

    kind: ChangeClass
    gpus: tuple[GpuPreview, ...]
    registered: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.registered or self.retired or any(gpu.changes for gpu in self.gpus))


def preview(desired: Desired | None, node: Node) -> Preview:
    """Play the planner forward until nothing more happens. `desired` None: what is applied is kept."""
    start = _observed(node)
    staying, waiting = _settle(desired, start)
    drains = {
        wait.uuid: wait.numbers for wait in waiting.waits if wait.reason in {WaitReason.PODS, WaitReason.POD_RESOURCES}
    }
    left, _ = _settle(desired, _without(staying, drains))
    uuids = dict.fromkeys((*(gpu.uuid for gpu in node.gpus), *node.applied.gpus))
    found = [
        _gpu(
            uuid,
            desired,
            node,
            staying=staying.applied,
            left=left.applied,
            drains=drains.get(uuid, frozenset()),
        )
        for uuid in uuids
    ]
    return Preview(
        kind=change(desired, start).kind,
        gpus=tuple(sorted(found, key=lambda one: (one.gpu.index, one.gpu.uuid))),
        registered=tuple(sorted(left.registered - node.resources)),
        retired=tuple(sorted(node.resources - left.registered)),
    )


def _observed(node: Node) -> Observed:
    observed = Observed(
        now=_START, gpus=node.gpus, applied=node.applied, held=node.held, decided_at=_START, registered=node.resources
    )
    if not node.readable:
        return replace(observed, pods=PodResourcesStatus(PodResourcesReason.UNAVAILABLE, ""))
    return _looked(observed)


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


def _settle(desired: Desired | None, observed: Observed) -> tuple[Observed, Plan]:
    """The node when nothing more can be done, and the plan that is left: what still waits."""
    plan = planning.plan(desired, observed)
    for _ in range(_TURNS):
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
        plan = planning.plan(desired, observed)
    return observed, plan


def _without(observed: Observed, drains: Mapping[str, AbstractSet[int]]) -> Observed:
    """The node when the pods that hold these shares have ended, and it is known."""
    left = {
        (entry.contract.resource, share)
        for uuid, numbers in drains.items()
        if (entry := observed.applied.gpus[uuid]).contract is not None
        for share in entry.ids(numbers)
    }
    return _looked(replace(observed, now=observed.now + _STEP, held=observed.held - left))


def _gpu(
    uuid: str, desired: Desired | None, node: Node, *, staying: Applied, left: Applied, drains: frozenset[int]
) -> GpuPreview:
    before = node.applied.gpus.get(uuid, _UNKNOWN)
    stays, last = staying.gpus.get(uuid, _UNKNOWN), left.gpus.get(uuid, _UNKNOWN)
    want = desired.wants.get(uuid) if desired is not None else None
    gpu = want.gpu if want is not None else next((one for one in node.gpus if one.uuid == uuid), before.gpu)
    after = _terms(last)
    if want is not None and want.contract is not None:
        after = Terms(want.contract, want.count, want.rule.max_shares_per_container)
    was, now, then = _offered(before), _offered(stays), _offered(last)
    listed, still = _keys(before, before.numbers), _keys(stays, stays.numbers)
    draining = _keys(stays, drains)
    held = holdings(before, by_gpu(node.held).get(uuid, ())).own if node.readable else before.numbers
    return GpuPreview(
        gpu=gpu,
        before=_terms(before),
        after=after,
        added=_ids(now - was),
        removed=_ids(listed - still),
        kept=_ids((now & was) - draining),
        draining=_ids(draining),
        later=_ids(then - now),
        holders=tuple(node.holders.get(share, "") for share in before.ids(held)) if drains else (),
    )


def _terms(entry: AppliedGpu) -> Terms:
    if entry.contract is None:
        return Terms()
    return Terms(entry.contract, share_count(entry), entry.max_shares_per_container)


def _offered(entry: AppliedGpu) -> frozenset[ShareKey]:
    """Shares that are not on their way out."""
    return _keys(entry, entry.numbers - entry.fences.keys())


def _keys(entry: AppliedGpu, numbers: Iterable[int]) -> frozenset[ShareKey]:
    """Shares with their resource: the same id under another name is another share."""
    resource = entry.contract.resource if entry.contract is not None else ""
    return frozenset((resource, share) for share in entry.ids(numbers))


def _ids(keys: Iterable[ShareKey]) -> tuple[str, ...]:
    return tuple(sorted((share for _, share in keys), key=lambda share: (len(share), share)))
