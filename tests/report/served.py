"""A server for tests, and what it looks at."""

from __future__ import annotations

import http.client
import socket
from dataclasses import dataclass, field

from nodeagent.model.snapshot import Snapshot
from nodeagent.report.http import HttpServer
from nodeagent.report.metrics import Metrics
from tests.report import builders
from tests.waiting import longer

ANSWERS_WITHIN = 30.0


@dataclass
class Served:
    """A server and what it looks at."""

    snapshot: Snapshot | None = field(default_factory=builders.snapshot)
    alive: bool = True
    strict: bool = False
    listen: str = "127.0.0.1:0"

    def __post_init__(self) -> None:
        self.server = HttpServer(
            self.listen,
            snapshot=lambda: self.snapshot,
            alive=lambda: self.alive,
            metrics=Metrics(lambda: self.snapshot, version="0.1.0", clock=builders.clock),
            strict_readiness=self.strict,
            clock=builders.clock,
        )

    def get(self, path: str, method: str = "GET", *, known: str = "") -> tuple[int, str, http.client.HTTPMessage]:
        """(code, body, headers) of one request; `known` is its If-None-Match."""
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=longer(ANSWERS_WITHIN))
        try:
            connection.request(method, path, headers={"If-None-Match": known} if known else {})
            response = connection.getresponse()
            return response.status, response.read().decode(), response.headers
        finally:
            connection.close()

    def connect(self) -> socket.socket:
        """A connection that has not said anything."""
        return socket.create_connection(("127.0.0.1", self.server.port), timeout=longer(ANSWERS_WITHIN))


def everything(connection: socket.socket) -> bytes:
    """All bytes until the other side ends."""
    data = b""
    try:
        while piece := connection.recv(1 << 20):
            data += piece
    except ConnectionResetError:
        pass
    return data
