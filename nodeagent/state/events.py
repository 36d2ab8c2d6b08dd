"""What happened on the node between two turns, for people who look at `kubectl describe node`."""

from __future__ import annotations

from nodeagent.model.node import NodeEvent
from nodeagent.model.snapshot import Snapshot


def events(before: Snapshot | None, after: Snapshot) -> tuple[NodeEvent, ...]:
    """The events of one turn, in the order in which they should be read."""
    return ()
