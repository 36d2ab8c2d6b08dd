"""The Node object: watched, and made to say what is true of it.

One watch on one Node, and one write for each real change. What is written is compared with what the watch says, so that
a label that somebody else has changed is put right, and an agent that starts writes nothing where all is well.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Final

from nodeagent.model.node import LabelDifference, NodeEvent, NodeObject, NodeReport, NodeStatus, SyncReason
from nodeagent.node.api_client import ApiClient
from nodeagent.node.api_connection import Connection
from nodeagent.node.api_events import EventTeller
from nodeagent.node.api_problem import ApiProblem, Trouble
from nodeagent.node.comparing import compared, older
from nodeagent.node.pace import Pace
from nodeagent.node.speakers import keep

_log = logging.getLogger(__name__)

_ANEW: Final = 3
"""Failures in a row after which the connection is made anew, with the certificates and the address of then; and after
which a watch that fails is told of.
"""

_REASONS: Final = {Trouble.UNREACHABLE: SyncReason.UNREACHABLE, Trouble.FORBIDDEN: SyncReason.FORBIDDEN}


class ApiNode:
    """Tells the Kubernetes API of this node, and hears of its labels.

    `connect` makes a connection or raises ApiProblem. Without `labels` only annotations and events are told, and labels
    of an earlier agent taken away. `taint` is removed whenever it is there once a config has been applied. `on_labels`
    is called on the loop with all labels of the Node when they are first known and when they change.
    """

    def __init__(
        self,
        name: str,
        *,
        connect: Callable[[], ApiClient],
        labels: bool,
        taint: str | None,
        on_labels: Callable[[Mapping[str, str]], None],
        wake: Callable[[], None],
        pace: Pace | None = None,
    ) -> None:
        self._name = name
        self._connection = Connection(connect)
        self._labels = labels
        self._taint = taint
        self._on_labels = on_labels
        self._wake = wake
        self._pace = pace or Pace()
        self._events = EventTeller(self._pace)
        self._wanted: NodeReport | None = None
        self._written: NodeReport | None = None
        self._seen: NodeObject | None = None
        self._known: Mapping[str, str] | None = None
        self._failures = 0
        self._behind: NodeObject | None = None
        self._steady = self._heard = False
        self._heard_at = time.monotonic()
        self._reading: ApiProblem | None = None
        self._writing: ApiProblem | None = None
        self._contests = 0
        self._contested = 0.0
        self._changed = asyncio.Event()
        self.status = NodeStatus(SyncReason.PENDING, "the Node has not been read yet", api=True)

    @property
    def unheard(self) -> str:
        """Why the labels of the Node are not known, as far as that can be told."""
        return str(self._reading or "the Node has not been read yet")

    def want(self, report: NodeReport) -> None:
        """The Node should say this from now on."""
        if report != self._wanted:
            self._wanted = report
            self._changed.set()
            self._judge()

    def tell(self, events: Sequence[NodeEvent]) -> None:
        """These have happened now."""
        self._events.tell(events)

    async def run(self) -> None:
        """Watch, write and tell until cancelled: each by itself, whatever becomes of the others."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(keep("watching the Node", self._follow, self._pace, self._cannot_follow))
                tasks.create_task(keep("writing to the Node", self._write, self._pace, self._cannot_write))
                tasks.create_task(keep("telling events", self._tell_events, self._pace))
        finally:
            await self._connection.renew()

    async def _tell_events(self) -> None:
        await self._events.run(self._connection, lambda: self._seen)

    # --- reading ------------------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """Keep what the Node says up to date."""
        while True:
            problem = None
            try:
                async with self._connection.use() as api:
                    await self._look(api)
            except ApiProblem as found:
                self._steady, problem = False, found
            else:
                if not self._heard and not self._steady:
                    problem = ApiProblem(f"cannot watch the node {self._name}: the watch ends at once", Trouble.BUSY)
            if not self._steady:
                await self._back_off(problem)
                if self._failures % _ANEW == 0:
                    await self._connection.renew()

    async def _cannot_follow(self, error: BaseException) -> None:
        await self._connection.renew()
        self._read_failed(ApiProblem(f"cannot watch the node {self._name}: {error!r}", Trouble.ODD))

    async def _look(self, api: ApiClient) -> None:
        """Hear of the Node and its changes until the watch ends."""
        self._behind = None
        self._steady = self._heard = False
        timers: list[asyncio.TimerHandle] = []

        def opened() -> None:
            timers.append(asyncio.get_running_loop().call_later(self._pace.brief, self._settle))

        seconds = round(self._pace.draw(self._pace.watch))
        try:
            async with aclosing(api.watch(self._name, seconds, opened)) as changes:
                async for change in changes:
                    if change is None:
                        self._lose("has been deleted")
                    else:
                        self._heard, self._reading = True, None
                        self._take(change)
        finally:
            if self._heard or self._steady:
                self._heard_at = time.monotonic()
            for timer in timers:
                timer.cancel()

    def _settle(self) -> None:
        """A watch has been open for a while: the next one may follow at once. By now it has told of the Node, if there
        is one; and a state that is still older than what we know is that of a cluster which was restored.
        """
        self._steady, self._failures = True, 0
        if (node := self._behind) is not None:
            self._seen = None
            self._take(node)
        if not self._heard:
            self._lose("is not there")

    def _lose(self, why: str) -> None:
        self._seen = self._written = None
        self._read_failed(ApiProblem(f"the node {self._name} {why}", Trouble.ABSENT))

    async def _back_off(self, problem: ApiProblem | None) -> None:
        """Wait until the next watch. Why there is none is told at once where nothing is known of the Node, and else
        when that is to last: the Node may be anything meanwhile.
        """
        self._failures += 1
        bounds = self._pace.backoff if self._known else self._pace.first
        pause = self._pace.after(self._failures, bounds, problem.retry_after if problem is not None else None)
        if problem is None and pause > self._pace.silence:
            problem = ApiProblem(f"cannot watch the node {self._name}: each watch ends at once", Trouble.BUSY)
        if problem is not None:
            silence = time.monotonic() + pause - self._heard_at
            if self._seen is None or self._failures >= _ANEW or silence > self._pace.silence:
                self._read_failed(problem)
            else:
                _log.debug("%s; trying again", problem)
        await asyncio.sleep(pause)

    def _take(self, node: NodeObject) -> None:
        """The Node is like this: what a write came back with, or the watch. The watch may be behind the write."""
        before = self._seen
        if before is not None and older(node, before):
            self._behind = node
            return
        self._seen, self._behind = node, None
        if before is None:
            self._events.again()
        self._changed.set()
        self._judge()
        if self._known != node.labels:
            self._on_labels(node.labels)
            self._known = node.labels

    def _read_failed(self, problem: ApiProblem) -> None:
        _log.debug("%s; trying again", problem)  # the condition tells it
        self._reading = problem
        self._judge()

    # --- writing ------------------------------------------------------------------------------------------------------

    async def _write(self) -> None:
        """Write what the Node should say, whenever it says something else."""
        failures = 0
        self._changed.set()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._owes():
                failures = 0
                self._writes(None)
                continue
            await asyncio.sleep(self._pace.draw(self._pace.settle))
            await self._stand_back()
            try:
                async with self._connection.use() as api:
                    await self._put(api)
            except ApiProblem as problem:
                failures += 1
                _log.debug("%s; trying again", problem)  # the condition tells it
                self._writes(problem)
                await asyncio.sleep(self._pace.after(failures, self._pace.backoff, problem.retry_after))
                self._changed.set()
            else:
                failures = 0
                self._writes(None)

    async def _cannot_write(self, error: BaseException) -> None:
        self._writes(ApiProblem(f"cannot label the node {self._name}: {error!r}", Trouble.ODD))

    def _writes(self, problem: ApiProblem | None) -> None:
        self._writing = problem
        self._judge()

    async def _put(self, api: ApiClient) -> None:
        """At most one write of labels and annotations, and one of the taint."""
        wanted, node = self._wanted, self._seen
        if wanted is None or node is None:
            return
        if found := self._differences():
            _log.debug("writing to the Node: %s", ", ".join(f"{key}={want}" for key, want, _ in found))
            labels, annotations = self._said(wanted)
            self._take(await api.apply(self._name, labels, annotations))
            self._written = wanted
        if (node := self._seen) is not None and self._tainted(node):
            self._take(await api.remove_taint(node, self._taint or ""))
            _log.info("the taint %s is removed: a config has been applied", self._taint)

    async def _stand_back(self) -> None:
        """Wait where somebody else keeps changing what was written, until something else is to be written."""
        wanted = self._wanted
        if self._written is None or self._written != wanted or not (found := self._differences()):
            return
        for key, want, have in found:
            _log.warning("somebody else has changed %s of the Node: it is %s and should be %s", key, have, want)
        now = time.monotonic()
        first, most = self._pace.contest
        self._contests = self._contests + 1 if now - self._contested < 2 * most else 1
        self._contested = now
        if self._contests == 1:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(self._pace.after(self._contests - 1, (first, most))):
                while self._wanted is wanted:
                    await self._changed.wait()
                    self._changed.clear()

    # --- comparing ----------------------------------------------------------------------------------------------------

    def _said(self, report: NodeReport) -> tuple[Mapping[str, str], Mapping[str, str]]:
        return (report.labels if self._labels else {}), report.annotations

    def _differences(self) -> tuple[LabelDifference, ...]:
        """What of labels and annotations is not as it should be; nothing while the one or the other is not known."""
        if self._wanted is None or self._seen is None:
            return ()
        labels, annotations = self._said(self._wanted)
        return (
            *compared(labels, self._seen.labels, self._seen.own_labels),
            *compared(annotations, self._seen.annotations, self._seen.own_annotations),
        )

    def _tainted(self, node: NodeObject) -> bool:
        return self._wanted is not None and self._wanted.settled and self._taint in node.taints

    def _owes(self) -> bool:
        return bool(self._differences()) or (self._seen is not None and self._tainted(self._seen))

    def _judge(self) -> None:
        status = self._status()
        if status != self.status:
            self.status = status
            self._wake()

    def _status(self) -> NodeStatus:
        differences = self._differences()
        if problem := self._reading:
            reason = _REASONS.get(problem.trouble, SyncReason.READ_FAILED)
            return NodeStatus(reason, str(problem), differences, api=True)
        if problem := self._writing:
            reason = _REASONS.get(problem.trouble, SyncReason.WRITE_FAILED)
            return NodeStatus(reason, str(problem), differences, api=True)
        if self._seen is None:
            return NodeStatus(SyncReason.PENDING, "the Node has not been read yet", api=True)
        if self._wanted is None:
            return NodeStatus(SyncReason.PENDING, "it is not known yet what the Node should say", api=True)
        if differences:
            return NodeStatus(SyncReason.PENDING, "the Node is about to be labelled", differences, api=True)
        return NodeStatus(SyncReason.SYNCED if self._labels else SyncReason.OFF, api=True)
