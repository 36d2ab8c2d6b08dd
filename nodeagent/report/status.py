"""The status document: a snapshot as JSON, and the applied state back out of it.

Its schema is `schemas/status-v1alpha1.json`. Keys are only ever added. camelCase, times in RFC 3339 UTC.
`nodeagent plan` rebuilds from it what it needs to plan for a node that it is not on, so it carries the applied contract
completely.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from enum import Enum

from nodeagent.model.config import Violation, mistakes
from nodeagent.model.health import XidLog, XidSource
from nodeagent.model.inventory import Gpu, Inventory
from nodeagent.model.mps import GpuMeans, MpsStatus
from nodeagent.model.plan import Action, Wait, Waves
from nodeagent.model.shares import Listing
from nodeagent.model.snapshot import (
    Condition,
    ConfigState,
    DocumentInfo,
    Drift,
    Reload,
    ResourceStatus,
    Snapshot,
)
from nodeagent.report.status_gpus import Json, facts_to_json, gpu_to_json, limits_to_json, shares_as_text
from nodeagent.report.status_node import hand_over_to_json, labels_to_json
from nodeagent.report.times import rfc3339
from nodeagent.report.words import Names, describe_action, describe_wait

API_VERSION = "nodeagent.io/v1alpha1"
KIND = "NodeStatus"


def to_json(snapshot: Snapshot, now: float | None = None) -> Json:
    """The whole status, ready for `json.dumps`; the order of keys never changes. All times are in Unix seconds (see
    `dates`), as is `now`: when it is reported, if not at once.
    """
    gpus = [gpu_to_json(snapshot.applied, gpu, snapshot.held_since) for gpu in snapshot.gpus]
    return {**_head(snapshot, now), "gpus": gpus, **_tail(snapshot)}


def render(snapshot: Snapshot, now: float | None = None) -> Iterator[bytes]:
    """`to_json` as text, in pieces of a few shares: the whole of it is never in memory, and no thread waits long.
    Whoever takes it slowly keeps the GPUs of the snapshot, and not the lists that the kubelet had then.
    """
    head, tail = json.dumps(_head(snapshot, now)), json.dumps(_tail(snapshot))
    applied, gpus, held_since = snapshot.applied, snapshot.gpus, snapshot.held_since
    del snapshot
    yield head[:-1].encode() + b', "gpus": ['
    for position, gpu in enumerate(gpus):
        # The shares are what comes last.
        before, _, after = json.dumps(gpu_to_json(applied, gpu, held_since, shares=False)).rpartition("[")
        yield f"{', ' if position else ''}{before}[".encode()
        yield from shares_as_text(gpu, held_since)
        yield after.encode()
    yield b"], " + tail[1:].encode() + b"\n"


def _head(snapshot: Snapshot, now: float | None) -> Json:
    config = snapshot.config
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "node": snapshot.node,
        "pool": snapshot.pool,
        "agentVersion": snapshot.version,
        "startedAt": rfc3339(snapshot.started_at),
        "observedAt": rfc3339(snapshot.at),
        "reportedAt": rfc3339(snapshot.at if now is None else now),
        "snapshotRevision": snapshot.revision,
        "inSync": snapshot.in_sync,
        "settled": snapshot.settled,
        "generation": config.generation,
        "observedGeneration": config.observed_generation,
        "suspended": config.suspended,
        "config": _config(config),
        "conditions": [_condition(condition) for condition in snapshot.conditions],
        "inventory": _inventory(snapshot.inventory),
        "mps": _mps(snapshot.mps),
        "xids": _xids(snapshot.xids),
        "kubeApi": snapshot.node_object.api,
        "labels": labels_to_json(snapshot.node_object),
        "handOver": hand_over_to_json(snapshot.handover),
    }


def _tail(snapshot: Snapshot) -> Json:
    names = Names(snapshot.applied, snapshot.mps)
    return {
        "resources": [_resource(entry, snapshot.listings.get(entry.resource)) for entry in snapshot.resources],
        "drift": [_drift(drift) for drift in snapshot.drift],
        "plan": {
            "converged": snapshot.plan.converged,
            "actions": [_action(action, names) for action in snapshot.plan.actions],
            "waits": [_wait(wait, names) for wait in snapshot.plan.waits],
            "refused": [{"uuid": one.uuid, "message": one.message} for one in snapshot.plan.refused],
            "waves": _waves(snapshot.plan.waves),
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
        "obstacles": [_violation(violation) for violation in config.obstacles],
        "violations": [_violation(violation) for violation in config.violations],
        "mistakes": mistakes(config.violations),
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
        "count": inventory.counted,
        "driverLoad": inventory.driver_load,
        "gpus": [facts_to_json(gpu) for gpu in inventory.gpus],
    }


def _mps(mps: MpsStatus) -> Json:
    return {
        "reason": mps.reason.value,
        "message": mps.message,
        "root": mps.root,
        "sharedMemory": mps.shared_memory,
        "hostVersion": mps.host_version or None,
        "bounded": mps.bounded,
        "means": None if mps.means is None else [_means(uuid, mps.means[uuid]) for uuid in sorted(mps.means)],
        "leftModes": [
            {"uuid": uuid, "computeMode": mode.value if mode is not None else None}
            for uuid, mode in sorted(mps.left_modes.items())
        ],
    }


def _means(uuid: str, means: GpuMeans) -> Json:
    return {
        "uuid": uuid,
        "obstacle": means.obstacle or None,
        "memoryMiB": means.memory,
        "clients": means.clients,
    }


def _xids(log: XidLog) -> Json:
    def place(source: XidSource) -> tuple[str, int, int, int]:
        # A whole GPU comes before its instances, whose numbers are from 0.
        instances = (source.gpu_instance, source.compute_instance)
        gpu_instance, compute_instance = (-1 if number is None else number for number in instances)
        return (source.uuid, source.xid, gpu_instance, compute_instance)

    return {
        "reason": log.reason.value,
        "message": log.message,
        "counts": [
            {
                "uuid": source.uuid,
                "xid": source.xid,
                "gpuInstance": source.gpu_instance,
                "computeInstance": source.compute_instance,
                "count": tally.count,
                "lastSeen": rfc3339(tally.last),
            }
            for source, tally in sorted(log.tallies.items(), key=lambda item: place(item[0]))
        ],
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
        "limits": None if contract is None else limits_to_json(contract.limits),
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


def _waves(waves: Waves) -> Json:
    return {
        "devices": waves.total,
        "changed": waves.changed,
        "maxUnavailable": waves.limit,
        "underWay": list(waves.under_way),
        "waiting": list(waves.waiting),
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
