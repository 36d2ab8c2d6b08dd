"""A few threads for the answers that take time: the page, the status, the metrics.

Whoever asks for these can cost no more than this: `WORKERS` answers are made at once and `MOST_WAITING` wait. A client
may keep its worker waiting for `WRITE_SECONDS`, and for `PATIENCE` where others wait for a worker; in both cases a
little longer for what it has taken by then, so that a large answer is no slow client. The time that we take to make the
answer is not the client's. The probes are never here (`http_front.py`), so that nothing has to be kept free for them.
Threads are made when they are needed and kept; where none can be had, those that are there do the work, and without any
an answer is refused.

An answer that is made while it is sent shows what was so when it began, and keeps that in memory: `WORKERS` times at
most, however slow the clients are.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from nodeagent.report.endpoints import Answer
from nodeagent.report.http_messages import MAX_REQUEST, Request, head

logger = logging.getLogger(__name__)

WORKERS: Final = 4
MOST_WAITING: Final = 16
WRITE_SECONDS = 10.0

PATIENCE = 1.0
"""Seconds that a client may keep its worker waiting while others wait for one."""

_LINGER: Final = 1.0
"""Seconds for which a client that has sent too much may take to close, when it has its answer."""

_PACE: Final = 1 << 20
"""Bytes that a client which is not too slow takes in a second, at least: it has so much more time."""


@dataclass(slots=True)
class _Served:
    """A client that is being answered: how many bytes it has taken, how many seconds it has kept us waiting, and since
    when it does so now, if it does.
    """

    taken: int = 0
    waited: float = 0.0
    since: float | None = None

    def delay(self, now: float) -> float:
        """For how long it has kept us waiting."""
        return self.waited + (now - self.since if self.since is not None else 0.0)

    def left(self, seconds: float, now: float) -> float:
        """How long it may still do so if it may for so many seconds, and for what it has taken."""
        return seconds + self.taken / _PACE - self.delay(now)


class Workers:
    """Answers requests on connections that are handed over for good. `answer` never raises."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._waiting: deque[tuple[socket.socket, Request]] = deque()
        self._serving: dict[socket.socket, _Served] = {}
        self._threads = 0
        self._closed = False

    @property
    def busy(self) -> int:
        """How many connections are being served or wait for it."""
        return len(self._serving) + len(self._waiting)

    def take(self, connection: socket.socket, request: Request) -> bool:
        """Answer this one as soon as there is a worker, and close it. False, and nothing done, when it cannot be."""
        with self._changed:
            if self._threads < WORKERS and self.busy >= self._threads:
                self._start_one()
            if self._closed or not self._threads or self.busy >= self._threads + MOST_WAITING:
                return False
            self._waiting.append((connection, request))
            self._changed.notify()
            return True

    def make_room(self) -> bool:
        """End the answer whose client keeps us waiting longest, if others wait and it has had its time. Whether others
        wait.
        """
        with self._changed:
            if not self._waiting:
                return False
            now = time.monotonic()
            slow = {one: served.delay(now) for one, served in self._serving.items() if served.left(PATIENCE, now) <= 0}
            if slow:
                _shut(max(slow, key=lambda one: slow[one]))
            return True

    def close(self) -> None:
        """End every answer and every thread, without waiting for them."""
        with self._changed:
            self._closed = True
            for connection in self._serving:
                _shut(connection)
            for connection, _ in self._waiting:
                connection.close()
            self._waiting.clear()
            self._changed.notify_all()

    def _start_one(self) -> None:
        try:
            threading.Thread(target=self._work, name="http worker", daemon=True).start()
        except RuntimeError as error:  # the system has no thread for us
            logger.debug("http: no worker more than %d: %s", self._threads, error)
        else:
            self._threads += 1

    def _work(self) -> None:
        while (given := self._next()) is not None:
            connection, request = given
            try:
                self._serve(connection, request, self._serving[connection])
            except OSError as error:
                # The client left, or was too slow: its own affair.
                logger.debug("http: connection ended: %s", error)
            except Exception:
                logger.exception("cannot answer an HTTP request")
            finally:
                with self._changed:
                    del self._serving[connection]
                    connection.close()

    def _next(self) -> tuple[socket.socket, Request] | None:
        with self._changed:
            while not self._waiting:
                if self._closed:
                    return None
                self._changed.wait()
            connection, request = self._waiting.popleft()
            self._serving[connection] = _Served()
            return connection, request

    def _serve(self, connection: socket.socket, request: Request, served: _Served) -> None:
        for data in _pieces(self._answer(request), request):
            begun = time.monotonic()
            connection.settimeout(max(0.01, served.left(WRITE_SECONDS, begun)))
            served.since = begun
            connection.sendall(data)
            served.since, served.taken = None, served.taken + len(data)
            served.waited += time.monotonic() - begun
        _finish(connection)


def _pieces(answer: Answer, request: Request) -> Iterator[bytes]:
    """An answer as it is sent."""
    chunked = request.chunks and not isinstance(answer.body, bytes)
    yield head(answer, chunked=chunked)
    if request.method == "HEAD":
        return
    for piece in (answer.body,) if isinstance(answer.body, bytes) else answer.body:
        if piece:
            yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
    if chunked:
        yield b"0\r\n\r\n"


def _finish(connection: socket.socket) -> None:
    """The answer is complete. What a client has sent beside its request, and nobody has read, would make the system
    take the answer back: it is read until the client has closed, for a moment at most.
    """
    end = time.monotonic() + _LINGER
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.0)
        if connection.recv(MAX_REQUEST):
            while (left := end - time.monotonic()) > 0:
                connection.settimeout(left)
                if not connection.recv(MAX_REQUEST):
                    break
    _shut(connection)


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
