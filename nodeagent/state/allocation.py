"""Answers to the kubelet's questions, from what is advertised and who has it.

Both answers are made while a pod waits for its admission, and no other pod of the node is admitted meanwhile (FACTS),
so they are single passes over the ids that the kubelet names.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from nodeagent.model.allocation import ContainerGrant, PreferenceRequest, RefusalReason, Refused
from nodeagent.model.config import Mode
from nodeagent.model.holds import ShareKey
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu, split_share_id
from nodeagent.state.observed import by_gpu

VISIBLE_DEVICES = "NVIDIA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Offer:
    """One resource as the answers need it: its GPUs by uuid, how many shares of each are held, which shares should
    rather not be handed out, and which of those drain or are fenced already.
    """

    resource: str
    gpus: Mapping[str, AppliedGpu] = field(default_factory=dict)
    used: Mapping[str, int] = field(default_factory=dict)
    avoid: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()


def offers(applied: Applied, resources: Iterable[str], plan: Plan, held: Iterable[ShareKey]) -> dict[str, Offer]:
    """The offer of each resource. What `plan` waits for, and what is fenced, should rather not be handed out."""
    leaving: dict[str, frozenset[int]] = {}
    surplus: dict[str, frozenset[int]] = {}
    for wait in plan.waits:
        if wait.reason in (WaitReason.PODS, WaitReason.KUBELET):
            leaving[wait.uuid] = leaving.get(wait.uuid, frozenset()) | wait.numbers
        elif wait.reason is not WaitReason.LIST_SIZE:
            surplus[wait.uuid] = surplus.get(wait.uuid, frozenset()) | wait.numbers
    used = {uuid: len(keys) for uuid, keys in by_gpu(held).items()}
    found = {}
    for resource in resources:
        gpus = {
            uuid: entry
            for uuid, entry in applied.gpus.items()
            if entry.contract is not None and entry.contract.resource == resource
        }
        going = frozenset(
            share
            for uuid, entry in gpus.items()
            for share in entry.ids(entry.fences.keys() | leaving.get(uuid, frozenset()))
        )
        rather_not = frozenset(
            share for uuid, entry in gpus.items() for share in entry.ids(surplus.get(uuid, frozenset()))
        )
        found[resource] = Offer(resource, gpus, used, avoid=going | rather_not, leaving=going)
    return found


def allocate(offer: Offer, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]:
    """One grant per container. A fenced share is granted (the kubelet may not have seen the fence yet).

    Raises Refused for an id that is not on the list, a GPU that is not healthy, or more shares than one container may
    have.
    """
    return [_allocate(offer, ids) for ids in requests]


def prefer(offer: Offer, requests: Sequence[PreferenceRequest]) -> list[list[str]]:
    """The ids to choose, one list per container: what must be included, then shares of the least used GPUs, lowest
    index and number first.

    Shares to avoid (draining and fenced ones) come last. Whole GPUs come lowest index first, since each is used or not.
    Raises Refused where the request is larger than what is available, or what must be included is not available.
    """
    return [_prefer(offer, request) for request in requests]


def given(offer: Offer, requests: Iterable[Iterable[str]]) -> Offer:
    """The offer once these shares have been granted: what is preferred next is spread around them."""
    used = dict(offer.used)
    for ids in requests:
        for share in ids:
            uuid = share.partition("::")[0]
            used[uuid] = used.get(uuid, 0) + 1
    return replace(offer, used=used)


def _allocate(offer: Offer, ids: Sequence[str]) -> ContainerGrant:
    gpus: dict[str, AppliedGpu] = {}
    for share in ids:
        entry = _find(offer, share)
        if not entry.healthy:
            raise Refused(
                RefusalReason.UNHEALTHY,
                f"cannot allocate {share}: GPU {entry.gpu.index} is {entry.gpu.health.value}: {entry.gpu.message}",
            )
        limit = entry.max_shares_per_container
        if limit is not None and len(ids) > limit:
            raise Refused(
                RefusalReason.TOO_MANY,
                f"cannot allocate {len(ids)} shares of {offer.resource} to one container: at most {limit} allowed "
                f"(maxSharesPerContainer); request {offer.resource}: {limit}",
            )
        gpus[entry.gpu.uuid] = entry
    order = sorted(gpus.values(), key=lambda entry: entry.gpu.index)
    return ContainerGrant({VISIBLE_DEVICES: ",".join(entry.gpu.uuid for entry in order)})


def _find(offer: Offer, share: str) -> AppliedGpu:
    try:
        uuid, number = split_share_id(share)
    except ValueError:
        uuid, number = share, None
    entry = offer.gpus.get(uuid)
    if entry is not None and entry.contract is not None:
        exclusive = entry.contract.mode is Mode.EXCLUSIVE
        if exclusive == (number is None) and (number or 0) in entry.numbers:
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
            f"cannot choose {request.size} shares of {offer.resource}: {len(must)} must be included",
        )
    if request.size > len(available):
        raise Refused(
            RefusalReason.TOO_MANY,
            f"cannot choose {request.size} shares of {offer.resource}: {len(available)} are available",
        )
    if request.size == len(must):
        return must
    return must + _spread(offer, available.difference(must), must, request.size - len(must))


def _spread(offer: Offer, free: AbstractSet[str], chosen: Sequence[str], size: int) -> list[str]:
    """`size` of `free`, one after the other from the GPU that is used least, what is to be avoided only when nothing
    else is left.
    """
    queues: dict[str, list[tuple[bool, int, str]]] = {}
    avoid = offer.avoid
    for share in free:
        uuid, _, number = share.partition("::")
        queues.setdefault(uuid, []).append((share in avoid, int(number) if number.isdecimal() else 0, share))
    heap = []
    for uuid, queue in queues.items():
        queue.sort(reverse=True)
        entry = offer.gpus.get(uuid)
        used = offer.used.get(uuid, 0) + sum(share.partition("::")[0] == uuid for share in chosen)
        heap.append((queue[-1][0], used, entry.gpu.index if entry is not None else len(offer.gpus), uuid))
    heapq.heapify(heap)
    picked = []
    for _ in range(size):
        _, used, index, uuid = heap[0]
        queue = queues[uuid]
        picked.append(queue.pop()[2])
        if queue:
            heapq.heapreplace(heap, (queue[-1][0], used + 1, index, uuid))
        else:
            heapq.heappop(heap)
    return picked
