"""A contract as JSON, and back: it is in the applied contract of the node and in the files of the MPS host."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.envelope import member, optional
from nodeagent.model.config import Contract, Mode, MpsLimits

E = TypeVar("E", bound=Enum)


def encode_contract(contract: Contract) -> dict[str, object]:
    """`{"mode", "resource"}`, and under MPS `"limits"`: MiB, percent, and shares per container at most."""
    limits = contract.limits
    told: dict[str, object] = {"mode": contract.mode.value, "resource": contract.resource}
    if limits is not None:
        told["limits"] = {"memoryMiB": limits.memory, "threadPercentage": limits.threads, "most": limits.most}
    return told


def decode_contract(value: Mapping[str, object]) -> Contract:
    """What `encode_contract` made, and nothing else. Raises Untrusted."""
    resource = member(value, "resource", str)
    mode = decode_enum(Mode, member(value, "mode", str))
    told = optional(value, "limits", dict)
    limits = None if told is None else _limits(told)
    if mode is Mode.WITHHELD or not resource:
        raise Untrusted("nothing can be advertised under its contract")
    if (limits is not None) is not (mode is Mode.MPS):
        raise Untrusted("limits are there under MPS, and only there")
    return Contract(resource, mode, limits)


def decode_enum(kind: type[E], value: str) -> E:
    """The member with this value. Raises Untrusted."""
    try:
        return kind(value)
    except ValueError as error:
        raise Untrusted(f"{reprlib.repr(value)} is not a valid {kind.__name__}") from error


def _limits(value: Mapping[str, object]) -> MpsLimits:
    limits = MpsLimits(
        memory=member(value, "memoryMiB", int),
        threads=member(value, "threadPercentage", int),
        most=member(value, "most", int),
    )
    if limits.memory < 1 or not 1 <= limits.threads <= 100 or limits.most < 1:
        raise Untrusted(f"its limits are impossible: {limits}")
    return limits
