"""Keeps one resource registered with the kubelet: exactly once per kubelet, for as long as the resource is wanted.

The kubelet says nothing when it restarts, forgets a plugin when an older one's stream ends, and loses all devices of a
resource that registers again on a live stream. So one task per resource goes round a circle: find the kubelet, serve on
a fresh socket, prove it, register, wait for the stream, watch until something takes it away, end the own server, and
again. Nothing else registers, so no order of events can do it twice; events only make the task look.

A stream that ends is no proof of another plugin, however often it happens. The proof is that the kubelet shows ids of
the resource while we have no stream. Only then is the resource left to the other plugin for a while.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TypeVar

import grpc.aio

from nodeagent import refusals
from nodeagent.kubelet import dial, names
from nodeagent.kubelet.dial import Failed
from nodeagent.kubelet.offered import Offered
from nodeagent.kubelet.plugin_server import CannotBind, PluginServer
from nodeagent.kubelet.rival import Rival, RivalTiming, Shown
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, absence, identity, prove, target
from nodeagent.model.kubelet import Obstacle, RegistrationState, RegistrationStatus
from nodeagent.model.words import count

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RESTARTED = "cannot register: the kubelet has just restarted"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds.

    `register` is longer than the 10 s in which the kubelet dials back inside Register. `backoff` are the first and the
    longest wait after a try that failed. A stream that lived for less than `steady` counts like a failed try, but is
    waited for no longer than `soon`: there are no devices meanwhile. The loss of one that has lived for `short` has
    nothing to do with what was before.
    """

    connect: float = 5.0
    register: float = 15.0
    stream: float = 10.0
    backoff: tuple[float, float] = (0.1, 5.0)
    steady: float = 1.0
    soon: float = 2.0
    short: float = 30.0
    grace: float = 0.5
    rival: RivalTiming = field(default_factory=RivalTiming)


class _Loss(Enum):
    """Why a live stream is given up."""

    FAULT = "our own fault ended the stream"
    REPLACED = "the kubelet has restarted"
    SOCKET = "our socket was removed"
    RECONNECT = "the kubelet showed other devices than ours"
    STREAM = "the kubelet ended our stream"


