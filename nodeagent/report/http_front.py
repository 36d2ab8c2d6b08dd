"""The thread of the HTTP server: it accepts, reads requests and gives the small answers.

The kubelet ends an agent whose probes are not answered, and anybody in the cluster can connect: so **probes are
answered whatever else connects**. This thread accepts connections, reads requests without ever waiting for one of them,
and gives the answers that take no time, those to the probes above all; what takes time goes to a few workers
(`http_workers.py`). A probe needs no thread and no place in a queue, and nothing that a client does costs more than a
little for a little while:

- A connection has `ANSWER_SECONDS` for its request to arrive, as a whole, and for a small answer to be taken.
- `MOST_OPEN` connections may be unfinished. One more ends the oldest, after everything that has arrived was read: at
  200 new ones per second each has 0.6 s to say what it wants, and a probe has said it by the time it is accepted.
- Where the process has no file descriptor left the oldest makes room too, and some are kept in reserve, so that there
  is one to be had though others have used them up. Where there is none all the same, accepting pauses for a moment.
- No thread is made here after the start; where the workers cannot be had only their answers are refused.

One request per connection, whatever a client would like.
"""

from __future__ import annotations

import errno
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from nodeagent import refusals
from nodeagent.report.endpoints import Answer, Endpoints
from nodeagent.report.http_messages import MAX_REQUEST, Request, head, is_whole, parse, refusal
from nodeagent.report.http_workers import Workers

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0
MOST_OPEN: Final = 128
RESERVE: Final = 4
"""File descriptors that are kept for connections."""

_AT_ONCE: Final = 32
"""Connections that are accepted before those that are open are looked at again."""

PAUSE: Final = 0.1
_LOOK_EVERY: Final = 0.1
_COMPLAIN_EVERY: Final = 60.0

_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


@dataclass(slots=True, eq=False)
class _Open:
    """A connection whose request or small answer is under way. `watched` is what the selector waits for, if it does."""

    socket: socket.socket
    since: float
    head: bytearray = field(default_factory=bytearray)
    reply: bytes = b""
    watched: int = 0


