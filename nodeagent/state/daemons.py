"""MPS daemons as the planner sees them: which there must be, which can be relied on, and what is wrong with the others.

Which daemons there must be follows from the applied contract alone, so no restart and no order of reloads can leave one
over. A share that needs a daemon is advertised only when the agent itself has verified that daemon, with the limits of
the very contract; what comes after MPS is advertised only when the daemon has left, and with it the compute mode that
it needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import ComputeMode, Gpu, Inventory, InventoryReason
from nodeagent.model.mps import DaemonState, MpsReason, MpsStatus
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.desired import Desired


def daemons(applied: Applied, orphans: Mapping[str, Contract]) -> dict[str, Contract]:
    """The contract of every daemon that must run, by uuid. `orphans` are those of GPUs that are not known yet."""
    wanted = {
        uuid: entry.contract
        for uuid, entry in applied.gpus.items()
        if entry.contract is not None and entry.contract.limits is not None
    }
    return {**{uuid: contract for uuid, contract in orphans.items() if uuid not in applied.gpus}, **wanted}


def wished(desired: Desired | None) -> bool:
    """Whether a daemon is wanted on any GPU: then there is to be a host, so that it can say what it can do."""
    return desired is not None and any(
        want.contract is not None and want.contract.limits is not None for want in desired.wants.values()
    )


def orphans(before: Mapping[str, Contract], applied: Applied, inventory: Inventory) -> dict[str, Contract]:
    """Daemons that an earlier agent asked for and of whose GPUs nothing is known: its state directory was lost. One of
    a GPU that is not there any more is nobody's.
    """
    whole = inventory.complete and inventory.reason is InventoryReason.FOUND
    listed = inventory.by_uuid()
    return {
        uuid: contract
        for uuid, contract in before.items()
        if uuid not in applied.gpus and (uuid in listed or not whole)
    }


def verified(contract: Contract, uuid: str, mps: MpsStatus) -> bool:
    """Whether shares under this contract may be advertised: always, where they need no daemon."""
    if contract.limits is None:
        return True
    daemon = mps.daemons.get(uuid)
    return daemon is not None and daemon.state is DaemonState.READY and daemon.contract == contract


def fault(entry: AppliedGpu, mps: MpsStatus, before: AppliedGpu | None) -> str:
    """Why the shares on the list cannot be relied on; empty where they can. While nothing is known of the daemons that
    stays as it was `before`; of shares that were on no list nothing was known before either.
    """
    contract = entry.contract
    if contract is None or not entry.numbers or verified(contract, entry.gpu.uuid, mps):
        return ""
    if mps.reason is MpsReason.PENDING and before is not None and before.numbers:
        return entry.fault
    return f"its MPS daemon is not ready: {mps.trouble(entry.gpu.uuid, contract)}"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is not as it should be with the daemon of one GPU. `state` is its own, READY where only its limits have been
    changed.
    """

    entry: AppliedGpu
    state: DaemonState
    message: str


def troubles(applied: Applied, mps: MpsStatus) -> list[Trouble]:
    """Daemons that are not as their contract says, and those that nobody wants, by index of their GPU."""
    found = []
    for entry in applied.ordered():
        uuid, contract = entry.gpu.uuid, entry.contract
        daemon = mps.daemons.get(uuid)
        if contract is None or contract.limits is None:
            if daemon is not None:
                found.append(Trouble(entry, DaemonState.STOPPING, daemon.message or DaemonState.STOPPING.value))
        elif daemon is None or daemon.contract != contract:
            found.append(Trouble(entry, DaemonState.STARTING, mps.trouble(uuid, contract)))
        elif daemon.state is not DaemonState.READY:
            found.append(Trouble(entry, daemon.state, mps.trouble(uuid, contract)))
        elif daemon.altered:
            told = f"a client has changed the limits: {daemon.altered}"
            found.append(Trouble(entry, DaemonState.READY, told))
    return found


