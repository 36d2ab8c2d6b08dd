"""What no plan may do, checked by performing it on a copy, action by action. The list is that of `plan`."""

from __future__ import annotations

from collections.abc import Iterable

from nodeagent.model.plan import Advertise, Drop, Restore, ShareAction
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.daemons import verified
from nodeagent.state.desired import Desired
from nodeagent.state.effect import InvariantBroken, perform
from nodeagent.state.families import Family, is_beside
from nodeagent.state.observed import Observed, droppable


def verify(
    family: Family,
    observed: Observed,
    wishes: Desired | None,
    actions: Iterable[ShareAction],
    *,
    keeps: bool = False,
) -> Applied:
    """What is applied of one piece of silicon after the actions; `wishes` is what they are to come to, but for shares
    that are on the list where what is applied is kept (`keeps`). Raises InvariantBroken where one of them breaks an
    invariant.
    """
    applied = family.applied
    for action in actions:
        before = applied
        applied = perform(before, (action,), observed.now)
        if isinstance(action, Drop):
            entry = before.gpus[action.uuid]
            if not action.numbers <= droppable(entry, family.holdings(entry).own, observed):
                raise InvariantBroken(f"cannot drop shares that may be held or handed out: {action.uuid}")
        if isinstance(action, Advertise):
            entry = applied.gpus[action.uuid]
            if not verified(action.contract, action.uuid, observed.mps):
                raise InvariantBroken(f"cannot advertise {action.contract}, its daemon is not verified: {action.uuid}")
            if is_beside(entry, {uuid: one for uuid, one in applied.gpus.items() if one.numbers}):
                raise InvariantBroken(f"cannot advertise a GPU beside its MIG devices: {action.uuid}")
        if isinstance(action, Advertise | Restore):
            kept = keeps and isinstance(action, Restore)
            _demand_room(family, applied.gpus[action.uuid], action, None if kept else wishes)
    return applied


def _demand_room(family: Family, entry: AppliedGpu, action: Advertise | Restore, wishes: Desired | None) -> None:
    """What a pod has already may come back to the list at any time; a free share only where there is room for it."""
    own = family.holdings(entry).own
    if action.numbers <= own:
        return
    want = wishes.wants.get(entry.gpu.uuid) if wishes is not None else None
    wanted = want.count if want is not None and want.contract == entry.contract else 0
    if isinstance(action, Restore) and not wanted:
        wanted = len(entry.numbers)  # it keeps what it had
    out = len((entry.numbers - entry.fences.keys()) | own)
    if out > wanted:
        raise InvariantBroken(f"cannot let {out} shares be handed out where {wanted} are wanted: {entry.gpu.uuid}")
