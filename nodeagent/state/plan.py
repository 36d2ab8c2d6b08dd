"""The plan: what removes the drift, in order, and what each part still waits for.

Invariants, checked on every plan by performing it on a copy, action by action (`verify`):

1. No share leaves the list unfenced, held, or while the kubelet can still hand it out.
2. The contract of a GPU changes only when none of its shares is on the list: a held share keeps its contract.
3. A GPU is on the list as a whole one, or its MIG devices are, and never both, unless pods have both.
4. The shares of a GPU that can be handed out (Healthy, or held) never become more than the wanted number, unless pods
already have more.
5. Nothing that needs an MPS daemon is advertised before that is verified; a daemon is there as long as its contract,
which ends when the last share has left.
6. A plan without a desired state (nothing accepted, or suspended) adds and takes away nothing, but what pods have and
the GPUs' health.
7. The plan of a converged state is empty.
8. Actions are ordered so that any prefix is a state from which planning anew converges: first what is known of the
GPUs, then fences, then what leaves, then what comes, then what is known of the daemons, then the registrations.
"""

from __future__ import annotations

from collections.abc import Iterable

from nodeagent.model.config import Contract
from nodeagent.model.mps import MpsReason
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Drop,
    Fence,
    Forget,
    KubeletAction,
    Limit,
    Plan,
    Reconnect,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    ShareAction,
    Start,
    Verdict,
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied, AppliedGpu, share_id
from nodeagent.state.daemons import fault, verified
from nodeagent.state.desired import MAX_LIST_BYTES, Desired, device_bytes
from nodeagent.state.effect import InvariantBroken, perform
from nodeagent.state.health import diagnose
from nodeagent.state.nodegpus import lost
from nodeagent.state.observed import Holdings, Observed, by_gpu, droppable, holdings
from nodeagent.state.transition import Step, adopt, transition

_ORDER: tuple[type[ShareAction], ...] = (Adopt, Fence, Drop, Release, Start, Restore, Advertise)
"""Order of what `transition` gives; what is known of the GPUs comes before it, verdicts and limits after it."""


def plan(desired: Desired | None, observed: Observed) -> Plan:
    """Everything that can be done now towards `desired` (None: keep what is applied), and what waits for what.

    Raises InvariantBroken if the plan would break an invariant; that is a fault of ours, never of the input's.
    """
    known = _know(observed)
    applied = perform(observed.applied, known, observed.now)
    diagnoses = diagnose(applied, observed.symptoms)
    known = (*known, *diagnoses)
    applied = perform(applied, diagnoses, observed.now)
    found = _find(applied, observed)
    applied = perform(applied, found, observed.now)
    known = (*known, *found)
    held = by_gpu(observed.held)
    steps = [
        _alone(_step(entry, desired, holdings(entry, held.get(entry.gpu.uuid, ())), observed), entry, applied)
        for entry in applied.ordered()
    ]
    actions = sorted(
        (action for step in steps for action in step.actions), key=lambda action: _ORDER.index(type(action))
    )
    fitting, crowded = _fit(applied, actions)
    after = verify(observed, desired, (*known, *fitting))
    return Plan(
        actions=(
            *known,
            *fitting,
            *_judge(after, observed),
            *_limits(after, desired),
            *registrations(desired, after, observed),
        ),
        waits=(*(wait for step in steps for wait in step.waits), *crowded),
    )


def verify(observed: Observed, desired: Desired | None, actions: Iterable[ShareAction]) -> Applied:
    """The applied contract after the actions. Raises InvariantBroken where one of them breaks an invariant of this
    module.
    """
    applied = observed.applied
    held = by_gpu(observed.held)
    for action in actions:
        before = applied
        applied = perform(before, (action,), observed.now)
        if isinstance(action, Drop):
            entry = before.gpus[action.uuid]
            if not action.numbers <= droppable(entry, holdings(entry, held.get(action.uuid, ())).own, observed):
                raise InvariantBroken(f"cannot drop shares that may be held or handed out: {action.uuid}")
        if isinstance(action, Advertise) and not verified(action.contract, action.uuid, observed.mps):
            raise InvariantBroken(f"cannot advertise {action.contract}, its daemon is not verified: {action.uuid}")
        if isinstance(action, Advertise) and _others(applied.gpus[action.uuid], applied):
            raise InvariantBroken(f"cannot advertise a GPU beside its MIG devices: {action.uuid}")
        if isinstance(action, Advertise | Restore):
            entry = applied.gpus[action.uuid]
            _demand_room(entry, action.numbers, desired, holdings(entry, held.get(action.uuid, ())))
    return applied


