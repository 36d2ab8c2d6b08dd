"""All resources that the agent serves: one supervised task for each, and one pair of eyes on the kubelet's directory.

What the reconciler asks for takes effect in the tasks: it never waits for the kubelet, and a resource whose task fails
does not touch the others.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nodeagent.kubelet import names
from nodeagent.kubelet.plugin_server import ENDPOINT_GLOB, PluginServer
from nodeagent.kubelet.registration import Registration, Timing
from nodeagent.kubelet.rival import Shown
from nodeagent.kubelet.sockets import deserted
from nodeagent.model.allocation import Desk
from nodeagent.model.kubelet import RegistrationStatus

logger = logging.getLogger(__name__)

LOOK_EVERY: Final = 2.0
"""Seconds between two looks at the sockets, should an event get lost."""

_RESTART_AFTER: Final = (1.0, 60.0)
"""Seconds until a task that failed is started again: at first, at most. One that ran for longer begins anew."""


class Plugins:
    """Serves and registers resources in the kubelet's directory of device plugins.

    `subscribe` tells of events in a directory. `wake` is called when a status has changed, and when a list has been
    sent; `on_allocate` as (resource, result, seconds) for each Allocate. `shown` asks the kubelet which ids of a
    resource it shows. Raises ValueError where the directory's path leaves no room for a socket's name.
    """

    def __init__(
        self,
        directory: Path,
        desk: Desk,
        *,
        subscribe: Callable[[Path, Callable[[], None]], None],
        wake: Callable[[], None],
        on_allocate: Callable[[str, str, float], None],
        shown: Shown,
        timing: Timing = Timing(),  # noqa: B008 - frozen
    ) -> None:
        length = len(bytes(directory / ENDPOINT_GLOB))
        if length > names.MAX_SOCKET_PATH:
            raise ValueError(
                f"cannot serve device plugins in {directory}: the paths of sockets would have {length} bytes, "
                f"and {names.MAX_SOCKET_PATH} are possible"
            )
        self._directory = directory
        self._desk = desk
        self._wake = wake
        self._on_allocate = on_allocate
        self._shown = shown
        self._timing = timing
        self._registrations: dict[str, Registration] = {}
        self._tasks: dict[str, tuple[asyncio.Task[None], ...]] = {}
        self._running = False
        self._stopped = asyncio.Event()
        subscribe(directory, self._look)

    def register(self, resource: str) -> None:
        """Serve a resource and keep it registered."""
        if resource not in self._registrations and not self._stopped.is_set():
            self._registrations[resource] = Registration(
                resource,
                self._directory,
                serve=lambda changed, offered: PluginServer(
                    resource, self._desk, changed=changed, on_allocate=self._on_allocate, lately=offered
                ),
                changed=self._wake,
                shown=self._shown,
                timing=self._timing,
            )
            if self._running:
                self._start(resource)

    def retire(self, resource: str) -> None:
        """End the stream, remove the socket, and do not register again."""
        if self._registrations.pop(resource, None) is not None and resource in self._tasks:
            self._tasks[resource][-1].cancel()

    def resend(self, resource: str) -> None:
        """Send the list again, though it has not changed."""
        if registration := self._registrations.get(resource):
            registration.resend()

    def reconnect(self, resource: str) -> None:
        """End a live stream and register again."""
        if registration := self._registrations.get(resource):
            registration.reconnect()

    def publish(self) -> None:
        """The desk's lists may have changed: every stream sends the newest unless it has."""
        for registration in self._registrations.values():
            registration.publish()

    def statuses(self) -> tuple[RegistrationStatus, ...]:
        """Of every resource that is served, by name."""
        return tuple(self._registrations[resource].status for resource in sorted(self._registrations))

    async def run(self) -> None:
        """Work until stopped or cancelled; then leave no stream and no socket behind."""
        self._sweep()
        self._running = True
        for resource in self._registrations:
            self._start(resource)
        try:
            while not self._stopped.is_set():
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._stopped.wait()
                self._look()
        finally:
            await self.stop(self._timing.grace)

    async def stop(self, grace: float) -> None:
        """End all streams and remove our sockets, within about `grace` seconds; nothing registers any more."""
        self._stopped.set()
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        for task in tasks:
            if not task.cancelling():  # a second time would interrupt the end of its stream
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=grace + self._timing.grace)

    def _look(self) -> None:
        for registration in self._registrations.values():
            registration.nudge()

    def _start(self, resource: str) -> None:
        leaving = tuple(task for task in self._tasks.get(resource, ()) if not task.done())
        work = self._supervise(self._registrations[resource], leaving)
        self._tasks[resource] = (*leaving, asyncio.create_task(work, name=f"registration of {resource}"))

    async def _supervise(self, registration: Registration, leaving: tuple[asyncio.Task[None], ...]) -> None:
        """Run one registration for ever, once those that had the resource before it have ended their streams."""
        if leaving:
            await asyncio.wait(leaving)
        await keep_running(registration.run, registration.resource)

    def _sweep(self) -> None:
        """Remove the sockets that an agent which was killed has left; nobody answers there any more."""
        for path in self._directory.glob(ENDPOINT_GLOB):
            if deserted(path):
                with suppress(OSError):
                    path.unlink()


async def keep_running(
    run: Callable[[], Awaitable[None]],
    resource: str,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Run it for ever. A bug in one resource must not stop the others: it is logged once, and run again after a while,
    which doubles with every bug in a row.
    """
    first, longest = _RESTART_AFTER
    wait, told = first, ""
    while True:
        begun = clock()
        try:
            await run()
        except Exception as error:
            if clock() - begun > longest:
                wait, told = first, ""
            if repr(error) != told:
                told = repr(error)
                logger.error("cannot keep %s registered: %s", resource, told, exc_info=error)
        await sleep(wait)
        wait = min(2 * wait, longest)
