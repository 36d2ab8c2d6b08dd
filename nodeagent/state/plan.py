"""The plan: what removes the drift, in order, and what each part still waits for.

Invariants, checked on every plan by performing it on a copy, action by action (`verify`):

1. No share leaves the list unfenced, held, or while the kubelet can still hand it out.
2. The contract of a GPU changes only when none of its shares is on the list: a held share keeps its contract.
3. The shares of a GPU that can be handed out (Healthy, or held) never become more than the wanted number, unless pods
already have more.
4. A plan without a desired state (nothing accepted, or suspended) adds and takes away nothing, but what pods have and
the GPUs' health.
5. The plan of a converged state is empty.
6. Actions are ordered so that any prefix is a state from which planning anew converges: first what is known of the
GPUs, then fences, then
   what leaves, then what comes, then the registrations.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nodeagent.model.config import Contract
from nodeagent.model.inventory import GpuHealth
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
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied, AppliedGpu, share_id
from nodeagent.state.desired import MAX_LIST_BYTES, Desired, device_bytes
from nodeagent.state.effect import InvariantBroken, perform
from nodeagent.state.observed import Holdings, Observed, by_gpu, droppable, holdings
from nodeagent.state.transition import Step, adopt, transition

REMOVED = "it was taken out of the node"

_ORDER: tuple[type[ShareAction], ...] = (Adopt, Fence, Drop, Release, Restore, Advertise)
"""Order of what `transition` gives; what is known of the GPUs comes before it, limits after it."""


def plan(desired: Desired | None, observed: Observed) -> Plan:
    """Everything that can be done now towards `desired` (None: keep what is applied), and what waits for what.

    Raises InvariantBroken if the plan would break an invariant; that is a fault of ours, never of the input's.
    """
    known = _know(observed)
    applied = perform(observed.applied, known, observed.now)
    held = by_gpu(observed.held)
    steps = [
        _step(entry, desired, holdings(entry, held.get(entry.gpu.uuid, ())), observed) for entry in applied.ordered()
    ]
    actions = sorted(
        (action for step in steps for action in step.actions), key=lambda action: _ORDER.index(type(action))
    )
    fitting, crowded = _fit(applied, actions)
    after = verify(observed, desired, (*known, *fitting))
    return Plan(
        actions=(*known, *fitting, *_limits(after, desired), *registrations(desired, after, observed)),
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
        Remember(replace(entry.gpu, health=GpuHealth.LOST, message=REMOVED), seen=False)
        for entry in away
        if entry.contract is not None and entry.healthy
    ]
    held = {share.partition("::")[0] for _, share in observed.held}
    gone = [Forget(entry.gpu.uuid) for entry in away if entry.contract is None and entry.gpu.uuid not in held]
    return (*news, *gone)


def _step(entry: AppliedGpu, desired: Desired | None, has: Holdings, observed: Observed) -> Step:
    if desired is None:
        recovered = adopt(entry, has)
        return Step((recovered,)) if recovered is not None else Step()
    want = desired.wants.get(entry.gpu.uuid)
    if want is None:
        return transition(entry, None, 0, has, observed)
    return transition(entry, want.contract, want.count, has, observed)


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
    have from another plugin. It stays as long as any of it is there or wanted.
    """
    there = applied.resources()
    there |= {resource for resource, share in observed.held if share.partition("::")[0] in applied.gpus}
    wanted = desired.resources() if desired is not None else frozenset[str]()
    retire = observed.registered - there - wanted if observed.readable else frozenset[str]()
    return (
        *(Register(resource) for resource in sorted(there - observed.registered)),
        *(Retire(resource) for resource in sorted(retire)),
        *(Resend(resource) for resource in sorted(observed.resend & (there | wanted))),
        *(Reconnect(resource) for resource in sorted(observed.reconnect & (there | wanted))),
    )
