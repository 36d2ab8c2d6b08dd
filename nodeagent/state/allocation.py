"""Answers to the kubelet's questions, from what is advertised and who has it.

Both answers are made while a pod waits for its admission, and no other pod of the node is admitted meanwhile (FACTS),
so they are single passes over the ids that the kubelet names, and a choice that is bounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from nodeagent.model.allocation import ContainerGrant, PreferenceRequest, RefusalReason, Refused
from nodeagent.model.config import Mode, Placement
from nodeagent.model.handover import HandOver, HostFiles
from nodeagent.model.holds import ShareKey
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu, ShareIds, read_number, split_share_id
from nodeagent.model.topology import Topology
from nodeagent.model.words import count
from nodeagent.state.choosing import Candidate, Free, near, spread, together
from nodeagent.state.desired import Desired
from nodeagent.state.grants import NO_CLIENT, client, grant
from nodeagent.state.naming import gpus as named
from nodeagent.state.observed import by_gpu


@dataclass(frozen=True, slots=True)
class Offer:
    """One resource as the answers need it: its GPUs by uuid, in the order of the node; which shares should rather not
    be handed out, and which of those drain or are fenced already. `mps` says where daemons are found, `handover` how
    devices are handed over, and `host` what the host has for that.

    `used` is how many shares of each GPU of the node are held, under whatever name; of a GPU with MIG, how many of its
    MIG devices.
    """

    resource: str
    gpus: Mapping[str, AppliedGpu] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    avoid: AbstractSet[str] = frozenset()
    leaving: AbstractSet[str] = frozenset()
    mps: MpsStatus = field(default_factory=MpsStatus)
    placement: Placement = Placement.DISTRIBUTED
    topology: Topology = field(default_factory=Topology)
    handover: HandOver = field(default_factory=HandOver)
    host: HostFiles = field(default_factory=HostFiles)

    @property
    def together(self) -> bool:
        """Whether a container's shares must be of one GPU."""
        return any(entry.contract is not None and entry.contract.mode is Mode.MPS for entry in self.gpus.values())

    @property
    def whole(self) -> bool:
        """Whether all there is are whole GPUs."""
        return all(_exclusive(entry) and entry.gpu.mig is None for entry in self.gpus.values())


NOWHERE = Topology()
"""What is known of GPUs of which nothing is known."""

_WAITING, _LEAVING, _ILL = 1, 2, 3
"""How much a share is to be avoided: one that waits for something, above all for its GPU's turn to change; one that
drains or is fenced; one that is no good to any pod."""

BY_VARIABLE = HandOver()
"""How devices are handed over unless somebody says otherwise."""

NO_FILES = HostFiles()

_NONE: frozenset[int] = frozenset()
_NOBODY: frozenset[str] = frozenset()


def offers(
    applied: Applied,
    resources: Iterable[str],
    plan: Plan,
    held: Iterable[ShareKey],
    mps: MpsStatus,
    *,
    desired: Desired | None = None,
    topology: Topology = NOWHERE,
    handover: HandOver = BY_VARIABLE,
    host: HostFiles = NO_FILES,
) -> dict[str, Offer]:
    """The offer of each resource. What `plan` waits for, and what is fenced, should rather not be handed out. Shares
    are packed where a rule of what is desired says so.
    """
    leaving: dict[str, frozenset[int]] = {}
    surplus: dict[str, frozenset[int]] = {}
    for wait in plan.waits:
        if wait.reason in (WaitReason.PODS, WaitReason.KUBELET):
            leaving[wait.uuid] = leaving.get(wait.uuid, frozenset()) | wait.numbers
        elif wait.reason is not WaitReason.LIST_SIZE:
            surplus[wait.uuid] = surplus.get(wait.uuid, frozenset()) | wait.numbers
    used = {uuid: len(keys) for uuid, keys in by_gpu(held).items()}
    for gpu in [applied.gpus[uuid].gpu for uuid in used if uuid in applied.gpus]:
        if gpu.mig is not None:
            used[gpu.physical] = used.get(gpu.physical, 0) + 1
    packed = _packed(desired)
    ordered = applied.ordered()
    found = {}
    for resource in resources:
        gpus = {
            entry.gpu.uuid: entry
            for entry in ordered
            if entry.contract is not None and entry.contract.resource == resource
        }
        going = {uuid: (entry.fences.keys(), leaving.get(uuid, _NONE)) for uuid, entry in gpus.items()}
        rather_not = {uuid: (*sets, surplus.get(uuid, _NONE)) for uuid, sets in going.items()}
        found[resource] = Offer(
            resource,
            gpus,
            used,
            avoid=ShareIds(gpus, rather_not),
            leaving=ShareIds(gpus, going),
            mps=mps,
            placement=Placement.PACKED if resource in packed else Placement.DISTRIBUTED,
            topology=topology,
            handover=handover,
            host=host,
        )
    return found


