"""Events on the Node, told to the Kubernetes API: each once, the same again as a number, and never a flood."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Final

from nodeagent.model.node import NodeEvent, NodeObject
from nodeagent.node.api_client import ApiClient, ApiProblem, Seen, Trouble
from nodeagent.node.pace import Pace

_log = logging.getLogger(__name__)

_MOST: Final = 50
"""Events that wait to be told; more push out the oldest: an API server that is away must not cost memory."""


class EventTeller:
    """Tells events in the order in which they happened. What waits is kept over a change of the connection."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: dict[NodeEvent, Seen] = {}
        self._sending: NodeEvent | None = None
        self._told: dict[NodeEvent, tuple[str, Seen]] = {}
        self._some = asyncio.Event()
        self._tokens = float(pace.burst)
        self._filled = time.monotonic()

    def tell(self, events: Iterable[NodeEvent]) -> None:
        """These have happened now."""
        now = time.monotonic()
        for event in events:
            known = self._waiting.pop(event, None)
            self._waiting[event] = Seen(known.first if known else now, now, known.times + 1 if known else 1)
            if len(self._waiting) > _MOST:
                # Not the one that is being told, which may wait half a minute for its turn.
                lost = next(one for one in self._waiting if one != self._sending)
                del self._waiting[lost]
                _log.warning("too many events wait for the Kubernetes API: not told: %s: %s", lost.reason, lost.message)
            self._some.set()

    async def run(self, api: ApiClient, node: Callable[[], NodeObject | None]) -> None:
        """Tell what waits, until cancelled. An event that the API server does not want is dropped."""
        failures = 0
        while True:
            await self._some.wait()
            seen_node = node()
            if not self._waiting or seen_node is None:
                self._some.clear()
                continue
            event, seen = next(iter(self._waiting.items()))
            self._sending = event
            try:
                await self._send(api, seen_node, event, seen)
            except ApiProblem as problem:
                failures += 1
                if problem.trouble in {Trouble.UNREACHABLE, Trouble.BUSY, Trouble.FORBIDDEN}:
                    (_log.warning if failures == 1 else _log.debug)("%s", problem)
                    await asyncio.sleep(self._pace.after(failures, self._pace.backoff, problem.retry_after))
                    continue
                _log.warning("%s: %s", problem, event.message)
            finally:
                self._sending = None
            failures = 0
            if self._waiting.get(event) == seen:
                del self._waiting[event]
            else:  # it has happened once more meanwhile
                again = self._waiting[event]
                self._waiting[event] = again._replace(first=again.last, times=again.times - seen.times)

    def again(self) -> None:
        """Look once more at what waits: the Node is known by now."""
        self._some.set()

    async def _send(self, api: ApiClient, node: NodeObject, event: NodeEvent, seen: Seen) -> None:
        if known := self._told.get(event):
            name, before = known
            if seen.first - before.last <= self._pace.repeat:
                total = Seen(before.first, seen.last, before.times + seen.times)
                try:
                    await api.repeat_event(name, total)
                except ApiProblem as problem:
                    if problem.trouble is not Trouble.ABSENT:
                        raise
                else:
                    self._told[event] = (name, total)
                    return
        await self._token()
        self._told[event] = (await api.create_event(node, event, seen), seen)
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