class Registration:
    """One resource's standing with the kubelet. `run` works until it is cancelled and then leaves nothing behind.

    `serve` makes the resource's server, given what to call when its streams change, and whom to tell what is offered;
    `changed` is called when the status does; `shown` asks the kubelet what it shows. Of the state within: `_tries` have
    come to nothing in a row, under the kubelet that `_under` identifies.
    """

    def __init__(
        self,
        resource: str,
        directory: Path,
        *,
        serve: Callable[[Callable[[], None], Offered], PluginServer],
        changed: Callable[[], None],
        shown: Shown,
        timing: Timing,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.resource = resource
        self._directory = directory
        self._kubelet = directory / names.KUBELET_SOCKET
        self._serve = serve
        self._changed = changed
        self._shown = shown
        self._timing = timing
        self._chance = chance
        self._nudged = asyncio.Event()
        self._server: PluginServer | None = None
        self._reconnect = False
        self._state = RegistrationState.PENDING
        self._message = "about to register"
        self._obstacle: Obstacle | None = None
        self._logged = ""
        self._registrations = 0
        self._failures = 0
        self._tries = 0
        self._offered = Offered()
        self._rival = Rival(resource, shown, timing.rival)
        self._under: str | None = None

    @property
    def status(self) -> RegistrationStatus:
        server = self._server
        return RegistrationStatus(
            self.resource,
            self._state,
            self._message,
            streams=int(server.streams.live) if server else 0,
            registrations=self._registrations,
            failures=self._failures,
            sent_revision=server.streams.sent_revision if server else 0,
            obstacle=self._obstacle,
        )

    def nudge(self) -> None:
        """Something may have changed: look."""
        self._nudged.set()

    def publish(self) -> None:
        """The desk's list may have changed: send the newest."""
        if self._server:
            self._server.publish()

    def resend(self) -> None:
        """Send the list again, as it is."""
        if self._server:
            self._server.resend()

    def reconnect(self) -> None:
        """End a live stream and register again; where there is none that is under way already."""
        self._reconnect = self._state is RegistrationState.LIVE
        self.nudge()

    async def run(self) -> None:
        """Keep the resource registered until cancelled; then end the stream and remove the socket."""
        try:
            while True:
                await self._round()
        finally:
            await self._end()

    async def _round(self) -> None:
        """One turn of the circle: from no server to no server."""
        kubelet = identity(self._kubelet)
        if kubelet is None:
            why, denied = absence(self._kubelet)
            self._set(RegistrationState.ABSENT, why, Obstacle.DENIED if denied else None)
            await self._until(lambda: identity(self._kubelet) or absence(self._kubelet) != (why, denied))
            return
        if kubelet != self._under:
            self._under, self._tries, self._rival.yielded = kubelet, 0, 0
        try:
            server, path = await self._enter(kubelet)
        except (Failed, OSError) as error:
            await self._end()
            await self._back_off(kubelet, str(error), _obstacle(error))
            return
        opened = time.monotonic()
        self._reconnect = False
        if server.streams.live:
            self._set(RegistrationState.LIVE, "")
        loss = await self._watch(server, kubelet, path)
        lived = time.monotonic() - opened
        await self._end()
        if lived >= self._timing.steady:
            self._tries = 0
        if lived >= self._timing.short:
            self._rival.yielded = 0
        if loss is _Loss.FAULT:
            await self._back_off(kubelet, server.fault or _Loss.FAULT.value)
            return
        self._set(RegistrationState.PENDING, f"registering again: {loss.value}")
        if lived < self._timing.steady:
            wait = min(self._pause(), self._timing.soon)
            await self._until(lambda: self._replaced(kubelet), wait)
        if loss is _Loss.RECONNECT:
            # Where nobody is left whom the kubelet asks, it does not notice our end and goes on showing our own ids.
            await self._look_for_rival(kubelet, self._offered.lately())
        elif loss is _Loss.STREAM and lived < self._timing.short:
            await self._look_for_rival(kubelet, frozenset())

    async def _enter(self, kubelet: str) -> tuple[PluginServer, Path]:
        """From nothing to an open stream. Returns the server and the path of its socket; raises Failed or OSError."""
        if self._state is RegistrationState.ABSENT:
            self._set(RegistrationState.PENDING, "registering")
        async with grpc.aio.insecure_channel(target(self._kubelet), options=LOCAL_CHANNEL) as channel:
            # Connected first: the kubelet removes all sockets before it listens, so one that listens has ours to come.
            await self._unless_replaced(kubelet, dial.connect(channel, self._kubelet, self._timing.connect))
            if self._replaced(kubelet):
                raise Failed(_RESTARTED)
            server = self._server = self._serve(self._streams_changed, self._offered)
            path = await server.serve(self._directory)
            try:
                await prove(path, self._timing.connect)
            except OSError as error:
                told = f"cannot register: our socket in {self._directory} does not answer: {_unanswered(error)}"
                raise Failed(told) from error
            await self._unless_replaced(kubelet, self._register(channel, server))
        self._registrations += 1
        server.streams.registered()
        if not server.streams.seen:
            self._set(RegistrationState.PENDING, "registered; the kubelet has not opened its stream yet")
            await self._until(lambda: server.streams.seen or self._replaced(kubelet), self._timing.stream)
        if not server.streams.seen:
            if self._replaced(kubelet):
                raise Failed(_RESTARTED)
            raise Failed(f"cannot keep the registration: the kubelet opened no stream within {self._timing.stream:g} s")
        await self._missing(server, lambda: self._replaced(kubelet))
        return server, path

    async def _register(self, channel: grpc.aio.Channel, server: PluginServer) -> None:
        """Raises Failed when the kubelet refuses; when it does not answer, unless it has registered us all the same."""
        server.streams.expect()
        try:
            await dial.register(channel, self.resource, server.endpoint, self._timing.register)
        except dial.Unanswered:
            shown = await self._shown(self.resource) if server.streams.live else None
            if not shown or not shown & server.offered:
                raise

    async def _watch(self, server: PluginServer, kubelet: str, path: Path) -> _Loss:
        """Until the stream is lost, or is to be given up; the answer is why."""
        bound = identity(path)
        doubts = 0

        def lost() -> _Loss | None:
            return self._loss(server, kubelet, socket_there=identity(path) == bound)

        def doubted() -> bool:
            return server.streams.doubts > doubts

        while True:
            await self._until(lambda: lost() or doubted())
            if lost() is _Loss.STREAM:
                await self._missing(server, lambda: lost() is not _Loss.STREAM)
            if loss := lost():
                return loss
            if doubted():
                doubts = server.streams.doubts
                if await self._forgotten(server, lost):
                    return _Loss.STREAM

    async def _missing(self, server: PluginServer, over: Callable[[], bool]) -> None:
        """No stream is open: right after Register the one that has ended may have been a guest's, and the kubelet's is
        still to come.
        """
        if not server.streams.settled:
            await self._until(lambda: server.streams.live or over(), self._timing.rival.proof)

    async def _forgotten(self, server: PluginServer, lost: Callable[[], _Loss | None]) -> bool:
        """Whether the kubelet shows none of our devices, asked twice: a stream has ended that may have been its, and
        those that are open may be guests'.
        """
        for _ in range(2):
            if await self._until(lost, self._timing.rival.proof):
                return False
            shown = await self._shown(self.resource)
            if shown is None or not server.offered or shown & server.offered:
                return False
        return True

    def _loss(self, server: PluginServer, kubelet: str, *, socket_there: bool) -> _Loss | None:
        """Why the live stream is lost or to be given up; None while it is well."""
        if server.fault:
            return _Loss.FAULT
        if self._replaced(kubelet):
            return _Loss.REPLACED
        if not socket_there:
            return _Loss.SOCKET
        if self._reconnect:
            return _Loss.RECONNECT
        return None if server.streams.live else _Loss.STREAM

    async def _look_for_rival(self, kubelet: str, ours: frozenset[str]) -> None:
        """Our stream is lost: if another plugin has the resource, leave it to that one. Ids in `ours` prove none."""

        async def pause(seconds: float) -> bool:
            return await self._until(lambda: self._replaced(kubelet), seconds)

        if await pause(self._timing.rival.proof) or not (theirs := await self._rival.proof(ours, pause)):
            return
        self._set(
            RegistrationState.FOREIGN,
            f"another plugin has {self.resource}: the kubelet shows {count(theirs, 'id')} such as {min(theirs)} though "
            f"our stream has ended; registering again when they are gone, at the latest in {self._rival.wait:g} s",
        )
        await self._rival.gone(ours, pause)
        self._set(RegistrationState.PENDING, "registering again")

    async def _back_off(self, kubelet: str, why: str, obstacle: Obstacle | None = None) -> None:
        """A try has failed: wait, longer each time, or until there is another kubelet."""
        self._failures += 1
        self._set(RegistrationState.BACKOFF, why, obstacle)
        await self._until(lambda: identity(self._kubelet) != kubelet, self._pause())

    def _pause(self) -> float:
        """How long to wait after one more try that came to nothing."""
        first, most = self._timing.backoff
        wait = min(first * 2.0 ** min(self._tries, 16), most)
        self._tries += 1
        return wait * (0.75 + 0.25 * self._chance())

    def _replaced(self, kubelet: str) -> bool:
        """Whether there is another kubelet: a missing socket is none, the old one may well be serving."""
        return identity(self._kubelet) not in (kubelet, None)

    async def _until(self, condition: Callable[[], T], within: float | None = None) -> T:
        """Wait until the condition gives something true, looking whenever nudged; return what it gave last."""
        try:
            async with asyncio.timeout(within):
                while not (result := condition()):
                    self._nudged.clear()
                    await self._nudged.wait()
        except TimeoutError:
            return condition()
        return result

    async def _unless_replaced(self, kubelet: str, work: Coroutine[None, None, None]) -> None:
        """Do the work, or raise Failed as soon as there is another kubelet, for which it would be in vain."""
        task = asyncio.ensure_future(work)
        task.add_done_callback(lambda _: self.nudge())
        try:
            await self._until(lambda: task.done() or self._replaced(kubelet))
            if not task.done():
                raise Failed(_RESTARTED)
            await task
        finally:
            task.cancel()

    def _streams_changed(self) -> None:
        self.nudge()
        self._changed()

    def _set(self, state: RegistrationState, message: str, obstacle: Obstacle | None = None) -> None:
        """Take on a state; what is news goes to the log once, however often it is tried in vain."""
        if (state, message) == (self._state, self._message):
            return
        self._state, self._message, self._obstacle = state, message, obstacle
        news = message or "registered with the kubelet"
        if state is not RegistrationState.PENDING and news != self._logged:
            level = logging.INFO if state is RegistrationState.LIVE else logging.WARNING
            logger.log(level, "%s: %s", self.resource, news)
            self._logged = news
        self._changed()

    async def _end(self) -> None:
        """End our stream and remove our socket. May be cancelled and called again."""
        if self._server is not None:
            await self._server.stop(self._timing.grace)
            self._server = None
            self._changed()


def _obstacle(error: Failed | OSError) -> Obstacle | None:
    """What there is to be taken away, where a try has failed."""
    if isinstance(error, Failed):
        return error.obstacle
    return Obstacle.UNWRITABLE if isinstance(error, CannotBind) and error.unwritable else None


def _unanswered(error: OSError) -> str:
    return refusals.words(error) or "no answer in time"
