"""Events on the Node, told to the Kubernetes API: each once, the same again as a number, and never a flood."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from nodeagent.model.node import NodeEvent, NodeObject
from nodeagent.node.api_client import Seen, event_name
from nodeagent.node.api_connection import Connection
from nodeagent.node.api_problem import ApiProblem, Trouble
from nodeagent.node.pace import Pace

_log = logging.getLogger(__name__)

_MOST: Final = 50
"""Events that wait to be told; more push out the oldest: an API server that is away must not cost memory."""

_LATER: Final = frozenset({Trouble.UNREACHABLE, Trouble.BUSY, Trouble.FORBIDDEN})
"""What passes: the event is told later. After any other trouble it is not told: it may be the event's own."""


class EventTeller:
    """Tells events in the order in which they happened. The one whose turn it is is not among those that wait: what
    happens meanwhile, the same once more or too many others, does not touch it.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: dict[NodeEvent, Seen] = {}
        self._turn: tuple[NodeEvent, Seen] | None = None
        self._name: str | None = None
        self._meanwhile: Seen | None = None
        self._told: dict[NodeEvent, tuple[str, Seen]] = {}
        self._some = asyncio.Event()
        self._tokens = float(pace.burst)
        self._filled = time.monotonic()

    def tell(self, events: Iterable[NodeEvent]) -> None:
        """These have happened now."""
        now = time.monotonic()
        for event in events:
            if self._turn is not None and event == self._turn[0]:
                self._meanwhile = _joined(self._meanwhile, Seen(now, now, 1))
            else:
                self._wait(event, Seen(now, now, 1))
        self._some.set()

    async def run(self, connection: Connection, node: Callable[[], NodeObject | None]) -> None:
        """Tell what waits, until cancelled. An event that the API server does not want is dropped, and so is one that
        cannot be told for a fault of ours, which is raised.
        """
        failures = 0
        self._some.set()
        while True:
            await self._some.wait()
            seen_node = node()
            if seen_node is None or (turn := self._next()) is None:
                self._some.clear()
                continue
            event, seen = turn
            try:
                await self._send(connection, seen_node, event, seen)
            except ApiProblem as problem:
                failures += 1
                if problem.trouble in _LATER:
                    (_log.warning if failures == 1 else _log.debug)("%s", problem)
                    await asyncio.sleep(self._pace.after(failures, self._pace.backoff, problem.retry_after))
                    continue
                _log.warning("%s: %s", problem, event.message)
            except Exception:
                self._done()
                raise
            self._done()
            failures = 0

    def again(self) -> None:
        """Look once more at what waits: the Node is known by now."""
        self._some.set()

    def _wait(self, event: NodeEvent, seen: Seen) -> None:
        self._waiting[event] = _joined(self._waiting.pop(event, None), seen)
        if len(self._waiting) > _MOST:
            lost = next(iter(self._waiting))
            del self._waiting[lost]
            _log.warning("too many events wait for the Kubernetes API: not told: %s: %s", lost.reason, lost.message)

    def _next(self) -> tuple[NodeEvent, Seen] | None:
        """Whose turn it is: it stays its turn, with what has happened meanwhile, until it is told or dropped."""
        if self._turn is not None:
            event, seen = self._turn
            self._turn = event, _joined(seen, self._meanwhile) if self._meanwhile is not None else seen
        elif self._waiting:
            event = next(iter(self._waiting))
            self._turn = event, self._waiting.pop(event)
        self._meanwhile = None
        return self._turn

    def _done(self) -> None:
        if self._turn is not None and self._meanwhile is not None:
            self._wait(self._turn[0], self._meanwhile)
        self._turn = self._name = self._meanwhile = None

    async def _send(self, connection: Connection, node: NodeObject, event: NodeEvent, seen: Seen) -> None:
        if known := self._told.get(event):
            name, before = known
            if seen.first - before.last <= self._pace.repeat:
                total = Seen(before.first, seen.last, before.times + seen.times)
                try:
                    async with connection.use() as api:
                        await api.repeat_event(name, total)
                except ApiProblem as problem:
                    if problem.trouble is not Trouble.ABSENT:
                        raise
                else:
                    self._told[event] = (name, total)
                    return
        await self._token()
        # The same name at each try: the API server may have taken it in, and its answer been lost.
        self._name = name = self._name or event_name(node)
        try:
            async with connection.use() as api:
                await api.create_event(name, node, event, seen)
        except ApiProblem as problem:
            if problem.trouble is not Trouble.CONFLICT:
                self._tokens += problem.trouble in _LATER  # it has cost nobody anything
                raise
            async with connection.use() as api:
                await api.repeat_event(name, seen)
        self._told[event] = (name, seen)
        if len(self._told) > _MOST:
            del self._told[next(iter(self._told))]

    async def _token(self) -> None:
        """Wait until one more event may be told."""
        now = time.monotonic()
        self._tokens = min(self._pace.burst, self._tokens + (now - self._filled) / self._pace.refill)
        self._filled = now
        if self._tokens < 1:
            await asyncio.sleep((1 - self._tokens) * self._pace.refill)
            self._tokens, self._filled = 1.0, time.monotonic()
        self._tokens -= 1


def _joined(one: Seen | None, other: Seen) -> Seen:
    """Both together, `one` before the other."""
    return other if one is None else Seen(one.first, other.last, one.times + other.times)
