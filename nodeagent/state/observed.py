"""Observed state: what is true now, as one value, in the terms the planner needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from nodeagent.model.config import Contract, Mode
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu
from nodeagent.model.kubelet import Holder, PodResourcesReason, PodResourcesStatus
from nodeagent.model.mps import MpsStatus
from nodeagent.model.shares import Applied, AppliedGpu, split_share_id
from nodeagent.state.health import Symptoms

FENCE_SECONDS = 1.0
"""How long a share is sent Unhealthy before it may be dropped, at least (DESIGN section 5, rule 4)."""

BLIND_SECONDS = 5.0
"""How long a kubelet that is there may fail to say what pods have before GPUs are offered without knowing."""

MENTION_SECONDS = 1.0
"""How long a GetPreferredAllocation that named an id concerns it: the kubelet's Allocate of that id may still
follow."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What is true now. `now` and all other times are monotonic seconds.

    `gpus` are the node's GPUs as `nodegpus` lays them out, `listed` the uuids among them that the driver lists. `held`
    are the shares that pods have or may have. `pods` is how PodResources stands. `decided_at` is when the desired state
    last changed for all GPUs at once, `decisions` when it did for single ones since, by uuid: a `List` begun before
    that is too old to take anything away by. `cautious_until` is the same for an agent that has just started: what the
    one before it granted in its last moments is on no disk, and `List` may not know of it yet. `undecided`: it has just
    started, and no document has been judged yet. `unread`: no document has been read yet by an agent that remembers
    nothing, so that nobody knows what is wanted beside what pods hold. `inherited` are shares that were fenced when it
    started. `pressed` are draining shares that the kubelet handed out once more. `mentions` maps ids that a
    GetPreferredAllocation named lately to when. `blind_since` is since when a kubelet has been there whose PodResources
    cannot be read, None while they can. `mps` is how the MPS daemons stand, `orphans` are those that an agent before
    this one asked for and that no applied contract speaks of: its state directory was lost. `symptoms` is what the
    driver has reported of the GPUs' faults, and how that is to be judged. `registered` are the resources being served;
    `resend` and `reconnect` those whose view at the kubelet asks for healing. `unwritten`: the disk does not know all
    that is so, since it cannot be written. `partial`: GPUs are missing from what the agent before this one had applied,
    since that could not be read.
    """

    now: float
    gpus: tuple[Gpu, ...] = ()
    listed: frozenset[str] = frozenset()
    applied: Applied = field(default_factory=Applied)
    held: frozenset[ShareKey] = frozenset()
    pods: PodResourcesStatus = field(default_factory=PodResourcesStatus)
    decided_at: float = 0.0
    decisions: Mapping[str, float] = field(default_factory=dict)
    cautious_until: float = float("-inf")
    undecided: bool = False
    unread: bool = False
    inherited: frozenset[ShareKey] = frozenset()
    pressed: frozenset[ShareKey] = frozenset()
    mentions: Mapping[str, float] = field(default_factory=dict)
    blind_since: float | None = None
    mps: MpsStatus = field(default_factory=MpsStatus)
    orphans: Mapping[str, Contract] = field(default_factory=dict)
    registered: frozenset[str] = frozenset()
    symptoms: Symptoms = field(default_factory=Symptoms)
    resend: frozenset[str] = frozenset()
    reconnect: frozenset[str] = frozenset()
    unwritten: bool = False
    partial: bool = False

    @property
    def readable(self) -> bool:
        """Whether it is known who holds what; otherwise every share counts as held."""
        return self.pods.reason is PodResourcesReason.LISTED

    @property
    def looked(self) -> bool:
        """Whether all has been done to learn what pods have: a look has succeeded, or a kubelet that is there has not
        let one succeed for a while. Without a kubelet there is nobody to serve, so nothing is lost by waiting.
        """
        return self.readable or (self.blind_since is not None and self.now >= self.blind_since + BLIND_SECONDS)

    def lists(self, keys: AbstractSet[ShareKey]) -> bool:
        """Whether PodResources itself names any of the shares: not a grant, and not the checkpoint alone."""
        if not keys or not self.readable or self.pods.listing is None:
            return False
        return any((holder.resource, share) in keys for holder in self.pods.listing.holders for share in holder.ids)

    def is_fresh(self, uuid: str) -> bool:
        """Whether the newest `List` is recent enough to take something of this GPU away by."""
        decided_at = max(self.decided_at, self.decisions.get(uuid, self.decided_at))
        return self.readable and self._listed_at >= max(decided_at, self.cautious_until)

    @property
    def cautious(self) -> bool:
        """Whether it is a late look that is missing, not just another one."""
        return self._listed_at < self.cautious_until

    @property
    def _listed_at(self) -> float:
        return self.pods.listing.listed_at if self.pods.listing is not None else float("-inf")


@dataclass(frozen=True, slots=True)
class Holdings:
    """Who has what of one GPU: `own`, shares of its applied contract, on the list or not; `others`, under another
    contract.
    """

    own: frozenset[int] = frozenset()
    others: frozenset[ShareKey] = frozenset()


def by_gpu(held: Iterable[ShareKey]) -> dict[str, list[ShareKey]]:
    """Held shares by the uuid in their ids."""
    found: dict[str, list[ShareKey]] = {}
    for key in held:
        found.setdefault(key[1].partition("::")[0], []).append(key)
    return found


def holdings(entry: AppliedGpu, keys: Iterable[ShareKey]) -> Holdings:
    """Which of the held shares of this GPU are of its contract, and which are not. Ids that are no share's are left
    out, as is what has no resource.
    """
    own: set[int] = set()
    others: set[ShareKey] = set()
    contract = entry.contract
    for resource, share in keys:
        try:
            _, number = split_share_id(share)
        except ValueError:
            continue
        if not resource:
            continue
        if (
            contract is not None
            and contract.resource == resource
            and (contract.mode is Mode.EXCLUSIVE) == (number is None)
        ):
            own.add(number or 0)
        else:
            others.add((resource, share))
    return Holdings(frozenset(own), frozenset(others))


def droppable(entry: AppliedGpu, held: frozenset[int], observed: Observed) -> frozenset[int]:
    """Fenced shares of one GPU that the kubelet can no longer hand out.

    An id that vanishes while the kubelet allocates it crashes the kubelet (FACTS). It is safe when the fence is old
    enough, a look begun after the fence shows it neither in the kubelet's healthy set nor with a pod, and no call or
    grant concerns it.
    """
    listing = observed.pods.listing
    if entry.contract is None or listing is None or not observed.is_fresh(entry.gpu.uuid):
        return frozenset()
    resource = entry.contract.resource
    allocatable = listing.allocatable.get(resource, frozenset())
    old_enough = [
        number
        for number, since in entry.fences.items()
        if number not in held and listing.begun_at > since and observed.now >= since + FENCE_SECONDS
    ]
    ids = zip(sorted(old_enough), entry.ids(old_enough), strict=True)
    return frozenset(number for number, share in ids if share not in allocatable and not _mentioned(share, observed))


def drop_due(applied: Applied, now: float) -> float | None:
    """When the next fence is old enough, in monotonic seconds; None where none is young."""
    ends = (since + FENCE_SECONDS for entry in applied.gpus.values() for since in entry.fences.values())
    return min((end for end in ends if end > now), default=None)


def _mentioned(share: str, observed: Observed) -> bool:
    at = observed.mentions.get(share)
    return at is not None and observed.now < at + MENTION_SECONDS


def pods_of(holders: Iterable[Holder], resource: str, uuid: str) -> dict[str, str]:
    """Who holds each listed share of one GPU under one name, by id, as `namespace/pod/container`."""
    found: dict[str, str] = {}
    for holder in holders:
        if holder.resource == resource:
            name = f"{holder.namespace}/{holder.pod}/{holder.container}"
            found.update((share, name) for share in holder.ids if share.partition("::")[0] == uuid)
    return found
