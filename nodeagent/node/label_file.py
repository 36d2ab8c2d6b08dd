"""Labels by a file of Node Feature Discovery: its worker reads what is in `features.d`, and its master labels the Node.

One line for each label, `key=value`; names that begin with a dot are passed over, so that a file that is being written
is not read. See https://kubernetes-sigs.github.io/node-feature-discovery/stable/usage/customization-guide, local
feature source. The file stays when the agent ends: a restart takes no label away.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.durable import atomic
from nodeagent.errand import Errand, Hangs
from nodeagent.model.node import LabelDifference, NodeEvent, NodeReport, NodeStatus, SyncReason

NAME: Final = "nodeagent"
"""Of the file in the directory."""

DEADLINE: Final = 5.0
"""Seconds that a look and a write may take."""

_MODE: Final = 0o644
"""The worker of Node Feature Discovery is another user."""


class LabelFile:
    """Keeps the file in `directory`, which must be there, as the last report wants it. It is looked at again every
    `again` seconds, and after `retry` where it could not be written.
    """

    def __init__(self, directory: Path, *, wake: Callable[[], None], again: float = 60.0, retry: float = 5.0) -> None:
        self.status = NodeStatus(SyncReason.PENDING, "no labels have been written yet")
        self._path = directory / NAME
        self._wake = wake
        self._again = again
        self._retry = retry
        self._wanted: Mapping[str, str] | None = None
        self._changed = asyncio.Event()
        self._errand = Errand("label file", on_late=self._changed.set)

    @property
    def unheard(self) -> str:
        """A file tells nobody which labels there are."""
        return ""

    def want(self, report: NodeReport) -> None:
        """The file should say this from now on."""
        if report.labels != self._wanted:
            self._wanted = report.labels
            self._changed.set()
            message = "the file of labels is about to be written"
            self._tell(NodeStatus(SyncReason.PENDING, message, _owed(report.labels)))

    def tell(self, events: Sequence[NodeEvent]) -> None:
        """There is no place for events in a file."""

    async def run(self) -> None:
        """Keep the file until cancelled."""
        while True:
            self._changed.clear()
            if self._wanted is not None:
                await self._keep(self._wanted)
            pause = self._retry if self.status.reason is SyncReason.WRITE_FAILED else self._again
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()

    async def _keep(self, wanted: Mapping[str, str]) -> None:
        path = self._path
        try:
            await self._errand.run(lambda: _keep(path, wanted), DEADLINE)
        except Hangs:
            self._failed(wanted, f"cannot write {path}: no answer within {DEADLINE:g} s")
        except OSError as error:
            # What the file is written by has words of its own, which name it once more.
            refused = OSError(error.errno, os.strerror(error.errno or 0))
            self._failed(wanted, f"cannot write {path}: {refusals.words(refused, path)}")
        except Exception as error:
            self._failed(wanted, f"cannot write {path}: {error!r}")
            raise
        else:
            self._tell(NodeStatus(SyncReason.SYNCED))

    def _failed(self, wanted: Mapping[str, str], message: str) -> None:
        self._tell(NodeStatus(SyncReason.WRITE_FAILED, message, _owed(wanted)))

    def _tell(self, status: NodeStatus) -> None:
        if status != self.status:
            self.status = status
            self._wake()


def _owed(wanted: Mapping[str, str]) -> tuple[LabelDifference, ...]:
    return tuple(LabelDifference(key, value, None) for key, value in wanted.items())


def _keep(path: Path, labels: Mapping[str, str]) -> None:
    """Write the file unless it is as it should be. Raises OSError."""
    data = "".join(f"{key}={value}\n" for key, value in labels.items()).encode()
    try:
        if atomic.read(path) == data:
            return
    except atomic.Untrusted:
        pass  # somebody has put something else in its place
    atomic.write(path, data, sync=False, mode=_MODE)