def _packed(desired: Desired | None) -> frozenset[str]:
    """The resources of which one rule at least wants packed shares."""
    wants = desired.wants.values() if desired is not None else ()
    return frozenset(
        contract.resource
        for want in wants
        if want.rule.placement is Placement.PACKED and (contract := want.contract) is not None
    )


def allocate(offer: Offer, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]:
    """One grant per container. A fenced share is granted (the kubelet may not have seen the fence yet).

    Raises Refused for an id that is not on the list, a GPU that is not well, an MPS daemon that is not verified, more
    shares than one container may have, or shares of several GPUs under MPS: a container has one daemon. Also where the
    host lacks what must be handed over.
    """
    return [_allocate(offer, ids) for ids in requests]


def prefer(offer: Offer, requests: Sequence[PreferenceRequest]) -> list[list[str]]:
    """The ids to choose, one list per container: what must be included, then shares of the least used GPUs, or where
    they are packed of the most used ones, lowest index and number first. Whole GPUs are those nearest to one another.

    Shares to avoid come last: draining and fenced ones, and those of GPUs that are not well. Under MPS all shares of a
    container are of one GPU, as far as one has enough. MIG devices that are not shared use their GPU as shares would.
    Raises Refused where the request is larger than what is available, or what must be included is not available.
    """
    return [_prefer(offer, request) for request in requests]


def given(found: Mapping[str, Offer], resource: str, requests: Iterable[Iterable[str]]) -> dict[str, Offer]:
    """All offers once these shares of one resource have been granted: what is preferred next is spread around them."""
    if resource not in found:
        return dict(found)
    used = _used(found[resource], (share for ids in requests for share in ids))
    return {name: replace(offer, used=used) for name, offer in found.items()}


def _allocate(offer: Offer, ids: Sequence[str]) -> ContainerGrant:
    gpus: dict[str, AppliedGpu] = {}
    for share in ids:
        entry = _find(offer, share)
        if not entry.healthy:
            raise Refused(RefusalReason.UNHEALTHY, f"cannot allocate {share}: {entry.trouble}")
        _demand_few(offer, len(ids), entry.max_shares_per_container)
        gpus[entry.gpu.uuid] = entry
    order = sorted(gpus.values(), key=lambda entry: entry.gpu.place)
    return grant(
        [entry.gpu for entry in order],
        offer.handover,
        offer.host,
        resource=offer.resource,
        shares=ids,
        client=_client(offer, order, ids),
    )


def _client(offer: Offer, order: Sequence[AppliedGpu], ids: Sequence[str]) -> ContainerGrant:
    """What MPS takes, if the shares are under MPS."""
    # While a resource changes its mode, GPUs with and without a daemon go by its name.
    under_mps = [contract for entry in order if (contract := entry.contract) is not None and contract.limits]
    if not under_mps:
        return NO_CLIENT
    if len(order) > 1:
        raise Refused(
            RefusalReason.SEVERAL_GPUS,
            f"cannot allocate {len(ids)} shares of {offer.resource} to one container: they are of "
            f"{named(entry.gpu for entry in order)}, and under MPS a container can use one GPU only; "
            f"request fewer shares",
        )
    contract, shares = under_mps[0], len(set(ids))
    found = client(offer.resource, order[0].gpu, contract, shares, offer.mps)
    _demand_few(offer, shares, contract.limits.most if contract.limits is not None else None)
    return found


