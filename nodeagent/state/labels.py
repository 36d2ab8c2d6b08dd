"""What the Node says of itself, from what is applied: never from what is wished."""

from __future__ import annotations

from nodeagent.model.node import NodeReport
from nodeagent.model.snapshot import Snapshot


def report(snapshot: Snapshot) -> NodeReport:
    """Labels and annotations of the Node."""
    return NodeReport()
