"""Keeps one resource registered with the kubelet: exactly once per kubelet, for as long as the resource is wanted.

The kubelet says nothing when it restarts, forgets a plugin when an older one's stream ends, and loses all devices of a
resource that registers again on a live stream. So one task per resource goes round a circle: find the kubelet, serve on
a fresh socket, prove it, register, wait for the stream, watch until something takes it away, end the own server, and
again. Nothing else registers, so no order of events can do it twice; events only make the task look.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TypeVar

import grpc
import grpc.aio

from nodeagent.kubelet import names
from nodeagent.kubelet.plugin_server import OPTIONS, PluginServer
from nodeagent.kubelet.proto import deviceplugin_pb2 as pb
from nodeagent.kubelet.sockets import LOCAL_CHANNEL, identity, prove, target
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus

logger = logging.getLogger(__name__)

T = TypeVar("T")

_RESTARTED = "cannot register: the kubelet has just restarted"


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things may take, in seconds.

    `register` is longer than the 10 s in which the kubelet dials back inside Register. A stream that ends by itself, or
    has to be ended since the kubelet shows another list, within `short` of its opening, `losses` times in a row under
    one kubelet, means that another plugin takes the resource; `foreign` are the waits that follow, the last one over
    and over.
    """

    connect: float = 5.0
    register: float = 15.0
    stream: float = 10.0
    backoff: tuple[float, float] = (0.1, 5.0)
    short: float = 30.0
    losses: int = 3
    foreign: tuple[float, ...] = (30.0, 60.0, 120.0)
    grace: float = 0.5


class Failed(Exception):
    """One try to register has failed; the message says why, and another try follows."""


class _Loss(Enum):
    """Why a live stream is given up."""

    FAULT = "our own fault ended the stream"
    REPLACED = "the kubelet has restarted"
    SOCKET = "our socket was removed"
    RECONNECT = "the kubelet's view had to be mended"
    STREAM = "the kubelet ended our stream"


