"""How `plan` tells programs what it found: every share by its id. Keys are only ever added."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nodeagent.commands.findings import violation_as_json
from nodeagent.commands.plan_report import Report
from nodeagent.commands.preview import GpuPreview, Terms
from nodeagent.model.config import Violation
from nodeagent.report.status_gpus import limits_to_json


def as_json(report: Report) -> str:
    """The plan for programs: every share by its id."""
    document, config = report.loaded.document, report.loaded.config
    return json.dumps(
        {
            "node": report.node,
            "source": report.source,
            "running": report.runs,
            "document": {
                "path": document.path,
                "name": config.name if config is not None else None,
                "gitBlob": document.git_blob,
                "sha256": document.sha256,
                "revision": document.revision,
            },
            "changes": report.preview.changes,
            "class": report.preview.kind.value,
            "devicesAtATime": report.preview.at_a_time,
            "suspended": config is not None and config.suspend,
            "holdsKnown": report.readable,
            "gpus": [_gpu_as_json(gpu) for gpu in report.preview.gpus],
            "registered": list(report.preview.registered),
            "retired": list(report.preview.retired),
            "notes": [*(config.notes if config is not None else ()), *report.notes],
            "violations": [],
        },
        indent=2,
    )


def rejected_as_json(violations: Sequence[Violation]) -> str:
    """What there is to say of a config that no node would accept."""
    return json.dumps({"violations": [violation_as_json(violation) for violation in violations]}, indent=2)


def _gpu_as_json(gpu: GpuPreview) -> dict[str, object]:
    return {
        "index": gpu.gpu.index,
        "driverIndex": gpu.gpu.driver_index,
        "label": gpu.gpu.label,
        "profile": gpu.gpu.mig.profile if gpu.gpu.mig is not None else None,
        "uuid": gpu.gpu.uuid,
        "model": gpu.gpu.model,
        "before": _terms_as_json(gpu.before),
        "after": _terms_as_json(gpu.after),
        "changes": gpu.changes,
        "added": list(gpu.added),
        "removed": list(gpu.removed),
        "kept": list(gpu.kept),
        "draining": list(gpu.draining),
        "addedLater": list(gpu.later),
        "heldBy": [name or None for name in gpu.holders],
        "waitsFor": gpu.obstacle or None,
        "unhealthy": gpu.illness or None,
    }


def _terms_as_json(terms: Terms) -> dict[str, object]:
    return {
        "mode": terms.contract.mode.value if terms.contract is not None else None,
        "resource": terms.contract.resource if terms.contract is not None else None,
        "limits": limits_to_json(terms.contract.limits) if terms.contract is not None else None,
        "shares": terms.shares,
        "maxSharesPerContainer": terms.limit,
    }
