"""Answers that take time: what a client may cost, and what is no fault of it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from nodeagent.report import http_workers
from nodeagent.report.endpoints import Answer
from nodeagent.report.http_messages import Request
from nodeagent.report.http_workers import WORKERS, Workers
from tests.waiting import eventually_sync

PIECE = b"x" * 65536
PIECES = 200
REQUEST = Request("GET", "/status", chunks=False)


class Made:
    """An answer of many pieces, the second of which takes as long to make as the test likes."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = 0

    def answer(self, _request: Request) -> Answer:
        return Answer(HTTPStatus.OK, self._pieces())

    def _pieces(self) -> Iterator[bytes]:
        yield b"first"
        self.begun += 1
        self.go.wait()
        for _ in range(PIECES):
            yield PIECE


@pytest.fixture
def made() -> Iterator[Made]:
    """One that is made in the end."""
    found = Made()
    yield found
    found.go.set()


def ask(workers: Workers) -> socket.socket:
    """A client whose request has been read."""
    ours, client = socket.socketpair()
    assert workers.take(ours, REQUEST)
    return client


def read(client: socket.socket) -> int:
    """How many bytes come until the end."""
    total = 0
    with client:
        while data := client.recv(1 << 20):
            total += len(data)
    return total


def busy_for_longer_than_allowed(workers: Workers, made: Made) -> list[socket.socket]:
    """All workers make an answer, one client more waits for its own, and patience with clients is over."""
    clients = [ask(workers) for _ in range(WORKERS + 1)]
    eventually_sync(lambda: made.begun == WORKERS)
    late = time.monotonic() + 2 * http_workers.PATIENCE
    eventually_sync(lambda: time.monotonic() >= late)
    assert workers.make_room()
    return clients


def test_who_reads_loses_nothing_however_long_we_take(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time that an answer takes to be made is not its client's, also while others wait for theirs."""
    monkeypatch.setattr(http_workers, "PATIENCE", 0.05)
    workers = Workers(made.answer)
    clients = busy_for_longer_than_allowed(workers, made)
    made.go.set()
    assert all(read(client) > PIECES * len(PIECE) for client in clients)
    workers.close()


def test_who_does_not_read_makes_room_for_who_does(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that takes nothing of what has been made loses it to one that waits."""
    monkeypatch.setattr(http_workers, "PATIENCE", 0.05)
    workers = Workers(made.answer)
    *silent, reader = busy_for_longer_than_allowed(workers, made)
    made.go.set()
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(read(reader)))
    thread.start()
    eventually_sync(lambda: not workers.make_room())
    thread.join()
    assert found[0] > PIECES * len(PIECE)
    for client in silent:
        client.close()
    workers.close()


def test_only_as_many_answers_as_workers_are_kept(made: Made) -> None:
    """What is shown by an answer is kept while it is sent; one that waits for a worker is not begun."""
    workers = Workers(made.answer)
    clients = [ask(workers) for _ in range(WORKERS + 10)]
    eventually_sync(lambda: made.begun == WORKERS)
    assert workers.busy == WORKERS + 10
    made.go.set()
    assert all(read(client) > PIECES * len(PIECE) for client in clients)
    assert made.begun == WORKERS + 10
    workers.close()


def test_a_client_that_has_sent_too_much_gets_its_whole_answer(made: Made) -> None:
    """Bytes that nobody reads would make the system take back what it has not delivered yet."""
    workers = Workers(made.answer)
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    made.go.set()
    assert workers.take(ours, REQUEST)
    got = client.recv(1 << 16)
    eventually_sync(lambda: made.begun == 1)
    rest = read(client)
    assert got.startswith(b"HTTP/1.1 200")
    assert len(got) + rest > PIECES * len(PIECE)
    workers.close()