def _demand_room(entry: AppliedGpu, offered: frozenset[int], desired: Desired | None, has: Holdings) -> None:
    """What a pod has already may come back to the list at any time; a free share only where there is room for it."""
    if offered <= has.own:
        return
    want = desired.wants.get(entry.gpu.uuid) if desired is not None else None
    wanted = want.count if want is not None and want.contract == entry.contract else 0
    out = len((entry.numbers - entry.fences.keys()) | has.own)
    if out > wanted:
        raise InvariantBroken(f"cannot let {out} shares be handed out where {wanted} are wanted: {entry.gpu.uuid}")


def _know(observed: Observed) -> tuple[ShareAction, ...]:
    """Take over the GPUs' newest facts and verdicts, and forget those that are gone."""
    known = observed.applied.gpus
    news = [
        Remember(gpu, seen=gpu.uuid in observed.listed)
        for gpu in observed.gpus
        if (entry := known.get(gpu.uuid)) is None or entry.gpu != gpu or (entry.unseen and gpu.uuid in observed.listed)
    ]
    here = {gpu.uuid for gpu in observed.gpus}
    away = [entry for entry in observed.applied.ordered() if entry.gpu.uuid not in here]
    news += [
        Remember(lost(entry.gpu), seen=False)
        for entry in away
        if entry.contract is not None and entry.gpu != lost(entry.gpu)
    ]
    held = {share.partition("::")[0] for _, share in observed.held}
    gone = [Forget(entry.gpu.uuid) for entry in away if entry.contract is None and entry.gpu.uuid not in held]
    return (*news, *gone)


def _find(applied: Applied, observed: Observed) -> tuple[ShareAction, ...]:
    """Take over the daemons that nothing remembers but the MPS host."""
    return tuple(
        Adopt(uuid, contract, frozenset())
        for uuid, contract in sorted(observed.orphans.items())
        if (entry := applied.gpus.get(uuid)) is not None and entry.contract is None
    )


def _judge(applied: Applied, observed: Observed) -> tuple[ShareAction, ...]:
    """Take over what is known of the daemons of the shares that are on the list then."""
    return tuple(
        Verdict(entry.gpu.uuid, told)
        for entry in applied.ordered()
        if (told := fault(entry, observed.mps, observed.applied.gpus.get(entry.gpu.uuid))) != entry.fault
    )


def _step(entry: AppliedGpu, desired: Desired | None, has: Holdings, observed: Observed) -> Step:
    if desired is None:
        recovered = adopt(entry, has)
        return Step((recovered,)) if recovered is not None else Step()
    want = desired.wants.get(entry.gpu.uuid)
    if want is None:
        return transition(entry, None, 0, has, observed)
    return transition(entry, want.contract, want.count, has, observed)


def _alone(step: Step, entry: AppliedGpu, applied: Applied) -> Step:
    """What a GPU as a whole one, or a MIG device, would come to while the same silicon is still on the list the other
    way: nothing of it is offered before that has left.
    """
    coming = [action for action in step.actions if isinstance(action, Start | Advertise)]
    if not coming or not _others(entry, applied):
        return step
    others = tuple(action for action in step.actions if action not in coming)
    return Step(others, (*step.waits, Wait(entry.gpu.uuid, WaitReason.MIG)))


def _others(entry: AppliedGpu, applied: Applied) -> bool:
    """Whether the GPU of this MIG device, or a MIG device of this GPU, is on the list."""
    gpu = entry.gpu
    if gpu.mig is not None:
        parent = applied.gpus.get(gpu.mig.parent)
        return parent is not None and bool(parent.numbers)
    return any(
        other.numbers
        for other in applied.gpus.values()
        if other.gpu.mig is not None and other.gpu.mig.parent == gpu.uuid
    )


