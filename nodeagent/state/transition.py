"""One GPU's way from what is applied to what is wanted: which shares to keep, fence, drop, drain and add.

Rules (DESIGN section 5), each a promise to a running pod or to the kubelet:

- Ids are interchangeable, so the held ones are kept first; a held share is never taken off the list, and never changes
  its contract.
- Free surplus is fenced, held surplus drains: it stays Healthy, and is fenced only when the kubelet hands it out once
  more.
- What an agent finds fenced when it starts stays so until a document says otherwise, but for what pods have. A fence
  may have been lifted while the disk could not be written, and a pod have got the share as a Healthy one.
- A share leaves the list only fenced, and only when the kubelet can no longer hand it out (`observed.droppable`).
- Another contract comes only when the last share of the old one has left the list, and no pod has one of the GPU under
  any other.
- Whatever takes something away needs a look at PodResources begun after the decision; what cannot be read counts as
  held.
- A GPU that may not leave its contract yet (`waves`) stays, and what is fenced of it comes back.
- A share that a pod has and that is not on the list comes back to it: so does the agent take over from another plugin,
  or from a lost state directory.
- Under MPS a GPU takes its contract first, so that its daemon is started, and shares when the daemon is verified; what
  follows MPS is advertised when the daemon has left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from nodeagent.model.config import Contract, Mode
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Drop,
    Fence,
    Plan,
    Release,
    Restore,
    ShareAction,
    Start,
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied, AppliedGpu, split_share_id
from nodeagent.state.daemons import lingering, missing, verified
from nodeagent.state.observed import Holdings, Observed, by_gpu, droppable


@dataclass(frozen=True, slots=True)
class Step:
    """What can be done to one GPU now, and what it waits for."""

    actions: tuple[ShareAction, ...] = ()
    waits: tuple[Wait, ...] = ()


@dataclass(frozen=True, slots=True)
class Split:
    """The shares of one GPU sorted by what becomes of them. `drain` are held, `fence` and `leaving` are free; `leaving`
    are fenced already.
    """

    keep: frozenset[int]
    drain: frozenset[int]
    fence: frozenset[int]
    leaving: frozenset[int]


def transition(
    entry: AppliedGpu, contract: Contract | None, count: int, holdings: Holdings, observed: Observed
) -> Step:
    """The next step of one GPU, of which nothing is to be taken back (`adopt`), towards `count` shares under `contract`
    (None: nothing advertised).
    """
    uuid = entry.gpu.uuid
    if entry.contract is None:
        return _begin(entry.gpu, contract, count, observed)

    held = holdings.own if observed.readable else entry.numbers
    # In use under another contract, and by nobody under this one: this one was begun without knowing, and makes room.
    taken = not holdings.own and observed.lists(holdings.others)
    same = entry.contract == contract and not taken
    split = divide(entry, held, count if same else 0, holdings.own)
    actions: list[ShareAction] = []

    fence = split.fence if observed.is_fresh(uuid) else frozenset[int]()
    pressed = _among(entry, split.drain - entry.fences.keys(), observed.pressed)
    if fence | pressed:
        actions.append(Fence(uuid, fence | pressed, leaving=not same))
    restore = split.keep & entry.fences.keys()
    if split.drain and not observed.readable:
        # Blind, with too many on the list: a pod may have any of the others, so a free one is not offered in its place.
        restore &= holdings.own
    restore |= _lifted(entry, split.drain & holdings.own, observed)
    if restore or (same and entry.leaving):
        actions.append(Restore(uuid, restore, leaving=not same))
    if drop := split.leaving & droppable(entry, held, observed):
        actions.append(Drop(uuid, drop))
    waits = list(_waits(uuid, split, fence, drop, observed))
    if same:
        if add := lowest_unused(entry.numbers, count - len(split.keep)):
            if not entry.numbers and not observed.looked:
                # A daemon that was started, or found, without a share of it on the list: as for a GPU without contract.
                waits.append(Wait(uuid, WaitReason.FRESH_LIST))
            elif verified(entry.contract, uuid, observed.mps):
                actions.append(Advertise(uuid, entry.contract, add))
            else:
                waits.append(Wait(uuid, WaitReason.DAEMON, add))
    elif drop == entry.numbers:
        then = _end(entry, contract, count, holdings, observed)
        actions += then.actions
        waits += then.waits

    return Step(tuple(actions), tuple(waits))


def stay(entry: AppliedGpu, *waits: Wait) -> Step:
    """The next step of a GPU that keeps what it has for now, whatever is wanted of it: fenced shares come back."""
    if entry.fences or entry.leaving:
        return Step((Restore(entry.gpu.uuid, frozenset(entry.fences)),), waits)
    return Step((), waits)


def keep_still(entry: AppliedGpu, holdings: Holdings, observed: Observed) -> Step:
    """The next step of a GPU before any document has been judged: nobody gets what an agent before this one fenced."""
    uuid = entry.gpu.uuid
    lifted = _lifted(entry, holdings.own, observed)
    rest = entry.fences.keys() - lifted
    return Step(
        (Restore(uuid, lifted, leaving=entry.leaving),) if lifted else (),
        (Wait(uuid, WaitReason.RESTART, frozenset(rest)),) if rest else (),
    )


def unrelieved(
    pressed: frozenset[ShareKey], made: Plan, held: AbstractSet[ShareKey], applied: Applied
) -> frozenset[ShareKey]:
    """Those of the draining shares which the kubelet has handed out that are to be fenced still, after as much of a
    plan as `applied` shows was performed: all that pods have and the plan waits for, or that it has left alone.
    """
    waits: dict[str, frozenset[int]] = {}
    for wait in made.waits:
        waits[wait.uuid] = waits.get(wait.uuid, frozenset()) | wait.numbers
    alone = {one.uuid for one in made.refused} | {one.uuid for one in made.actions if isinstance(one, Adopt)}
    found = set[ShareKey]()
    for uuid, keys in by_gpu(pressed & held).items():
        if (entry := applied.gpus.get(uuid)) is not None:
            left_alone = uuid in alone or entry.gpu.physical in alone
            numbers = entry.numbers if left_alone else waits.get(uuid, frozenset())
            found |= frozenset(keys).intersection(entry.keys((entry.numbers & numbers) - entry.fences.keys()))
    return frozenset(found)


def _end(entry: AppliedGpu, contract: Contract | None, count: int, holdings: Holdings, observed: Observed) -> Step:
    """End the contract of a GPU whose last share has left, or leaves now, and begin what is wanted in its place."""
    uuid = entry.gpu.uuid
    if not entry.numbers and not observed.is_fresh(uuid):
        # Pods may use the daemon all the same.
        late = WaitReason.RESTART if observed.cautious else WaitReason.FRESH_LIST
        return Step((), (Wait(uuid, late if observed.readable else WaitReason.POD_RESOURCES),))
    if contract is None or holdings.others:
        return Step((Release(uuid),))
    # The daemon of this contract is still there, whatever is told of it: it leaves when the contract has ended.
    under_mps = entry.contract is not None and entry.contract.limits is not None
    why = "its MPS daemon has not left yet" if under_mps else lingering(contract, uuid, observed.mps)
    then = _take(entry.gpu, contract, count, observed, lingers=why)
    return Step((Release(uuid), *then.actions), then.waits)


def divide(entry: AppliedGpu, held: AbstractSet[int], count: int, known: AbstractSet[int] = frozenset()) -> Split:
    """Sort the shares on the list. Kept: held before free, sent Healthy before fenced, low numbers before high.

    While PodResources cannot be read all shares count as `held`: then those that pods are `known` to have come first,
    so that no fenced one is offered anew in the place of one that a pod has.
    """
    if len(entry.numbers) <= count:
        return Split(entry.numbers, frozenset(), frozenset(), frozenset())
    order = sorted(
        entry.numbers,
        key=lambda number: (number not in known, number not in held, number in entry.fences, number),
    )
    keep = frozenset(order[:count])
    surplus = entry.numbers - keep
    drain = surplus & held
    free = surplus - drain
    return Split(keep, drain, free - entry.fences.keys(), free & entry.fences.keys())


def adopt(entry: AppliedGpu, holdings: Holdings) -> Adopt | None:
    """Shares that pods have and that are not on the list, under the contract that their ids tell; None where there is
    none.

    Shares of more than one contract on one GPU cannot be told of under both: the largest group comes first, and the
    others when it has left.
    """
    uuid = entry.gpu.uuid
    if entry.contract is not None:
        missing = holdings.own - entry.numbers
        return Adopt(uuid, entry.contract, missing) if missing else None
    groups: dict[Contract, set[int]] = {}
    for resource, share in holdings.others:
        _, number = split_share_id(share)
        mode = Mode.EXCLUSIVE if number is None else Mode.TIME_SLICED
        groups.setdefault(Contract(resource, mode), set()).add(number or 0)
    if not groups:
        return None
    contract = min(groups, key=lambda group: (-len(groups[group]), group.resource, group.mode.value))
    return Adopt(uuid, contract, frozenset(groups[contract]))


def lowest_unused(numbers: AbstractSet[int], count: int) -> frozenset[int]:
    """The `count` lowest numbers that are not in `numbers`; none for a count below 1."""
    return frozenset(_first(count, (number for number in range(len(numbers) + max(count, 0)) if number not in numbers)))


def _begin(gpu: Gpu, contract: Contract | None, count: int, observed: Observed) -> Step:
    if contract is None:
        return Step()
    if not observed.looked:
        return Step((), (Wait(gpu.uuid, WaitReason.FRESH_LIST),))
    return _take(gpu, contract, count, observed, lingers=lingering(contract, gpu.uuid, observed.mps))


def _take(gpu: Gpu, contract: Contract, count: int, observed: Observed, *, lingers: str) -> Step:
    """Give a contract to a GPU that has none, once all that it needs can be had; `lingers` says what is left of an
    earlier daemon, if anything is.
    """
    uuid, numbers = gpu.uuid, frozenset(range(count))
    if lacks := missing(contract, gpu, observed.mps):
        return Step((), (Wait(uuid, WaitReason.DAEMON, numbers, lacks),))
    if contract.limits is not None:
        return Step((Start(uuid, contract),), (Wait(uuid, WaitReason.DAEMON, numbers),))
    if lingers:
        return Step((), (Wait(uuid, WaitReason.DAEMON, numbers, lingers),))
    return Step((Advertise(uuid, contract, numbers),))


def _waits(
    uuid: str, split: Split, fenced: frozenset[int], dropped: frozenset[int], observed: Observed
) -> Iterator[Wait]:
    if split.drain:
        yield Wait(uuid, WaitReason.PODS if observed.readable else WaitReason.POD_RESOURCES, split.drain)
    if split.fence - fenced:
        yield Wait(uuid, WaitReason.RESTART if observed.cautious else WaitReason.FRESH_LIST, split.fence)
    if leaving := (split.leaving | fenced) - dropped:
        yield Wait(uuid, WaitReason.KUBELET, leaving)


def _lifted(entry: AppliedGpu, held: AbstractSet[int], observed: Observed) -> frozenset[int]:
    """Fences of another agent on shares that pods have."""
    return _among(entry, held & entry.fences.keys(), observed.inherited)


def _among(entry: AppliedGpu, numbers: AbstractSet[int], keys: AbstractSet[ShareKey]) -> frozenset[int]:
    """Those of a GPU's shares that are among `keys`."""
    if not keys or entry.contract is None:
        return frozenset()
    return frozenset(number for number, key in zip(sorted(numbers), entry.keys(numbers), strict=True) if key in keys)


def _first(count: int, numbers: Iterable[int]) -> list[int]:
    return [number for number, _ in zip(numbers, range(count), strict=False)] if count > 0 else []
