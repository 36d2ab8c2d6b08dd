"""The plan in plain words: one sentence per action and per wait, for people who do not know the agent's insides."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from nodeagent.model.plan import (
    Action,
    Adopt,
    Advertise,
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
    Wait,
    WaitReason,
)
from nodeagent.model.shares import Applied


class Names:
    """GPUs as people call them: by index where it is known, else by uuid."""

    def __init__(self, applied: Applied) -> None:
        self._indices: Mapping[str, int] = {uuid: entry.gpu.index for uuid, entry in applied.gpus.items()}

    def gpu(self, uuid: str) -> str:
        """`GPU 3`, or the uuid of a GPU that the applied contract does not have."""
        index = self._indices.get(uuid)
        return uuid if index is None else f"GPU {index}"


def count(things: Collection[object] | int, one: str) -> str:
    """`1 share`, `5 shares`."""
    number = things if isinstance(things, int) else len(things)
    return f"{number:,} {one}" if number == 1 else f"{number:,} {one}s"


def describe_action(action: Action, names: Names) -> str:  # noqa: C901, PLR0911 - a table, one line per action
    """What will be done next, as a sentence without a full stop."""
    match action:
        case Remember(gpu):
            return f"take note of GPU {gpu.index} ({gpu.model}, {gpu.health.value})"
        case Forget(uuid):
            return f"forget {names.gpu(uuid)}, which is gone"
        case Adopt(uuid, contract, numbers):
            return f"list {count(numbers, 'share')} of {names.gpu(uuid)} that pods have as {contract}"
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


def describe_wait(wait: Wait, names: Names) -> str:
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
        case WaitReason.LIST_SIZE:
            return (
                f"{gpu}: waiting for old shares to leave the kubelet's list: it has no room for {len(numbers):,} more"
            )
