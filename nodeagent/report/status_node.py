"""The status document on what the node is told to others as: its labels, and how containers get their devices."""

from __future__ import annotations

from nodeagent.model.handover import HandOver, ListStrategy
from nodeagent.model.node import NodeStatus, SyncReason
from nodeagent.report.status_gpus import Json


def labels_to_json(node: NodeStatus) -> Json:
    """How it stands with the labels of the node, with each that is not as it should be."""
    return {
        "reason": node.reason.value,
        "message": node.message,
        "synced": node.reason in {SyncReason.OFF, SyncReason.SYNCED},
        "differences": [{"key": one.key, "want": one.want, "have": one.have} for one in node.differences],
    }


def hand_over_to_json(handover: HandOver) -> Json:
    """How devices are handed over by now, whether an option of the agent or the config in force says so."""
    return {
        "strategies": [strategy.value for strategy in ListStrategy if strategy in handover.strategies],
        "idStrategy": handover.id_strategy.value,
        "deviceSpecs": handover.device_specs,
        "devRoot": handover.dev_root,
        "gds": handover.gds,
        "mofed": handover.mofed,
        "gdrcopy": handover.gdrcopy,
        "imexChannels": list(handover.imex_channels),
        "imexRequired": handover.imex_required,
        "cdiVendor": handover.cdi_vendor,
        "annotationPrefix": handover.annotation_prefix,
    }
