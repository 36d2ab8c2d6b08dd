"""The Node where nobody is told anything: no labels, no API. Nothing of lightkube is imported for it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nodeagent.model.node import NodeEvent, NodeReport, NodeStatus


class NoNode:
    """Takes every report and keeps none."""

    status = NodeStatus()
    unheard = ""

    def want(self, report: NodeReport) -> None:
        """Nothing is told."""

    def tell(self, events: Sequence[NodeEvent]) -> None:
        """Nothing is told."""

    async def run(self) -> None:
        """There is nothing to do, until cancelled."""
        await asyncio.Event().wait()