def _demand_few(offer: Offer, shares: int, limit: int | None) -> None:
    if limit is not None and shares > limit:
        raise Refused(
            RefusalReason.TOO_MANY,
            f"cannot allocate {shares} shares of {offer.resource} to one container: at most {limit} allowed "
            f"(maxSharesPerContainer); request {offer.resource}: {limit}",
        )


def _find(offer: Offer, share: str) -> AppliedGpu:
    try:
        uuid, number = split_share_id(share)
    except ValueError:
        uuid, number = share, None
    entry = offer.gpus.get(uuid)
    if entry is not None and _exclusive(entry) == (number is None) and (number or 0) in entry.numbers:
        return entry
    raise Refused(
        RefusalReason.UNKNOWN_SHARE, f"cannot allocate {share}: it is not a share of {offer.resource} on this node"
    )


def _prefer(offer: Offer, request: PreferenceRequest) -> list[str]:
    must = list(dict.fromkeys(request.must_include))
    available = set(request.available)
    if missing := [share for share in must if share not in available]:
        raise Refused(
            RefusalReason.INVALID,
            f"cannot choose shares of {offer.resource}: {missing[0]} must be included but is not available",
        )
    if request.size < len(must):
        raise Refused(
            RefusalReason.INVALID,
            f"cannot choose {count(request.size, 'share')} of {offer.resource}: {len(must)} must be included",
        )
    if request.size > len(available):
        raise Refused(
            RefusalReason.TOO_MANY,
            f"cannot choose {count(request.size, 'share')} of {offer.resource}: available: {len(available)}",
        )
    if request.size == len(must):
        return must
    free = _free(offer, available.difference(must))
    size = request.size - len(must)
    if offer.whole:
        return must + near(free, offer.topology, must, size)
    used = _used(offer, must)
    if offer.together:
        begun = {share.partition("::")[0] for share in must}
        return must + together(free, used, begun, size, offer.placement)
    return must + spread(free, used, size, offer.placement)


def _free(offer: Offer, shares: Iterable[str]) -> Free:
    """What may be chosen. A GPU that is not of this resource comes last: Allocate would refuse it."""
    known = {
        uuid: (not entry.healthy, rank, entry.gpu.physical if _exclusive(entry) else uuid)
        for rank, (uuid, entry) in enumerate(offer.gpus.items())
    }
    avoid, leaving = offer.avoid or _NOBODY, offer.leaving or _NOBODY
    found: dict[str, list[Candidate]] = {}
    for share in shares:
        uuid, _, number = share.partition("::")
        ill, rank, counted = known.get(uuid) or (True, len(known), uuid)
        worth = _ILL if ill else _LEAVING if share in leaving else _WAITING if share in avoid else 0
        candidate = (worth, rank, read_number(number) or 0, share)
        found.setdefault(counted, []).append(candidate)
    return found


def _used(offer: Offer, shares: Iterable[str]) -> dict[str, int]:
    """What is used once these shares are held too."""
    used = dict(offer.used)
    for share in shares:
        uuid = share.partition("::")[0]
        entry = offer.gpus.get(uuid)
        if entry is not None and entry.gpu.mig is not None and not used.get(uuid):
            used[entry.gpu.physical] = used.get(entry.gpu.physical, 0) + 1
        used[uuid] = used.get(uuid, 0) + 1
    return used


def _exclusive(entry: AppliedGpu) -> bool:
    return entry.contract is not None and entry.contract.mode is Mode.EXCLUSIVE
