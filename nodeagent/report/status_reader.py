"""The status document read back: what `nodeagent plan` needs to plan for a node that it is not on.

A newer agent may say more than this one knows; unknown keys are passed over. What is missing or of another type raises
ValueError with the place, since planning on a guess would be worse than not planning; but what an older agent did not
say yet, of MIG, XIDs and numbers, is taken as not there.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum
from typing import TypeVar

from nodeagent.model.config import Contract, Mode, MpsLimits
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import ComputeMode, Gpu, GpuHealth, Inventory, InventoryReason, MigDevice
from nodeagent.model.mps import DaemonState, GpuMeans, MpsDaemon, MpsReason, MpsStatus
from nodeagent.model.shares import MAX_NUMBER, Applied, AppliedGpu
from nodeagent.report.status import API_VERSION, KIND
from nodeagent.report.times import unix_seconds

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
            gpu=replace(gpu, provisional=_optional(applied, "provisional", bool, where_applied) or False),
            contract=contract,
            numbers=_numbers(applied, "numbers", where_applied),
            fences=dict.fromkeys(sorted(_numbers(applied, "fenced", where_applied)), 0.0),
            max_shares_per_container=_optional(applied, "maxSharesPerContainer", int, where_applied),
            unseen=_optional(applied, "unseen", bool, where_applied) or False,
            fault=_optional(applied, "fault", str, where_applied) or "",
            xids=_xids(applied, where_applied),
            driver_load=_optional(applied, "driverLoad", str, where_applied),
            leaving=_optional(applied, "leaving", bool, where_applied) or False,
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
        driver_load=_optional(inventory, "driverLoad", str, "inventory"),
        counted=_optional(inventory, "count", int, "inventory"),
    )


def moment_from_status(status: Mapping[str, object]) -> float:
    """When the status was reported, by the clock that its times are of, in Unix seconds. Raises ValueError."""
    return _time(status, "observedAt" if status.get("reportedAt") is None else "reportedAt")


def mps_from_status(status: Mapping[str, object]) -> MpsStatus:
    """How the MPS host and the daemons of the node's GPUs stand. Raises ValueError."""
    _check_kind(status)
    mps = _member(status, "mps", dict)
    daemons: dict[str, MpsDaemon] = {}
    for position, item in enumerate(_member(status, "gpus", list)):
        where = f"gpus[{position}]"
        facts = _expect(item, where, dict)
        told = _optional(facts, "daemon", dict, where)
        if told is not None:
            uuid = _member(facts, "uuid", str, where)
            daemons[uuid] = _daemon(uuid, told, f"{where}.daemon")
    means = _optional(mps, "means", list, "mps")
    left = [_expect(item, "mps.leftModes", dict) for item in _optional(mps, "leftModes", list, "mps") or []]
    return MpsStatus(
        reason=_enum(mps, "reason", MpsReason, "mps"),
        message=_member(mps, "message", str, "mps"),
        daemons=daemons,
        root=_member(mps, "root", str, "mps"),
        shared_memory=_member(mps, "sharedMemory", str, "mps"),
        # An agent of an older version says nothing of these.
        means=None if means is None else dict(_means(_expect(item, "mps.means", dict)) for item in means),
        left_modes={_member(item, "uuid", str, "mps.leftModes"): _left_mode(item) for item in left},
        host_version=_optional(mps, "hostVersion", str, "mps") or "",
        bounded=_optional(mps, "bounded", bool, "mps"),
    )


def _means(item: Mapping[str, object]) -> tuple[str, GpuMeans]:
    where = "mps.means"
    return _member(item, "uuid", str, where), GpuMeans(
        obstacle=_optional(item, "obstacle", str, where) or "",
        memory=_optional(item, "memoryMiB", int, where),
        clients=_member(item, "clients", int, where),
    )


def _left_mode(item: Mapping[str, object]) -> ComputeMode | None:
    where = "mps.leftModes"
    return None if item.get("computeMode") is None else _enum(item, "computeMode", ComputeMode, where)


