"""What an action does to the applied contract, and the invariants that no action may break.

The executor, the planner's own check, `nodeagent plan` and the property tests all go through `perform`, so that a plan
means the same to each of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Forget,
    Limit,
    Release,
    Remember,
    Restore,
    ShareAction,
    Start,
    Verdict,
)
from nodeagent.model.shares import Applied, AppliedGpu


class InvariantBroken(Exception):
    """A plan that must never be made: a fault of ours. Nothing of it is performed."""


def perform(applied: Applied, actions: Iterable[ShareAction], now: float) -> Applied:
    """The applied contract after the actions, in their order. `now` (monotonic seconds) becomes the time of new fences.

    Raises InvariantBroken where an action would drop a share that is not fenced, change the contract of a GPU that has
    shares on the list, or speak of shares that are not there.
    """
    gpus: dict[str, AppliedGpu] = dict(applied.gpus)
    acted = False
    for action in actions:
        _perform(gpus, action, now)
        acted = True
    return Applied(gpus) if acted else applied


def _perform(gpus: dict[str, AppliedGpu], action: ShareAction, now: float) -> None:
    match action:
        case Remember(gpu, seen):
            entry = gpus.get(gpu.uuid, AppliedGpu(gpu))
            gpus[gpu.uuid] = replace(entry, gpu=gpu, unseen=entry.unseen and not seen)
        case Forget(uuid):
            entry = _entry(gpus, uuid)
            _demand(entry.contract is None, "forget a GPU that has a contract", entry)
            del gpus[uuid]
        case Diagnose(uuid, xids, driver_load):
            gpus[uuid] = replace(_entry(gpus, uuid), xids=xids, driver_load=driver_load)
        case Verdict(uuid, fault):
            gpus[uuid] = replace(_entry(gpus, uuid), fault=fault)
        case Start(uuid, contract):
            entry = _entry(gpus, uuid)
            _demand(entry.contract is None, f"start {contract}", entry)
            gpus[uuid] = replace(entry, contract=contract)
        case Adopt(uuid, contract, numbers) | Advertise(uuid, contract, numbers):
            entry = _entry(gpus, uuid)
            _demand(entry.contract in (None, contract), f"advertise {contract}", entry)
            _demand(not numbers & entry.numbers, "advertise shares twice", entry)
            gpus[uuid] = replace(entry, contract=contract, numbers=entry.numbers | numbers)
        case Fence(uuid, numbers, leaving):
            entry = _entry(gpus, uuid)
            _demand(numbers <= entry.numbers, "fence shares that are not on the list", entry)
            gpus[uuid] = replace(entry, fences={**dict.fromkeys(numbers, now), **entry.fences}, leaving=leaving)
        case Restore(uuid, numbers, leaving):
            entry = _entry(gpus, uuid)
            _demand(numbers <= entry.fences.keys(), "restore shares that are not fenced", entry)
            gpus[uuid] = replace(entry, fences=_without(entry.fences, numbers), leaving=leaving)
        case Drop(uuid, numbers):
            entry = _entry(gpus, uuid)
            _demand(numbers <= entry.fences.keys(), "drop shares that are not fenced", entry)
            gpus[uuid] = replace(entry, numbers=entry.numbers - numbers, fences=_without(entry.fences, numbers))
        case Release(uuid):
            entry = _entry(gpus, uuid)
            _demand(not entry.numbers, "release a GPU that has shares on the list", entry)
            gpus[uuid] = replace(entry, contract=None, leaving=False, max_shares_per_container=None, fault="")
        case Limit(uuid, limit):
            gpus[uuid] = replace(_entry(gpus, uuid), max_shares_per_container=limit)


def _without(fences: Mapping[int, float], numbers: frozenset[int]) -> dict[int, float]:
    return {number: since for number, since in fences.items() if number not in numbers}


def _entry(gpus: Mapping[str, AppliedGpu], uuid: str) -> AppliedGpu:
    if uuid not in gpus:
        raise InvariantBroken(f"cannot act on a GPU that is not remembered: {uuid}")
    return gpus[uuid]


def _demand(holds: object, what: str, entry: AppliedGpu) -> None:
    if not holds:
        raise InvariantBroken(f"cannot {what}: {entry.gpu.uuid}, {entry.contract}, {len(entry.numbers)} shares")
