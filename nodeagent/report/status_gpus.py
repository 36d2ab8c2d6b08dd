"""The GPUs of the status document: their facts, what Git wants of them, and the applied contract, completely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from json.encoder import encode_basestring_ascii as quoted
from typing import Final

from nodeagent.model.config import Contract, MpsLimits
from nodeagent.model.health import meaning
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import MpsDaemon
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import GpuStatus, ShareStatus
from nodeagent.report.times import rfc3339

Json = dict[str, object]

_AT_ONCE: Final = 500
"""Shares that are made into text at once."""


def facts_to_json(gpu: Gpu) -> Json:
    """What the driver says of a GPU or MIG device, and how it is called."""
    capability, mig = gpu.compute_capability, gpu.mig
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "label": gpu.label,
        "model": gpu.model,
        "memoryBytes": gpu.memory,
        "computeCapability": None if capability is None else f"{capability[0]}.{capability[1]}",
        "minor": gpu.minor,
        "pciBusId": gpu.pci_bus_id,
        "numaNode": gpu.numa_node,
        "health": gpu.health.value,
        "message": gpu.message,
        "migEnabled": gpu.mig_enabled,
        "mig": None
        if mig is None
        else {
            "parent": mig.parent,
            "profile": mig.profile,
            "gpuInstance": mig.gpu_instance,
            "computeInstance": mig.compute_instance,
        },
    }


HeldSince = Mapping[ShareKey, float]
"""Since when shares count as held though PodResources names nobody who has them, in Unix seconds."""


def gpu_to_json(applied: Applied, status: GpuStatus, since: HeldSince, *, shares: bool = True) -> Json:
    """One GPU with what is wanted of it, what is applied, and its `shares` or none of them, which come last."""
    return {
        **facts_to_json(status.gpu),
        "driverIndex": status.gpu.driver_index,
        "wanted": {**_contract(status.wanted), "rule": status.rule, "shares": status.wanted_shares},
        "applied": _applied(applied.gpus.get(status.gpu.uuid)),
        "daemon": None if status.daemon is None else _daemon(status.daemon),
        "shares": [_share(share, _held_since(status, share, since)) for share in status.shares] if shares else [],
    }


def shares_as_text(status: GpuStatus, since: HeldSince) -> Iterator[bytes]:
    """What `gpu_to_json` says of the shares of a GPU as `json.dumps` writes it, without the brackets around them, some
    at a time.
    """
    left, separator = iter(status.shares), ""
    while some := list(islice(left, _AT_ONCE)):
        texts = (_share_as_text(share, _held_since(status, share, since)) for share in some)
        yield (separator + ", ".join(texts)).encode()
        separator = ", "


def _held_since(status: GpuStatus, share: ShareStatus, since: HeldSince) -> str | None:
    at = since.get((status.contract.resource, share.id)) if since and status.contract is not None else None
    return None if at is None else rfc3339(at)


def _contract(contract: Contract | None) -> Json:
    return {
        "mode": None if contract is None else contract.mode.value,
        "resource": None if contract is None else contract.resource,
        "limits": None if contract is None else limits_to_json(contract.limits),
    }


def limits_to_json(limits: MpsLimits | None) -> Json | None:
    """What one share under MPS may use, and how many of them one container may have; None in other modes."""
    if limits is None:
        return None
    return {
        "memoryMiB": limits.memory,
        "threadPercentage": limits.threads,
        "maxSharesPerContainer": limits.most,
    }


def _daemon(daemon: MpsDaemon) -> Json:
    return {
        "state": daemon.state.value,
        "message": daemon.message,
        "contract": _contract(daemon.contract),
        "restarts": daemon.restarts,
        "restored": daemon.restored,
        "altered": daemon.altered or None,
        "hindered": daemon.hindered,
    }


def _applied(entry: AppliedGpu | None) -> Json | None:
    if entry is None:
        return None
    return {
        **_contract(entry.contract),
        "maxSharesPerContainer": entry.max_shares_per_container,
        "numbers": sorted(entry.numbers),
        "fenced": sorted(entry.fences),
        "leaving": entry.leaving,
        "fault": entry.fault or None,
        "xids": [
            {"xid": xid, "meaning": meaning(xid), "lastSeen": rfc3339(at)} for xid, at in sorted(entry.xids.items())
        ],
        "driverLoad": entry.driver_load,
        "unseen": entry.unseen,
        "provisional": entry.gpu.provisional,
    }


def _share(share: ShareStatus, held_since: str | None) -> Json:
    return {
        "number": share.number,
        "id": share.id,
        "state": share.state.value,
        "held": share.held,
        "fenced": share.fenced,
        "holder": share.holder,
        "heldSince": held_since,
    }


def _share_as_text(share: ShareStatus, held_since: str | None) -> str:
    """`_share` as `json.dumps` writes it, in a fifth of the time: a node may have very many."""
    return (
        f'{{"number": {share.number}, "id": {quoted(share.id)}, "state": "{share.state.value}"'
        f', "held": {_bool(share.held)}, "fenced": {_bool(share.fenced)}'
        f', "holder": {"null" if share.holder is None else quoted(share.holder)}'
        f', "heldSince": {"null" if held_since is None else quoted(held_since)}}}'
    )


def _bool(value: bool) -> str:  # noqa: FBT001 - it is what is written
    return "true" if value else "false"
