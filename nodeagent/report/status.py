"""The status document: a snapshot as JSON, and the applied state back out of it.

Its schema is `schemas/status-v1alpha1.json`. Keys are only ever added. camelCase, times in RFC 3339 UTC.
`nodeagent plan` rebuilds from it what it needs to plan for a node that it is not on, so it carries the applied contract
completely.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from enum import Enum

from nodeagent.model.config import Contract, Violation
from nodeagent.model.inventory import Gpu, Inventory
from nodeagent.model.plan import Action, Wait
from nodeagent.model.shares import AppliedGpu, Listing
from nodeagent.model.snapshot import (
    Condition,
    ConfigState,
    DocumentInfo,
    Drift,
    GpuStatus,
    Reload,
    ResourceStatus,
    ShareStatus,
    Snapshot,
)
from nodeagent.report.words import Names, describe_action, describe_wait

API_VERSION = "nodeagent.io/v1alpha1"
KIND = "NodeStatus"

Json = dict[str, object]


def to_json(snapshot: Snapshot) -> Json:
    """The whole status, ready for `json.dumps`; the order of keys never changes."""
    return {**_head(snapshot), "gpus": [_gpu(snapshot, gpu) for gpu in snapshot.gpus], **_tail(snapshot)}


def render(snapshot: Snapshot) -> Iterator[bytes]:
    """`to_json` as text, in pieces: one per GPU, since `json.dumps` of 40,000 shares in one would stop every thread."""
    head = json.dumps(_head(snapshot))
    yield head[:-1].encode() + b', "gpus": ['
    for position, gpu in enumerate(snapshot.gpus):
        yield (b", " if position else b"") + json.dumps(_gpu(snapshot, gpu)).encode()
    yield b"], " + json.dumps(_tail(snapshot))[1:].encode() + b"\n"


def rfc3339(seconds: float) -> str:
    """Unix seconds as `2026-02-03T04:05:06.789Z`."""
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(whole))}.{milliseconds:03d}Z"


def _head(snapshot: Snapshot) -> Json:
    config = snapshot.config
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "node": snapshot.node,
        "pool": snapshot.pool,
        "agentVersion": snapshot.version,
        "startedAt": rfc3339(snapshot.started_at),
        "observedAt": rfc3339(snapshot.at),
        "snapshotRevision": snapshot.revision,
        "inSync": snapshot.in_sync,
        "generation": config.generation,
        "observedGeneration": config.observed_generation,
        "suspended": config.suspended,
        "config": _config(config),
        "conditions": [_condition(condition) for condition in snapshot.conditions],
        "inventory": _inventory(snapshot.inventory),
    }


def _tail(snapshot: Snapshot) -> Json:
    names = Names(snapshot.applied)
    return {
        "resources": [_resource(entry, snapshot.listings.get(entry.resource)) for entry in snapshot.resources],
        "drift": [_drift(drift) for drift in snapshot.drift],
        "plan": {
            "converged": snapshot.plan.converged,
            "actions": [_action(action, names) for action in snapshot.plan.actions],
            "waits": [_wait(wait, names) for wait in snapshot.plan.waits],
        },
        "reloads": [_reload(reload) for reload in snapshot.reloads],
    }


def _config(config: ConfigState) -> Json:
    return {
        "path": config.path,
        "newest": _document(config.newest),
        "desired": _document(config.desired),
        "applied": _document(config.applied),
        "lastKnownGood": _document(config.last_known_good),
        "usingLastKnownGood": config.using_last_known_good,
        "problem": config.problem,
        "violations": [_violation(violation) for violation in config.violations],
        "notes": list(config.notes),
    }


def _document(document: DocumentInfo | None) -> Json | None:
    if document is None:
        return None
    return {
        "path": document.path,
        "name": document.name,
        "gitBlob": document.git_blob,
        "revision": document.revision,
        "sha256": document.sha256,
        "size": document.size,
    }


def _violation(violation: Violation) -> Json:
    return {
        "file": violation.file,
        "line": violation.where.line,
        "column": violation.where.column,
        "path": violation.where.path,
        "message": violation.message,
        "stage": violation.stage.value,
    }


def _condition(condition: Condition) -> Json:
    return {
        "type": condition.type,
        "status": condition.status,
        "reason": str(condition.reason),
        "message": condition.message,
        "since": rfc3339(condition.since),
    }


def _inventory(inventory: Inventory) -> Json:
    return {
        "driverVersion": inventory.driver_version,
        "cudaVersion": inventory.cuda_version,
        "reason": inventory.reason.value,
        "message": inventory.message,
        "complete": inventory.complete,
        "gpus": [_facts(gpu) for gpu in inventory.gpus],
    }


def _facts(gpu: Gpu) -> Json:
    capability = gpu.compute_capability
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "model": gpu.model,
        "memoryBytes": gpu.memory,
        "computeCapability": None if capability is None else f"{capability[0]}.{capability[1]}",
        "minor": gpu.minor,
        "pciBusId": gpu.pci_bus_id,
        "numaNode": gpu.numa_node,
        "health": gpu.health.value,
        "message": gpu.message,
    }


def _gpu(snapshot: Snapshot, status: GpuStatus) -> Json:
    return {
        **_facts(status.gpu),
        "wanted": {**_contract(status.wanted), "rule": status.rule, "shares": status.wanted_shares},
        "applied": _applied(snapshot.applied.gpus.get(status.gpu.uuid)),
        "shares": [_share(share) for share in status.shares],
    }


def _contract(contract: Contract | None) -> Json:
    return {
        "mode": None if contract is None else contract.mode.value,
        "resource": None if contract is None else contract.resource,
    }


def _applied(entry: AppliedGpu | None) -> Json | None:
    if entry is None:
        return None
    return {
        **_contract(entry.contract),
        "maxSharesPerContainer": entry.max_shares_per_container,
        "numbers": sorted(entry.numbers),
        "fenced": sorted(entry.fences),
    }


def _share(share: ShareStatus) -> Json:
    return {
        "number": share.number,
        "id": share.id,
        "state": share.state.value,
        "held": share.held,
        "fenced": share.fenced,
        "holder": share.holder,
    }


def _resource(status: ResourceStatus, listing: Listing | None) -> Json:
    registration = status.registration
    return {
        "resource": status.resource,
        "shares": {state.value: number for state, number in status.counts.items()},
        "drainingSince": None if status.draining_since is None else rfc3339(status.draining_since),
        "listRevision": None if listing is None else listing.revision,
        "listLength": None if listing is None else len(listing.devices),
        "registration": None
        if registration is None
        else {
            "state": registration.state.value,
            "message": registration.message,
            "streams": registration.streams,
            "registrations": registration.registrations,
            "failures": registration.failures,
            "sentRevision": registration.sent_revision,
        },
    }


def _drift(drift: Drift) -> Json:
    return {
        "kind": drift.kind.value,
        "subject": drift.subject,
        "want": drift.want,
        "have": drift.have,
        "since": rfc3339(drift.since),
    }


def _action(action: Action, names: Names) -> Json:
    """Every action has the same keys; those that it does not need are null."""
    contract = getattr(action, "contract", None)
    gpu: Gpu | None = getattr(action, "gpu", None)
    numbers: frozenset[int] | None = getattr(action, "numbers", None)
    return {
        "type": type(action).__name__.lower(),
        "uuid": gpu.uuid if gpu is not None else getattr(action, "uuid", None),
        "resource": contract.resource if contract is not None else getattr(action, "resource", None),
        "mode": None if contract is None else contract.mode.value,
        "numbers": None if numbers is None else sorted(numbers),
        "maxSharesPerContainer": getattr(action, "max_shares_per_container", None),
        "text": describe_action(action, names),
    }


def _wait(wait: Wait, names: Names) -> Json:
    return {
        "uuid": wait.uuid,
        "reason": wait.reason.value,
        "numbers": sorted(wait.numbers),
        "text": describe_wait(wait, names),
    }


def _reload(reload: Reload) -> Json:
    return {
        "at": rfc3339(reload.at),
        "document": _document(reload.document),
        "result": reload.result.value,
        "change": _value(reload.change),
        "message": reload.message,
        "durationSeconds": reload.duration,
    }


def _value(member: Enum | None) -> object:
    return None if member is None else member.value