def missing(contract: Contract, gpu: Gpu, mps: MpsStatus) -> str:
    """Why what this contract needs cannot be had on this GPU now, in words; empty when every precondition is verified.

    A contract that needs no daemon needs a compute mode in which it can work, where MPS has left another one.
    """
    limits = contract.limits
    if limits is None:
        return _in_the_way(contract, gpu.uuid, mps)
    if mps.reason is not MpsReason.RUNNING:
        return mps.message or f"the MPS host: {mps.reason.value}"
    if mps.means is None:
        return ""  # a host of an older version says nothing of this, and does it
    means = mps.means.get(gpu.uuid)
    if means is None:
        return "the MPS host has not said yet what it can do with this GPU"
    if means.obstacle:
        return means.obstacle
    if means.memory is not None and limits.memory > means.memory:
        return f"the MPS host sees {means.memory} MiB of memory, and one share has {limits.memory} MiB"
    return ""


def lingering(contract: Contract, uuid: str, mps: MpsStatus) -> str:
    """Why shares under this contract, which needs no daemon, may not be offered yet on a GPU that may have been under
    MPS; empty when they may.

    Without its host a daemon is gone, but the compute mode that it needed stays until somebody puts it back.
    """
    if mps.reason is MpsReason.PENDING:
        return mps.message or "it is not known yet whether it is free of MPS"
    if (daemon := mps.daemons.get(uuid)) is not None:
        return f"its MPS daemon has not left yet: {daemon.message or mps.message or daemon.state.value}"
    return _in_the_way(contract, uuid, mps)


def _in_the_way(contract: Contract, uuid: str, mps: MpsStatus) -> str:
    """How a compute mode that MPS has left keeps shares under this contract from being used; empty where it does not. A
    whole GPU can be used by one process all the same; of one whose mode cannot be read nobody knows more.
    """
    works = contract.mode is Mode.EXCLUSIVE and mps.left_modes.get(uuid) is not ComputeMode.PROHIBITED
    return "" if works else left_over(uuid, mps)


def left_over(uuid: str, mps: MpsStatus) -> str:
    """In which compute mode MPS has left a GPU, and how to put that back; empty where that is as it was."""
    if uuid not in mps.left_modes:
        return ""
    mode = mps.left_modes[uuid]
    found = "MPS has left it in a compute mode that cannot be read"
    if mode is not None:
        found = f"MPS has left it in the compute mode {mode.value}"
    if mode is ComputeMode.PROHIBITED:
        found = f"its compute mode is {mode.value}, in which nothing computes"
    return f"{found}: put it back with `nvidia-smi -c 0 -i {uuid}`"


def coming(desired: Desired | None, plan: Plan, applied: Applied, among: AbstractSet[str]) -> bool:
    """Whether one of these GPUs is about to come under MPS: only the kubelet is waited for, which lets go of its old
    shares.
    """
    if desired is None:
        return False
    soon = {WaitReason.KUBELET, WaitReason.FRESH_LIST}
    late = {wait.uuid for wait in plan.waits if wait.reason not in soon}
    return any(
        want.contract is not None
        and want.contract.limits is not None
        and uuid in among - late
        and ((entry := applied.gpus.get(uuid)) is None or entry.contract != want.contract)
        for uuid, want in desired.wants.items()
    )


def unready(plan: Plan, applied: Applied, mps: MpsStatus, among: AbstractSet[str]) -> str:
    """What the plan waits for of the daemons of these GPUs, in words; empty where it waits for none."""
    known = {one.entry.gpu.uuid: one.message for one in troubles(applied, mps)}
    waiting = {wait.uuid: wait.detail for wait in plan.waits if wait.reason is WaitReason.DAEMON and wait.uuid in among}
    told = []
    for entry in applied.ordered():
        uuid = entry.gpu.uuid
        if uuid in known and uuid in waiting:
            told.append(f"{entry.gpu.name}: its MPS daemon is not as it should be: {known[uuid]}")
        elif uuid in waiting:
            told.append(f"{entry.gpu.name}: {waiting[uuid] or mps.message or mps.reason.value}")
    return "; ".join(told)
