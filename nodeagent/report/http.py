"""The HTTP server: where it listens, and its start and end.

What it answers is in `endpoints.py`. Who serves is in `http_front.py`, a thread that waits for nobody and answers the
probes, and in `http_workers.py`, for what takes time.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from typing import Final

from nodeagent import clocks
from nodeagent.model.moment import Moment
from nodeagent.model.snapshot import Snapshot
from nodeagent.report.endpoints import Endpoints
from nodeagent.report.http_front import Front
from nodeagent.report.metrics import Metrics

_BACKLOG: Final = 1024
_CLOSES_WITHIN: Final = 0.5


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
        clock: Callable[[], Moment] = clocks.now,
    ) -> None:
        self._listen = listen
        self._endpoints = Endpoints(snapshot, alive, metrics, strict_readiness=strict_readiness, clock=clock)
        self._front: Front | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen and serve. Raises OSError: the address is not `host:port`, is not this machine's, or is in use; or
        there is no thread to be had.
        """
        front = Front(bind(self._listen), self._endpoints)
        self._thread = threading.Thread(target=front.run, name="http", daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            front.end()
            raise OSError(errno.EAGAIN, str(error)) from error
        self._front = front

    @property
    def port(self) -> int:
        """The port that is listened on while started, else 0."""
        return self._front.port if self._front is not None else 0

    @property
    def open(self) -> int:
        """How many connections are open."""
        return self._front.open if self._front is not None else 0

    def close(self) -> None:
        """Stop listening and end every connection. Nothing happens when not started."""
        front, self._front = self._front, None
        if front is not None and self._thread is not None:
            front.stop()
            self._thread.join(_CLOSES_WITHIN)


def bind(listen: str) -> socket.socket:
    """A socket that listens there. Raises OSError, as `HttpServer.start` does."""
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
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