def _limits(applied: Applied, desired: Desired | None) -> tuple[Limit, ...]:
    """A change of `maxSharesPerContainer` concerns requests to come only, so it is not part of the contract and is made
    at once. A GPU that does not have the wanted contract yet gets the limit with it.
    """
    if desired is None:
        return ()
    found = []
    for entry in applied.ordered():
        want = desired.wants.get(entry.gpu.uuid)
        if want is None or want.contract is None or entry.contract != want.contract:
            continue
        if entry.max_shares_per_container != want.rule.max_shares_per_container:
            found.append(Limit(entry.gpu.uuid, want.rule.max_shares_per_container))
    return tuple(found)


def _fit(applied: Applied, actions: list[ShareAction]) -> tuple[list[ShareAction], list[Wait]]:
    """Hold back what would make a list longer than the kubelet takes, while shares of other GPUs are still leaving
    it.
    """
    coming = sum(len(action.numbers) for action in actions if isinstance(action, Advertise))
    if coming + sum(len(entry.numbers) for entry in applied.gpus.values()) <= MAX_LIST_BYTES // device_bytes("x" * 63):
        return actions, []
    size: dict[str, int] = {}
    for entry in applied.gpus.values():
        if entry.contract is not None:
            size[entry.contract.resource] = size.get(entry.contract.resource, 0) + _bytes(
                entry.gpu.uuid, entry.contract, entry.numbers
            )
    fitting: list[ShareAction] = []
    crowded = []
    for action in actions:
        if isinstance(action, Drop) and (contract := applied.gpus[action.uuid].contract) is not None:
            size[contract.resource] -= _bytes(action.uuid, contract, action.numbers)
        if isinstance(action, Advertise):
            more = _bytes(action.uuid, action.contract, action.numbers)
            if size.get(action.contract.resource, 0) + more > MAX_LIST_BYTES:
                crowded.append(Wait(action.uuid, WaitReason.LIST_SIZE, action.numbers))
                continue
            size[action.contract.resource] = size.get(action.contract.resource, 0) + more
        fitting.append(action)
    return fitting, crowded


def _bytes(uuid: str, contract: Contract, numbers: frozenset[int]) -> int:
    return sum(device_bytes(share_id(uuid, contract.mode, number)) for number in numbers)


def registrations(desired: Desired | None, applied: Applied, observed: Observed) -> tuple[KubeletAction, ...]:
    """A resource is registered once anything of it is on the list or held, so that no empty list takes away what pods
    have from another plugin, or from an agent whose memory was lost. It stays as long as any of it is there or wanted.

    While nothing is known of the MPS daemons yet, which is for two seconds at most, one whose free shares would follow
    in a moment waits for them: without them its first list would take away what is on the kubelet's.
    """
    there = frozenset(
        entry.contract.resource for entry in applied.gpus.values() if entry.contract is not None and entry.numbers
    )
    there |= {resource for resource, share in observed.held if share.partition("::")[0] in applied.gpus}
    needed = there | applied.resources() | (desired.resources() if desired is not None else frozenset[str]())
    retire = observed.registered - needed if observed.readable else frozenset[str]()
    return (
        *(
            Register(resource)
            for resource in sorted(there - observed.registered - _following(desired, applied, observed))
        ),
        *(Retire(resource) for resource in sorted(retire)),
        *(Resend(resource) for resource in sorted(observed.resend & needed)),
        *(Reconnect(resource) for resource in sorted(observed.reconnect & needed)),
    )


def _following(desired: Desired | None, applied: Applied, observed: Observed) -> frozenset[str]:
    """Resources under MPS that have fewer shares than are wanted, as long as their daemons may be verified soon."""
    if desired is None or observed.mps.reason is not MpsReason.PENDING:
        return frozenset()
    return frozenset(
        want.contract.resource
        for uuid, want in desired.wants.items()
        if want.contract is not None
        and want.contract.limits is not None
        and (entry := applied.gpus.get(uuid)) is not None
        and entry.contract == want.contract
        and len(entry.numbers) < want.count
    )
