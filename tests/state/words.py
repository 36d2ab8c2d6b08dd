"""A plan in words, as the golden files say it: `advertise GPU 0 time-sliced nvidia.com/gpu.shared 0-9`."""

from __future__ import annotations

from collections.abc import Iterable

from nodeagent.model.health import describe_xids
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import (
    Action,
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Forget,
    Limit,
    Plan,
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
)


def ranges(numbers: Iterable[int]) -> str:
    """`0-3,7`; empty for no numbers."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number - 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in runs)


def numbers(text: str) -> frozenset[int]:
    """What `ranges` gives, read back."""
    found: set[int] = set()
    for part in text.split(",") if text else ():
        first, _, last = part.partition("-")
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def actions(made: Plan) -> list[str]:
    """Every action, in order."""
    return [action(one) for one in made.actions]


def waits(made: Plan) -> list[str]:
    """Every wait."""
    return [wait(one) for one in made.waits]


def wait(one: Wait) -> str:
    """`GPU 0 waits for pods: 4-5`."""
    return f"{_gpu(one.uuid)} waits for {one.reason.value}" + (f": {ranges(one.numbers)}" if one.numbers else "")


def action(one: Action) -> str:  # noqa: C901, PLR0911  # one per action
    """What is done to which GPU or resource."""
    match one:
        case Remember(gpu):
            said = f"remember {gpu.name}"
            return said if gpu.health is GpuHealth.OK else f"{said} {gpu.health.value}"
        case Forget(uuid):
            return f"forget {_gpu(uuid)}"
        case Adopt(uuid, contract, adopted):
            return f"adopt {_gpu(uuid)} {contract} {ranges(adopted)}".rstrip()
        case Diagnose(uuid, xids):
            return f"diagnose {_gpu(uuid)} {describe_xids(xids) or 'well'}"
        case Verdict(uuid, fault):
            return f"verdict {_gpu(uuid)} {fault or 'well'}"
        case Start(uuid, contract):
            return f"start {_gpu(uuid)} {contract}"
        case Advertise(uuid, contract, offered):
            return f"advertise {_gpu(uuid)} {contract} {ranges(offered)}"
        case Fence(uuid, fenced):
            return f"fence {_gpu(uuid)} {ranges(fenced)}"
        case Restore(uuid, restored):
            return f"restore {_gpu(uuid)} {ranges(restored)}"
        case Drop(uuid, dropped):
            return f"drop {_gpu(uuid)} {ranges(dropped)}"
        case Release(uuid):
            return f"release {_gpu(uuid)}"
        case Limit(uuid, most):
            return f"limit {_gpu(uuid)} {most if most is not None else 'none'}"
        case Register(resource) | Retire(resource) | Resend(resource) | Reconnect(resource):
            return f"{type(one).__name__.lower()} {resource}"


def _gpu(uuid: str) -> str:
    return uuid.replace("GPU-", "GPU ")