def _daemon(uuid: str, told: Mapping[str, object], where: str) -> MpsDaemon:
    where_contract = f"{where}.contract"
    contract = _member(told, "contract", dict, where)
    limits = _optional(contract, "limits", dict, where_contract)
    return MpsDaemon(
        uuid,
        Contract(
            resource=_member(contract, "resource", str, where_contract),
            mode=_enum(contract, "mode", Mode, where_contract),
            # Nobody may know any more what a daemon was started for.
            limits=None if limits is None else _limits(limits, f"{where_contract}.limits"),
        ),
        state=_enum(told, "state", DaemonState, where),
        message=_member(told, "message", str, where),
        restarts=_member(told, "restarts", int, where),
        restored=_member(told, "restored", int, where),
        altered=_optional(told, "altered", str, where) or "",
        hindered=_optional(told, "hindered", bool, where) or False,
    )


def _check_kind(status: Mapping[str, object]) -> None:
    found = (status.get("apiVersion"), status.get("kind"))
    if found != (API_VERSION, KIND):
        told = " ".join(reprlib.repr(one) for one in found)
        raise ValueError(f"not a status of this version: expected {API_VERSION} {KIND}, got {told}")


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
        mig_enabled=_optional(facts, "migEnabled", bool, where) or False,
        mig=_mig(facts, where),
        driver_index=_optional(facts, "driverIndex", int, where),
    )


def _mig(facts: Mapping[str, object], where: str) -> MigDevice | None:
    told, within = _optional(facts, "mig", dict, where), f"{where}.mig"
    if told is None:
        return None
    return MigDevice(
        parent=_member(told, "parent", str, within),
        profile=_member(told, "profile", str, within),
        gpu_instance=_member(told, "gpuInstance", int, within),
        compute_instance=_member(told, "computeInstance", int, within),
    )


def _xids(applied: Mapping[str, object], where: str) -> dict[int, float]:
    within = f"{where}.xids"
    told = [_expect(item, within, dict) for item in _optional(applied, "xids", list, where) or ()]
    return {_member(one, "xid", int, within): _time(one, "lastSeen", within) for one in told}


def _capability(text: str | None, where: str) -> tuple[int, int] | None:
    if text is None:
        return None
    try:
        major, minor = (int(part) for part in text.split("."))
    except ValueError:
        raise ValueError(f"{where}.computeCapability: expected major.minor, got {reprlib.repr(text)}") from None
    return major, minor


def _contract(applied: Mapping[str, object], where: str) -> Contract | None:
    resource = _optional(applied, "resource", str, where)
    if resource is None:
        return None
    mode = _enum(applied, "mode", Mode, where)
    limits = _limits(_member(applied, "limits", dict, where), f"{where}.limits") if mode is Mode.MPS else None
    return Contract(resource, mode, limits)


def _limits(told: Mapping[str, object], where: str) -> MpsLimits:
    return MpsLimits(
        memory=_member(told, "memoryMiB", int, where),
        threads=_member(told, "threadPercentage", int, where),
        most=_member(told, "maxSharesPerContainer", int, where),
    )


def _numbers(applied: Mapping[str, object], key: str, where: str) -> frozenset[int]:
    numbers = [_expect(number, f"{where}.{key}", int) for number in _member(applied, key, list, where)]
    if any(not 0 <= number <= MAX_NUMBER for number in numbers):
        raise ValueError(f"{where}.{key}: expected numbers of shares, from 0 to {MAX_NUMBER}")
    return frozenset(numbers)


def _enum(mapping: Mapping[str, object], key: str, kind: type[E], where: str) -> E:
    value = _member(mapping, key, str, where)
    try:
        return kind(value)
    except ValueError:
        known = ", ".join(str(member.value) for member in kind)
        raise ValueError(
            f"{where}.{key}: expected one of {known}, got {reprlib.repr(value)}: is that agent newer?"
        ) from None


def _time(mapping: Mapping[str, object], key: str, where: str = "") -> float:
    text = _member(mapping, key, str, where)
    try:
        return unix_seconds(text)
    except ValueError:
        place = f"{where}.{key}" if where else key
        raise ValueError(
            f"{place}: expected a time such as 2026-02-03T04:05:06.789Z, got {reprlib.repr(text)}"
        ) from None


def _optional(mapping: Mapping[str, object], key: str, kind: type[T], where: str) -> T | None:
    return None if mapping.get(key) is None else _member(mapping, key, kind, where)


def _member(mapping: Mapping[str, object], key: str, kind: type[T], where: str = "") -> T:
    return _expect(mapping.get(key), f"{where}.{key}" if where else key, kind)


def _expect(value: object, where: str, kind: type[T]) -> T:
    if type(value) is not kind:
        raise ValueError(f"{where}: expected {kind.__name__}, got {reprlib.repr(value)}")
    return value
