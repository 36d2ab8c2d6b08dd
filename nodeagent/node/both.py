"""Labels by Node Feature Discovery's file, and everything else by the Kubernetes API."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from nodeagent.model.node import NodeEvent, NodeReport, NodeStatus, SyncReason
from nodeagent.node.api_node import ApiNode
from nodeagent.node.label_file import LabelFile
from nodeagent.node.pace import Pace
from nodeagent.node.speakers import keep


class FileAndApi:
    """Both at once. Of the two the file is told of first where neither is well: it has the labels."""

    def __init__(self, file: LabelFile, api: ApiNode) -> None:
        self._file = file
        self._api = api

    @property
    def status(self) -> NodeStatus:
        file, api = self._file.status, self._api.status
        if file.reason is SyncReason.SYNCED and api.reason is not SyncReason.OFF:
            return replace(api, differences=(*file.differences, *api.differences))
        return replace(file, api=True, differences=(*file.differences, *api.differences))

    @property
    def unheard(self) -> str:
        """Why the labels of the Node are not known: the API tells them, whatever the file is like."""
        return self._api.unheard

    def want(self, report: NodeReport) -> None:
        """Labels to the file, and the report to the API, which leaves labels alone."""
        self._file.want(report)
        self._api.want(report)

    def tell(self, events: Sequence[NodeEvent]) -> None:
        """Events are the API's."""
        self._api.tell(events)

    async def run(self) -> None:
        """Both, until cancelled, whatever becomes of the other."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep("the file of labels", self._file.run, Pace()))
            tasks.create_task(keep("the Kubernetes API", self._api.run, Pace()))
