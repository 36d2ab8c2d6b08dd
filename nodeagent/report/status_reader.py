"""The status document read back: what `nodeagent plan` needs to plan for a node that it is not on.

A newer agent may say more than this one knows; unknown keys are passed over. What is missing or of another type raises
ValueError with the place, since planning on a guess would be worse than not planning.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TypeVar

from nodeagent.model.config import Contract, Mode
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory, InventoryReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.report.status import API_VERSION, KIND

T = TypeVar("T")
E = TypeVar("E", bound=Enum)


def applied_from_status(status: Mapping[str, object]) -> tuple[Applied, frozenset[ShareKey]]:
    """The applied contract and the held shares of the node. Fences are from time 0. Raises ValueError."""
    _check_kind(status)
    gpus: dict[str, AppliedGpu] = {}
    held: set[ShareKey] = set()
    for position, item in enumerate(_member(status, "gpus", list)):
        where = f"gpus[{position}]"
        facts = _expect(item, where, dict)
        gpu = _gpu(facts, where)
        applied = _optional(facts, "applied", dict, where)
        if applied is None:
            continue
        where_applied = f"{where}.applied"
        contract = _contract(applied, where_applied)
        gpus[gpu.uuid] = AppliedGpu(
            gpu=gpu,
            contract=contract,
            numbers=_numbers(applied, "numbers", where_applied),
            fences=dict.fromkeys(sorted(_numbers(applied, "fenced", where_applied)), 0.0),
            max_shares_per_container=_optional(applied, "maxSharesPerContainer", int, where_applied),
        )
        if contract is not None:
            for share in _member(facts, "shares", list, where):
                share_facts = _expect(share, f"{where}.shares", dict)
                if _member(share_facts, "held", bool, f"{where}.shares"):
                    held.add((contract.resource, _member(share_facts, "id", str, f"{where}.shares")))
    return Applied(gpus), frozenset(held)


def inventory_from_status(status: Mapping[str, object]) -> Inventory:
    """The node's newest inventory, as its driver gave it. Raises ValueError."""
    _check_kind(status)
    inventory = _member(status, "inventory", dict)
    return Inventory(
        gpus=tuple(
            _gpu(_expect(item, "inventory.gpus", dict), "inventory.gpus")
            for item in _member(inventory, "gpus", list, "inventory")
        ),
        driver_version=_optional(inventory, "driverVersion", str, "inventory"),
        cuda_version=_optional(inventory, "cudaVersion", str, "inventory"),
        reason=_enum(inventory, "reason", InventoryReason, "inventory"),
        message=_member(inventory, "message", str, "inventory"),
        complete=_member(inventory, "complete", bool, "inventory"),
    )


def _check_kind(status: Mapping[str, object]) -> None:
    found = (status.get("apiVersion"), status.get("kind"))
    if found != (API_VERSION, KIND):
        raise ValueError(f"not a status of this version: expected {API_VERSION} {KIND}, got {found[0]} {found[1]}")


def _gpu(facts: Mapping[str, object], where: str) -> Gpu:
    return Gpu(
        uuid=_member(facts, "uuid", str, where),
        index=_member(facts, "index", int, where),
        model=_member(facts, "model", str, where),
        memory=_member(facts, "memoryBytes", int, where),
        compute_capability=_capability(_optional(facts, "computeCapability", str, where), where),
        minor=_optional(facts, "minor", int, where),
        pci_bus_id=_optional(facts, "pciBusId", str, where),
        numa_node=_optional(facts, "numaNode", int, where),
        health=_enum(facts, "health", GpuHealth, where),
        message=_member(facts, "message", str, where),
    )


def _capability(text: str | None, where: str) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        major, minor = (int(part) for part in text.split("."))
    except ValueError:
        raise ValueError(f"{where}.computeCapability: expected major.minor, got {text!r}") from None
    return major, minor


def _contract(applied: Mapping[str, object], where: str) -> Contract | None:
    resource = _optional(applied, "resource", str, where)
    if resource is None:
        return None
    return Contract(resource=resource, mode=_enum(applied, "mode", Mode, where))


def _numbers(applied: Mapping[str, object], key: str, where: str) -> frozenset[int]:
    numbers = _member(applied, key, list, where)
    return frozenset(_expect(number, f"{where}.{key}", int) for number in numbers)


def _enum(mapping: Mapping[str, object], key: str, kind: type[E], where: str) -> E:
    value = _member(mapping, key, str, where)
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise ValueError(f"{where}.{key}: expected one of {known}, got {value!r}: is that agent newer?") from None


def _optional(mapping: Mapping[str, object], key: str, kind: type[T], where: str) -> T | None:
    return None if mapping.get(key) is None else _member(mapping, key, kind, where)


def _member(mapping: Mapping[str, object], key: str, kind: type[T], where: str = "") -> T:
    return _expect(mapping.get(key), f"{where}.{key}" if where else key, kind)


def _expect(value: object, where: str, kind: type[T]) -> T:
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, got {repr(value)[:40]}")
    return value
