"""A few threads for the answers that take time: the page, the status, the metrics.

Whoever asks for these can cost no more than this: `WORKERS` answers are made at once and `MOST_WAITING` wait; an
answer has `WRITE_SECONDS` to be taken, and `PATIENCE` where others wait for a worker. The probes are never here
(`http_front.py`), so that nothing has to be kept free for them. Threads are made when they are needed and kept; where
none can be had, those that are there do the work, and without any an answer is refused.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from nodeagent.report.endpoints import Answer
from nodeagent.report.http_messages import Request, head

logger = logging.getLogger(__name__)

WORKERS: Final = 4
MOST_WAITING: Final = 16
WRITE_SECONDS = 10.0

PATIENCE = 1.0
"""Seconds that an answer may take while others wait."""


class Workers:
    """Answers requests on connections that are handed over for good. `answer` never raises."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._waiting: deque[tuple[socket.socket, Request]] = deque()
        self._serving: dict[socket.socket, float] = {}
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
        """End the answer that has taken longest, if others wait and it has had its time. Whether others wait."""
        with self._changed:
            if not self._waiting:
                return False
            since, longest = min(
                ((since, one) for one, since in self._serving.items()), default=(time.monotonic(), None)
            )
            if longest is not None and time.monotonic() - since >= PATIENCE:
                _shut(longest)
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
                self._serve(connection, request)
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
            self._serving[connection] = time.monotonic()
            return connection, request

    def _serve(self, connection: socket.socket, request: Request) -> None:
        deadline = time.monotonic() + WRITE_SECONDS
        for data in _pieces(self._answer(request), request):
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            connection.sendall(data)
        _shut(connection)


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


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
