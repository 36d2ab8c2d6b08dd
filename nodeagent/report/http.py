"""The HTTP server: sockets, threads and limits. What it answers is in `endpoints.py`.

Anybody in the cluster can connect, so nothing that a client does may cost more than a little for a little while: at
most `WORKERS` connections are served at once; a request has `READ_SECONDS` to arrive as a whole, an answer
`WRITE_SECONDS` to be taken; when all workers are busy, the connection that has been there longest makes room, so that
clients which hold theirs open cannot keep the kubelet's probes out. One request per connection. The standard library's
ThreadingHTTPServer has none of these limits, but its request parser is used.
"""

from __future__ import annotations

import errno
import io
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any

from nodeagent.model.snapshot import Snapshot
from nodeagent.report.endpoints import Answer, Endpoints
from nodeagent.report.metrics import Metrics

logger = logging.getLogger(__name__)

WORKERS = 8
READ_SECONDS = 5.0
WRITE_SECONDS = 10.0
MAX_REQUEST = 16 * 1024
"""Bytes of a request's line and headers together; a body is never read."""

PATIENCE = 1.0
"""Seconds that a connection may be there before it has to make room for another."""


class HttpServer:
    """Serves one agent's endpoints from daemon threads.

    `listen` is `host:port` (`[::]:9400`; `:9400` for all addresses; port 0 for any free one). `snapshot` gives the
    newest one, None before the first; `alive` tells whether the loop still turns.
    """

    def __init__(
        self,
        listen: str,
        *,
        snapshot: Callable[[], Snapshot | None],
        alive: Callable[[], bool],
        metrics: Metrics,
        strict_readiness: bool,
    ) -> None:
        self._listen = listen
        self._endpoints = Endpoints(snapshot, alive, metrics, strict_readiness=strict_readiness)
        self._listener: socket.socket | None = None
        self._connections: dict[socket.socket, float] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        """Listen and serve. Raises OSError: the address is not `host:port`, is not this machine's, or is in use."""
        listener = _bind(self._listen)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), name="http", daemon=True).start()

    @property
    def port(self) -> int:
        """The port that is listened on while started, else 0."""
        if self._listener is None:
            return 0
        port: int = self._listener.getsockname()[1]
        return port

    def close(self) -> None:
        """Stop listening and end every connection. Nothing happens when not started."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # Closing alone does not wake the thread that is in `accept`.
            _shut(listener)
            listener.close()
        with self._lock:
            for connection in self._connections:
                _shut(connection)

    def _accept(self, listener: socket.socket) -> None:
        while self._listener is listener:
            try:
                connection, _ = listener.accept()
            except OSError as error:
                if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}:
                    time.sleep(0.1)  # the connection stays in the queue, so accept would fail again at once
                continue
            if self._admit(connection):
                threading.Thread(target=self._serve, args=(connection,), name="http worker", daemon=True).start()
            else:
                _refuse(connection)

    def _admit(self, connection: socket.socket) -> bool:
        """Whether one more is served. Who makes room is gone in a moment, so there may be a few more than WORKERS."""
        now = time.monotonic()
        with self._lock:
            if len(self._connections) >= WORKERS:
                oldest, since = next(iter(self._connections.items()))
                if now - since < PATIENCE or len(self._connections) >= 2 * WORKERS:
                    return False
                _shut(oldest)
            self._connections[connection] = now
            return True

    def _serve(self, connection: socket.socket) -> None:
        try:
            _Request(connection, self._endpoints)
        except OSError as error:
            # The client left, or was too slow: its own affair.
            logger.debug("http: connection ended: %s", error)
        except Exception:
            logger.exception("cannot answer an HTTP request")
        finally:
            with self._lock:
                self._connections.pop(connection, None)
            _shut(connection)
            connection.close()


class _Request(BaseHTTPRequestHandler):
    """One connection and its one request, read as a whole before it is looked at."""

    protocol_version = "HTTP/1.1"
    # The base class would answer what it cannot parse as in HTTP 0.9, without a status line.
    default_request_version = "HTTP/1.0"

    def __init__(self, connection: socket.socket, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        server: Any = None  # the handler does not use it
        super().__init__(connection, "client", server)

    def setup(self) -> None:
        self.connection = self.request
        self._head = _read_head(self.connection)
        self._deadline = time.monotonic() + WRITE_SECONDS
        self.connection.settimeout(WRITE_SECONDS)
        self.rfile = io.BytesIO(self._head)
        self.wfile = io.BytesIO()  # collects the headers; bodies go to the socket directly

    def handle(self) -> None:
        self.close_connection = True
        self.requestline, self.request_version, self.command = "", self.protocol_version, ""
        if len(self._head) > MAX_REQUEST:
            self.send_error(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif self._head:
            self.raw_requestline = self.rfile.readline(MAX_REQUEST)
            if self.parse_request():
                self._answer()
        self._flush()

    def finish(self) -> None:
        """There is nothing to end: the server closes the connection."""

    def _answer(self) -> None:
        try:
            answer = self._endpoints.answer(self.command, self.path)
            pieces = iter((answer.body,) if isinstance(answer.body, bytes) else answer.body)
            # Made before the status line goes out, so that a fault can still be told.
            first = next(pieces, b"")
        except Exception:
            logger.exception("cannot answer %s %r", self.command, self.path)
            answer = Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"internal error: see the agent's log\n")
            first, pieces = b"internal error: see the agent's log\n", iter(())
        whole = isinstance(answer.body, bytes)
        chunked = not whole and self.request_version == "HTTP/1.1"
        self.send_response(answer.code)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if whole:
            self.send_header("Content-Length", str(len(first)))
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self._send_body(first, pieces, chunked=chunked)

    def _send_body(self, first: bytes, pieces: Iterator[bytes], *, chunked: bool) -> None:
        piece: bytes | None = first
        while piece is not None:
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                self._flush()
            piece = next(pieces, None)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _flush(self) -> None:
        """Send what was written; all of an answer has one deadline. Raises OSError."""
        assert isinstance(self.wfile, io.BytesIO)  # noqa: S101 - as made in `setup`
        data, self.wfile = self.wfile.getvalue(), io.BytesIO()
        if data:
            self.connection.settimeout(max(0.01, self._deadline - time.monotonic()))
            self.connection.sendall(data)

    def version_string(self) -> str:
        return "nodeagent"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class calls it so
        logger.debug("http: %s", format % args)


def _read_head(connection: socket.socket) -> bytes:
    """The request up to the empty line; more than MAX_REQUEST bytes when it is too long. Raises OSError."""
    head = b""
    deadline = time.monotonic() + READ_SECONDS
    while b"\r\n\r\n" not in head and b"\n\n" not in head and len(head) <= MAX_REQUEST:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not arrive in time")
        connection.settimeout(left)
        data = connection.recv(MAX_REQUEST + 1)
        if not data:
            return b""
        head += data
    return head


def _bind(listen: str) -> socket.socket:
    host, colon, port = listen.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise OSError(errno.EINVAL, f"expected host:port, got {listen!r}")
    host = host.removeprefix("[").removesuffix("]")
    family, kind, protocol, _, address = socket.getaddrinfo(
        host or None, int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # `[::]` is every address, the IPv4 ones too.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def _shut(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _refuse(connection: socket.socket) -> None:
    """Say "try later" without waiting for anything, the request included."""
    with connection, suppress(OSError):
        connection.setblocking(False)
        connection.send(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
