"""What a person may change by hand, over a unix socket that only the owner of the state directory can reach.

HTTP only tells (DESIGN section 6): it is open to the network, and nothing that can be reached there may change a node.
A connection takes one request, a line of JSON such as `{"command": "clear-health", "argument": "GPU-…"}`, and gets one
line back: `{"done": true, "message": "…"}`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from nodeagent import refusals
from nodeagent.errand import Errand, Hangs

logger = logging.getLogger(__name__)

SOCKET = "admin.sock"
_SOCKET_MADE = f"{SOCKET}.new"
MOST_BYTES = 64 * 1024
_ASKED_WITHIN = 5.0
_DONE_WITHIN = 10.0
_AT_ONCE = 8
_AGAIN_AFTER = 10.0
_MADE_WITHIN = 5.0
_REMOVED_WITHIN = 0.5


class CannotDo(Exception):
    """A request that is refused, or cannot be followed; the message is for the person who made it."""


class Unreachable(Exception):
    """Nobody answers on the socket."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    done: bool
    message: str


Handler = Callable[[str], Awaitable[str]]
"""Does what was asked for with one argument, and says what was done. Raises CannotDo."""


class AdminSocket:
    """Serves requests in `directory` until cancelled. `handlers` are by command. `made` is called in a thread whenever
    the socket has been made.
    """

    def __init__(
        self,
        directory: Path,
        handlers: Mapping[str, Handler],
        *,
        made: Callable[[], None] = lambda: None,
        permit: Callable[[], None] = lambda: None,
    ) -> None:
        self._directory = directory
        self._handlers = handlers
        self._made = made
        self._permit = permit
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._anew = asyncio.Event()
        self._ours: tuple[int, int] | None = None

    def serve_anew(self) -> None:
        """The socket has gone with the directory: make it again. To be called on the loop."""
        self._anew.set()

    async def run(self) -> None:
        """Serve. A socket that an earlier agent has left is replaced: the directory's lock is ours by now."""
        disk = Errand("admin socket", on_late=lambda: None)
        try:
            while True:
                listener = await self._until_made(disk)
                server = await asyncio.start_unix_server(self._serve, sock=listener, limit=MOST_BYTES)
                try:
                    await self._anew.wait()
                finally:
                    server.close()
        finally:
            with suppress(OSError, Hangs):
                await disk.run(self._remove, _REMOVED_WITHIN)

    async def _until_made(self, disk: Errand) -> socket.socket:
        told = False
        while True:
            self._anew.clear()
            if (listener := await self._listener(disk, quiet=told)) is not None:
                return listener
            told = True
            with suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_AFTER):
                    await self._anew.wait()

    async def _listener(self, disk: Errand, *, quiet: bool) -> socket.socket | None:
        try:
            return await disk.run(self._bind, _MADE_WITHIN)
        except Hangs:
            problem = "no answer from the disk"
        except OSError as error:
            problem = refusals.words(error)
        if not quiet:
            logger.error("cannot serve %s, trying again: %s", self._directory / SOCKET, problem)
        return None

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with _short(self._directory) as directory:
                path = directory / _SOCKET_MADE
                path.unlink(missing_ok=True)
                listener.bind(str(path))
                path.chmod(0o600)
                listener.listen(_AT_ONCE)
                found = path.lstat()
                self._permit()
                # Whoever finds the socket under its name can connect.
                path.replace(directory / SOCKET)
            self._ours = found.st_dev, found.st_ino
            self._made()
        except OSError:
            listener.close()
            raise
        return listener

    def _remove(self) -> None:
        """Ours, and not that of the agent whose directory it may be by now."""
        found = (self._directory / SOCKET).lstat()
        if (found.st_dev, found.st_ino) == self._ours:
            (self._directory / SOCKET).unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with self._room, asyncio.timeout(_ASKED_WITHIN):
                line = await reader.readline()
            answer = await self._answer(line)
            writer.write(json.dumps({"done": answer.done, "message": answer.message}).encode() + b"\n")
            async with asyncio.timeout(_ASKED_WITHIN):
                await writer.drain()
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked has gone, or never said anything
        finally:
            writer.close()

    async def _answer(self, line: bytes) -> Answer:
        try:
            command, argument = _request(line)
            async with asyncio.timeout(_DONE_WITHIN):
                return Answer(True, await self._handler(command)(argument))
        except CannotDo as refusal:
            return Answer(False, str(refusal))
        except TimeoutError:
            return Answer(False, f"not done within {_DONE_WITHIN:g} s: see the log of the agent")

    def _handler(self, command: str) -> Handler:
        if command not in self._handlers:
            raise CannotDo(f"cannot do {command!r}: this agent knows {', '.join(sorted(self._handlers))}")
        return self._handlers[command]


def ask(directory: Path, command: str, argument: str) -> Answer:
    """Ask the agent whose state directory this is; blocks for a few seconds at most. Raises Unreachable."""
    path = directory / SOCKET
    try:
        with _short(directory) as short, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ASKED_WITHIN + _DONE_WITHIN)
            connection.connect(str(short / SOCKET))
            connection.sendall(json.dumps({"command": command, "argument": argument}).encode() + b"\n")
            with connection.makefile("rb") as reply:
                told = json.loads(reply.readline(MOST_BYTES))
        return Answer(bool(told["done"]), str(told["message"]))
    except OSError as error:
        raise Unreachable(f"cannot reach an agent at {path}: {refusals.words(error, path)}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreachable(f"cannot understand the agent at {path}: is it another version?") from error


def _request(line: bytes) -> tuple[str, str]:
    try:
        told = json.loads(line)
        command, argument = told["command"], told["argument"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CannotDo("cannot understand the request: expected a command and one argument as JSON") from error
    if not isinstance(command, str) or not isinstance(argument, str):
        raise CannotDo("cannot understand the request: expected texts")
    return command, argument


@contextmanager
def _short(directory: Path) -> Iterator[Path]:
    """A short path of the directory, while it is open: the path of a socket has 107 bytes at most, a directory more."""
    descriptor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Path(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
