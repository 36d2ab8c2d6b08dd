"""The plan in plain words: one sentence per action and per wait, for people who do not know the agent's insides."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nodeagent.model.health import describe_xids
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import (
    Action,
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Forget,
    Limit,
    Reconnect,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    Start,
    Verdict,
    Wait,
    WaitReason,
    Waves,
)
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.words import count

ROLES: Mapping[str, str] = {
    "newest": "newest",
    "desired": "accepted",
    "applied": "applied",
    "lastKnownGood": "last known good",
}
"""What a document is to the node, by its key in the status. Everything that is read by people has these words: the
newest document is the mounted one; it is accepted, or rejected, or missing, or cannot be read; the accepted one is in
force, and applied once every GPU is as it says.
"""

_PODS = 3
"""Pods that are named where a change waits for them."""


class Names:
    """GPUs and MIG devices as people call them: by index where it is known, else by uuid. And what keeps their MPS
    daemons.
    """

    def __init__(self, applied: Applied, mps: MpsStatus) -> None:
        self._gpus: Mapping[str, AppliedGpu] = applied.gpus
        self._mps = mps

    def gpu(self, uuid: str) -> str:
        """`GPU 3`, `MIG device 3:7`, or the uuid of one that the applied contract does not have."""
        entry = self._gpus.get(uuid)
        return uuid if entry is None else entry.gpu.name

    def daemon(self, uuid: str) -> str:
        """What of a GPU's MPS daemon is waited for: to be ready, to leave, or first of all to be known. And why that is
        not so yet.
        """
        entry, daemon = self._gpus.get(uuid), self._mps.daemons.get(uuid)
        contract = entry.contract if entry is not None else None
        if contract is not None and contract.limits is not None:
            return f"its MPS daemon: {self._mps.trouble(uuid, contract)}"
        if daemon is not None:
            return f"its MPS daemon to leave: {daemon.message or daemon.state.value}"
        return f"news of its MPS daemon: {self._mps.message or self._mps.reason.value}"


def describe_action(action: Action, names: Names) -> str:  # noqa: C901, PLR0911, PLR0912 - a table, one line per action
    """What will be done next, as a sentence without a full stop."""
    match action:
        case Remember(gpu):
            kind = gpu.model if gpu.mig is None else f"{gpu.mig.profile} of {gpu.model}"
            return f"take note of {gpu.name} ({kind}, {gpu.health.value})"
        case Forget(uuid):
            return f"forget {names.gpu(uuid)}, which is gone"
        case Adopt(uuid, contract, numbers):
            return f"list {count(numbers, 'share')} of {names.gpu(uuid)} that pods have as {contract}"
        case Diagnose(uuid, xids):
            if not xids:
                return f"hold no XID against {names.gpu(uuid)} any more"
            return f"take {names.gpu(uuid)} for unhealthy: {describe_xids(xids)}"
        case Verdict(uuid, fault):
            return f"send the shares of {names.gpu(uuid)} as {f'unhealthy: {fault}' if fault else 'healthy again'}"
        case Start(uuid, contract):
            return f"start the MPS daemon of {names.gpu(uuid)} for {contract}"
        case Advertise(uuid, contract, numbers):
            return f"offer {count(numbers, 'share')} of {names.gpu(uuid)} as {contract}"
        case Fence(uuid, numbers):
            return f"fence {count(numbers, 'free share')} of {names.gpu(uuid)}, so that no pod gets one"
        case Restore(uuid, numbers):
            return f"offer {count(numbers, 'fenced share')} of {names.gpu(uuid)} again"
        case Drop(uuid, numbers):
            return f"take {count(numbers, 'fenced share')} of {names.gpu(uuid)} off the list"
        case Release(uuid):
            return f"end the contract of {names.gpu(uuid)}, which has no share left"
        case Limit(uuid, limit):
            allowed = "any number of shares" if limit is None else f"at most {count(limit, 'share')}"
            return f"let a container ask for {allowed} of {names.gpu(uuid)}"
        case Register(resource):
            return f"serve {resource} and register it with the kubelet"
        case Retire(resource):
            return f"stop serving {resource}, of which nothing is left"
        case Resend(resource):
            return f"send the list of {resource} again, since the kubelet's differs"
        case Reconnect(resource):
            return f"register {resource} anew, since the kubelet's list still differs"


def describe_waves(waves: Waves, holders: Collection[str]) -> str:
    """How far a change is that takes more than one wave; empty where none waits for its turn. `holders` are the
    containers (`namespace/pod/container`) on the devices that are under way.
    """
    if not waves.waiting:
        return ""
    told = f"{waves.changed} of {count(waves.total, 'device')} as wanted, at most {waves.limit} at a time"
    told = f"{told}, waiting for their turn: {len(waves.waiting)}"
    pods = sorted({name.rpartition("/")[0] for name in holders})
    if not pods:
        return told
    more = f" and {len(pods) - _PODS} more" if len(pods) > _PODS else ""
    return f"{told}, until pods have ended: {', '.join(pods[:_PODS])}{more}"


def describe_wait(wait: Wait, names: Names) -> str:  # noqa: PLR0911 - a table, one line per reason
    """What cannot be done yet and what has to happen first, as a sentence without a full stop."""
    gpu, numbers = names.gpu(wait.uuid), wait.numbers
    match wait.reason:
        case WaitReason.PODS:
            return f"{gpu}: waiting for the pods on {count(numbers, 'share')} that Git no longer wants"
        case WaitReason.KUBELET:
            return f"{gpu}: waiting for the kubelet to stop offering {count(numbers, 'fenced share')}"
        case WaitReason.POD_RESOURCES:
            return f"{gpu}: waiting for the kubelet to say which pods use it; until then every share counts as in use"
        case WaitReason.FRESH_LIST:
            return f"{gpu}: waiting for a fresh look at which pods use it"
        case WaitReason.RESTART:
            return f"{gpu}: waiting until an agent that has just started can be sure which pods use it"
        case WaitReason.DAEMON:
            return f"{gpu}: waiting for {f'MPS: {wait.detail}' if wait.detail else names.daemon(wait.uuid)}"
        case WaitReason.MIG:
            return f"{gpu}: waiting for what is on the list of the same GPU, whole or by MIG device, to leave it"
        case WaitReason.WAVE:
            return f"{gpu}: waiting for its turn: as many devices as may be unavailable at a time are"
        case WaitReason.LAST:
            return f"{gpu}: waiting until another device offers its resource, which nothing else does"
        case WaitReason.DISK:
            return f"{gpu}: waiting until the state directory can be written, and stays what it is until then"
        case WaitReason.LIST_SIZE:
            return f"{gpu}: waiting for old shares to leave the kubelet's lists, without room for {len(numbers):,} more"