class Registration:
    """One resource's standing with the kubelet. `run` works until it is cancelled and then leaves nothing behind.

    `serve` makes the resource's server, given what to call when its streams change; `changed` is called when the status
    does. Of the state within: `_tries` have failed since the last success; `_losses` counts the streams in a row that
    were lost shortly after they had opened, under the kubelet that `_under` identifies.
    """

    def __init__(
        self,
        resource: str,
        directory: Path,
        *,
        serve: Callable[[Callable[[], None]], PluginServer],
        changed: Callable[[], None],
        timing: Timing,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.resource = resource
        self._directory = directory
        self._kubelet = directory / names.KUBELET_SOCKET
        self._serve = serve
        self._changed = changed
        self._timing = timing
        self._chance = chance
        self._nudged = asyncio.Event()
        self._server: PluginServer | None = None
        self._reconnect = False
        self._state = RegistrationState.PENDING
        self._message = "about to register"
        self._logged = ""
        self._registrations = 0
        self._failures = 0
        self._tries = 0
        self._losses = 0
        self._under: str | None = None

    @property
    def status(self) -> RegistrationStatus:
        server = self._server
        return RegistrationStatus(
            self.resource,
            self._state,
            self._message,
            streams=server.streams if server else 0,
            registrations=self._registrations,
            failures=self._failures,
            sent_revision=server.sent_revision if server else 0,
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
            self._set(RegistrationState.ABSENT, f"no {self._kubelet}: waiting for the kubelet")
            await self._until(lambda: identity(self._kubelet))
            return
        if kubelet != self._under:
            self._under, self._tries, self._losses = kubelet, 0, 0
        try:
            server, path = await self._enter(kubelet)
        except (Failed, OSError) as error:
            await self._end()
            await self._back_off(kubelet, str(error))
            return
        opened, bound = time.monotonic(), identity(path)
        self._tries, self._reconnect = 0, False
        self._set(RegistrationState.LIVE, "")
        loss = await self._until(lambda: self._loss(server, kubelet, socket_there=identity(path) == bound))
        lived = time.monotonic() - opened
        await self._end()
        if loss is _Loss.FAULT:
            await self._back_off(kubelet, server.fault or _Loss.FAULT.value)
        elif loss in (_Loss.STREAM, _Loss.RECONNECT):
            await self._weigh(kubelet, loss, lived)
        elif loss is not None:
            self._set(RegistrationState.PENDING, f"registering again: {loss.value}")

    async def _enter(self, kubelet: str) -> tuple[PluginServer, Path]:
        """From nothing to an open stream. Returns the server and the path of its socket; raises Failed or OSError."""
        if self._state is RegistrationState.ABSENT:
            self._set(RegistrationState.PENDING, "registering")
        async with grpc.aio.insecure_channel(target(self._kubelet), options=LOCAL_CHANNEL) as channel:
            # Connected first: the kubelet removes all sockets before it listens, so one that listens has ours to come.
            await self._unless_replaced(kubelet, self._connect(channel))
            if self._replaced(kubelet):
                raise Failed(_RESTARTED)
            server = self._server = self._serve(self._streams_changed)
            path = await server.serve(self._directory)
            try:
                await prove(path, self._timing.connect)
            except OSError as error:
                raise Failed(f"cannot register: our socket {path} does not answer: {error!r}") from error
            await self._unless_replaced(kubelet, self._register(channel, server))
        self._registrations += 1
        if not server.streams:
            self._set(RegistrationState.PENDING, "registered; the kubelet has not opened its stream yet")
            await self._until(lambda: server.streams or self._replaced(kubelet), self._timing.stream)
        if not server.streams:
            if self._replaced(kubelet):
                raise Failed(_RESTARTED)
            raise Failed(f"cannot keep the registration: the kubelet opened no stream within {self._timing.stream:g} s")
        return server, path

    async def _connect(self, channel: grpc.aio.Channel) -> None:
        """Raises Failed unless somebody speaks gRPC behind kubelet.sock."""
        try:
            async with asyncio.timeout(self._timing.connect):
                while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                    if state is grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                        raise Failed(f"cannot connect to {self._kubelet}: nobody listens")
                    await channel.wait_for_state_change(state)
        except TimeoutError:
            raise Failed(f"cannot connect to {self._kubelet}: no answer in {self._timing.connect:g} s") from None

    async def _register(self, channel: grpc.aio.Channel, server: PluginServer) -> None:
        """Raises Failed when the kubelet refuses, or does not answer in time."""
        request = pb.RegisterRequest(
            version=names.API_VERSION, endpoint=server.endpoint, resource_name=self.resource, options=OPTIONS
        )
        register = channel.unary_unary(
            names.REGISTER,
            request_serializer=pb.RegisterRequest.SerializeToString,
            response_deserializer=pb.Empty.FromString,
        )
        try:
            await register(request, timeout=self._timing.register)
        except grpc.aio.AioRpcError as error:
            if not server.streams:  # with a stream it is registered, whatever became of the answer
                raise Failed(f"cannot register {self.resource}: {error.code().name}: {error.details()}") from None

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
        return None if server.streams else _Loss.STREAM

    async def _weigh(self, kubelet: str, loss: _Loss, lived: float) -> None:
        """Our stream is lost to somebody else: register again at once, unless this goes on and on."""
        self._losses = self._losses + 1 if lived < self._timing.short else 0
        if self._losses < self._timing.losses:
            self._set(RegistrationState.PENDING, f"registering again: {loss.value}")
            return
        waits = self._timing.foreign
        wait = waits[min(self._losses - self._timing.losses, len(waits) - 1)]
        self._set(
            RegistrationState.FOREIGN,
            f"lost {self._losses} streams in a row within {self._timing.short:g} s of their opening: "
            f"another plugin seems to take {self.resource}; trying again every {wait:g} s",
        )
        await self._until(lambda: self._replaced(kubelet), wait)

    async def _back_off(self, kubelet: str, why: str) -> None:
        """A try has failed: wait, longer each time, or until there is another kubelet."""
        self._failures += 1
        self._set(RegistrationState.BACKOFF, why)
        first, most = self._timing.backoff
        wait = min(first * 2 ** min(self._tries, 16), most) * (0.75 + 0.25 * self._chance())
        self._tries += 1
        await self._until(lambda: identity(self._kubelet) != kubelet, wait)

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

    def _set(self, state: RegistrationState, message: str) -> None:
        """Take on a state; what is news goes to the log once, however often it is tried in vain."""
        if (state, message) == (self._state, self._message):
            return
        self._state, self._message = state, message
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
