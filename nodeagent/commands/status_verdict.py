"""What a verdict is made from, out of a status document: of an agent of any version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nodeagent.commands.client import Status
from nodeagent.commands.status_names import by_name
from nodeagent.model.snapshot import Condition, DocumentInfo, DriftKind
from nodeagent.report.verdict import Situation


def situation(status: Status) -> Situation:
    """The situation of the node that a status document tells of."""
    config, names = status["config"], by_name(status)
    return Situation(
        in_sync=status["inSync"],
        # An older agent does not say so of its own: what is in sync is settled.
        settled=bool(status.get("settled", status["inSync"])),
        gpus=len(status["gpus"]),
        offers=bool(status["resources"]),
        path=config["path"],
        conditions=tuple(
            Condition(one["type"], bool(one["status"]), one["reason"], one["message"]) for one in status["conditions"]
        ),
        desired=_document(config["desired"]),
        applied=_document(config["applied"]),
        mistakes=config.get("mistakes", len(config["violations"])),
        obstacles=tuple(one["message"] for one in config.get("obstacles", ())),
        faults=tuple(
            (names[drift["subject"]], drift["have"])
            for drift in status["drift"]
            if drift["kind"] == DriftKind.HARDWARE.value and drift["subject"] in names
        ),
    )


def _document(told: Mapping[str, Any] | None) -> DocumentInfo | None:
    if told is None:
        return None
    return DocumentInfo(
        told["path"], told["sha256"], told["gitBlob"], revision=told["revision"], name=told["name"], size=told["size"]
    )