class Front:
    """The thread that accepts, reads requests and gives small answers. It waits for nothing but its selector."""

    def __init__(self, listener: socket.socket, endpoints: Endpoints) -> None:
        self.port: int = listener.getsockname()[1]
        self._listener = listener
        self._endpoints = endpoints
        self._workers = Workers(self._made)
        # Not epoll: poll takes no file descriptor, and knows no limit on what may be watched.
        self._selector = selectors.PollSelector()
        self._open: dict[_Open, None] = {}  # the oldest first
        self._reserve: list[int] = []
        self._paused_until: float | None = None
        self._complained_at = float("-inf")
        self._stopping = False

    @property
    def open(self) -> int:
        return len(self._open) + self._workers.busy

    def stop(self) -> None:
        """Have the thread end. For any thread."""
        self._stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # which wakes the selector, and frees the port

    def run(self) -> None:
        """Serve until stopped. Whatever a turn fails with, the next one comes."""
        try:
            self._selector.register(self._listener, selectors.EVENT_READ)
            while not self._stopping:
                try:
                    self._turn()
                except Exception as error:  # noqa: BLE001 - see above
                    self._complain(f"cannot serve HTTP, trying again: {error!r}")
                    time.sleep(PAUSE)
        finally:
            self.end()

    def end(self) -> None:
        """Close everything."""
        for one in list(self._open):
            self._drop(one)
        self._listener.close()
        self._selector.close()
        self._workers.close()
        while self._reserve:
            os.close(self._reserve.pop())

    # --- one turn ---------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        self._keep_reserve()
        self._end_pause()
        ready = self._selector.select(self._patience())
        looked_at = time.monotonic()
        for key, _ in ready:
            if isinstance(key.data, _Open):
                self._advance(key.data)
        while self._open and (oldest := next(iter(self._open))).since + ANSWER_SECONDS <= looked_at:
            self._drop(oldest)
        if any(key.data is None for key, _ in ready):
            self._accept(looked_at)

    def _patience(self) -> float | None:
        """Seconds until something is to be done though nothing arrives."""
        ends = [next(iter(self._open)).since + ANSWER_SECONDS] if self._open else []
        if self._paused_until is not None:
            ends.append(self._paused_until)
        left = [max(0.0, min(ends) - time.monotonic())] if ends else []
        if self._workers.make_room():
            left.append(_LOOK_EVERY)
        return min(left) if left else None

    def _accept(self, looked_at: float) -> None:
        for _ in range(_AT_ONCE):
            try:
                connection, _ = self._listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if self._stopping:
                    return
                if error.errno in _NO_ROOM and self._make_room(looked_at):
                    continue
                if error.errno not in _NO_ROOM or not self._open:
                    self._pause(error)
                return  # who is open makes room in the next turn
            connection.setblocking(False)
            if len(self._open) >= MOST_OPEN:
                self._drop(next(iter(self._open)))
            one = _Open(connection, time.monotonic())
            self._open[one] = None
            self._advance(one)

    def _make_room(self, looked_at: float) -> bool:
        """Give up a connection that had said nothing when all were `looked_at`, else a descriptor of the reserve."""
        oldest = next(iter(self._open), None)
        if oldest is not None and oldest.since < looked_at:
            self._drop(oldest)
            return True
        if self._reserve:
            os.close(self._reserve.pop())
            return True
        return False

    def _keep_reserve(self) -> None:
        with suppress(OSError):
            while len(self._reserve) < RESERVE:
                self._reserve.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))

    def _pause(self, error: OSError) -> None:
        """What waits to be accepted would wake us at once, again and again."""
        self._complain(f"cannot accept HTTP connections for the moment: {refusals.words(error)}")
        self._selector.unregister(self._listener)
        self._paused_until = time.monotonic() + PAUSE

    def _end_pause(self) -> None:
        if self._paused_until is not None and time.monotonic() >= self._paused_until:
            self._paused_until = None
            self._selector.register(self._listener, selectors.EVENT_READ)

    def _complain(self, message: str) -> None:
        """Say what is wrong, but not at the pace of whoever causes it."""
        now = time.monotonic()
        if now - self._complained_at >= _COMPLAIN_EVERY:
            self._complained_at = now
            logger.warning("%s", message)

    # --- one connection ---------------------------------------------------------------------------------------------

    def _advance(self, one: _Open) -> None:
        """Read or write on, as far as it goes without waiting."""
        try:
            if not one.reply:
                self._read(one)
            else:
                self._write(one)
        except BlockingIOError:
            self._watch(one, selectors.EVENT_WRITE if one.reply else selectors.EVENT_READ)
        except OSError:
            self._drop(one)  # the client left: its own affair
        except Exception:
            logger.exception("cannot answer an HTTP request")
            self._drop(one)

    def _read(self, one: _Open) -> None:
        while not is_whole(one.head):
            data = one.socket.recv(MAX_REQUEST + 1)
            if not data:
                self._drop(one)
                return
            one.head += data
        request = parse(bytes(one.head))
        if isinstance(request, HTTPStatus):
            answer = refusal(request)
        elif (soon := self._soon(request)) is not None:
            answer = soon
        else:
            self._forget(one)
            if self._workers.take(one.socket, request):
                return
            self._open[one] = None
            answer = refusal(HTTPStatus.SERVICE_UNAVAILABLE)
        without_body = isinstance(request, Request) and request.method == "HEAD"
        body = b"" if without_body or not isinstance(answer.body, bytes) else answer.body
        one.reply = head(answer, chunked=False) + body
        self._write(one)

    def _write(self, one: _Open) -> None:
        one.reply = one.reply[one.socket.send(one.reply) :]
        if one.reply:
            raise BlockingIOError
        with suppress(OSError):
            # What has arrived and is not read would make the system take the answer back.
            one.socket.recv(4 * MAX_REQUEST)
        self._drop(one)

    def _made(self, request: Request) -> Answer:
        """The answer of the endpoints; where they fail, one that says so."""
        answer = self._told(request, self._endpoints.answer)
        assert answer is not None  # noqa: S101 - only what takes no time may be none
        return answer

    def _soon(self, request: Request) -> Answer | None:
        """The same, if it takes no time."""
        return self._told(request, self._endpoints.at_once)

    def _told(self, request: Request, ask: Callable[[str, str, str], Answer | None]) -> Answer | None:
        try:
            answer = ask(request.method, request.target, request.known)
            return answer.begun() if answer is not None else None
        except Exception:
            logger.exception("cannot answer %s %r", request.method, request.target)
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error: see the agent's log\n")

    def _watch(self, one: _Open, event: int) -> None:
        if one.watched == event:
            return
        (self._selector.modify if one.watched else self._selector.register)(one.socket, event, one)
        one.watched = event

    def _forget(self, one: _Open) -> None:
        self._open.pop(one, None)
        if one.watched:
            self._selector.unregister(one.socket)
            one.watched = 0

    def _drop(self, one: _Open) -> None:
        self._forget(one)
        one.socket.close()
