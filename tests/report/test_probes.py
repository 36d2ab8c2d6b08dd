"""The kubelet's probes are answered whatever else connects, and whatever else the process has run out of."""

from __future__ import annotations

import errno
import os
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Self

import pytest

from nodeagent.model.snapshot import GpuStatus
from nodeagent.report import http_workers
from nodeagent.report.http_front import MOST_OPEN, PAUSE, RESERVE
from nodeagent.report.http_workers import MOST_WAITING, WORKERS
from tests.report import builders
from tests.report.served import Served, everything
from tests.waiting import eventually_sync

CROWD = 3 * MOST_OPEN
PROBES = 5


@pytest.fixture
def served() -> Iterator[Served]:
    """Serve a node with so many shares that its status does not fit into the system's buffers."""
    found = Served(snapshot=builders.large())
    found.server.start()
    yield found
    found.server.close()


def probed(served: Served) -> None:
    """Ask as the kubelet does, and demand the right answers."""
    for _ in range(PROBES):
        for path in ("/livez", "/readyz"):
            assert served.get(path)[:2] == (200, "ok\n")


@dataclass
class Crowd:
    """Clients that connect and say this; they read nothing and stay."""

    served: Served
    says: bytes
    stack: ExitStack = field(default_factory=ExitStack)

    def come(self, count: int) -> None:
        """Have some more of them. One that is sent away at once has been there all the same."""
        for _ in range(count):
            connection = self.stack.enter_context(self.served.connect())
            try:
                connection.sendall(self.says)
            except OSError:
                continue


@contextmanager
def crowd(served: Served, says: bytes) -> Iterator[Crowd]:
    """A crowd that goes in the end."""
    found = Crowd(served, says)
    with found.stack:
        yield found


@pytest.mark.parametrize(
    "says",
    [
        b"",
        b"G",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n",
        b"GET /status HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: keep-alive\r\n\r\n" * 3,
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"POST /livez HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=["silent", "a byte", "no end", "status", "metrics", "keep-alive", "probes", "a body", "tls"],
)
def test_a_crowd(served: Served, says: bytes) -> None:
    """Hundreds of clients that say little, too much or nothing, and read nothing, cost bounded connections and threads,
    and the probes come through while they come and while they stay.
    """
    threads = threading.active_count()
    with crowd(served, says) as others:
        for _ in range(4):
            others.come(CROWD // 4)
            probed(served)
        assert served.server.open <= MOST_OPEN + WORKERS + MOST_WAITING
        assert threading.active_count() <= threads + WORKERS


def test_a_probe_may_come_in_pieces(served: Served) -> None:
    """A request that takes its time is read as it comes, beside others that do not end."""
    with crowd(served, b"G") as others, served.connect() as probe:
        for part in (b"GE", b"T /liv", b"ez HTTP/1.1\r", b"\nHost: a\r\n\r"):
            probe.sendall(part)
            others.come(MOST_OPEN // 8)
        probe.sendall(b"\n")
        assert everything(probe).startswith(b"HTTP/1.1 200 ")


def test_who_has_been_there_longest_makes_room(served: Served) -> None:
    """A client that has said nothing when too many others have come is the first to go."""
    with served.connect() as first, crowd(served, b"G") as others:
        others.come(MOST_OPEN)
        assert everything(first) == b""


def test_answers_that_hang(served: Served) -> None:
    """Where no answer that takes time comes to its end, the others of that kind are told to try later, and the probes
    are answered.
    """
    go = threading.Event()
    served.snapshot = builders.snapshot(gpus=Hanging(go))
    try:
        with crowd(served, b"GET / HTTP/1.1\r\n\r\n") as others:
            others.come(WORKERS + MOST_WAITING)
            eventually_sync(lambda: served.server.open == WORKERS + MOST_WAITING)
            code, body, headers = served.get("/status")
            assert (code, body, headers["Retry-After"]) == (503, "service unavailable\n", "1")
            probed(served)
    finally:
        go.set()


class Hanging(tuple[GpuStatus, ...]):  # noqa: SLOT001 - it has an attribute
    """GPUs that nobody gets to see before `go`."""

    go: threading.Event

    def __new__(cls, go: threading.Event) -> Self:
        found = super().__new__(cls)
        found.go = go
        return found

    def __iter__(self) -> Iterator[GpuStatus]:
        self.go.wait()
        return super().__iter__()


def test_who_takes_no_answer_makes_room(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not read a large answer lose it to others that wait for theirs, long before its time is over."""
    monkeypatch.setattr(http_workers, "WRITE_SECONDS", 3600.0)
    monkeypatch.setattr(http_workers, "PATIENCE", 0.05)
    with crowd(served, b"GET /status HTTP/1.1\r\n\r\n") as others:
        others.come(2 * WORKERS)
        assert served.get("/metrics")[0] == 200


def test_no_thread_to_be_had(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without threads only the answers that need one are refused; they come back with the threads."""

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert served.get("/metrics")[0] == 503
        probed(served)
        with pytest.raises(OSError, match="can't start new thread"):
            Served().server.start()
    assert served.get("/metrics")[0] == 200


@contextmanager
def without_descriptors(spare: int) -> Iterator[list[int]]:
    """A process that cannot open anything more, once it has used up `spare`; those that are held can be closed."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    highest = max(int(descriptor.name) for descriptor in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + spare, limits[1]))
    try:
        with suppress(OSError):  # too many open files
            while True:
                held.append(os.dup(0))
        for _ in range(spare):
            os.close(held.pop())
        yield held
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("spare", [0, 3])
def test_no_file_descriptor_to_be_had(served: Served, caplog: pytest.LogCaptureFixture, spare: int) -> None:
    """Where the process can open nothing more, half-open connections make room for one another and for the probes, at
    the pace at which they come.
    """
    eventually_sync(lambda: served.get("/livez")[0] == 200)
    address = "127.0.0.1", served.server.port
    with ExitStack() as stack:
        # Made before there are none left; connecting takes none.
        probes = [stack.enter_context(socket.socket()) for _ in range(PROBES)]
        others = iter([stack.enter_context(socket.socket()) for _ in range(PROBES * 10 * RESERVE)])
        with without_descriptors(spare):
            for probe in probes:
                for other in islice(others, 10 * RESERVE):
                    other.connect(address)
                    other.sendall(b"G")
                probe.connect(address)
                probe.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
                assert everything(probe).startswith(b"HTTP/1.1 200 ")
        assert served.server.open <= RESERVE + spare
    assert caplog.records == []
    probed(served)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, "Too many open files"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        OSError(errno.EPERM, "Operation not permitted"),
        MemoryError(),
        RuntimeError("a fault of ours"),
    ],
    ids=repr,
)
def test_accepting_fails(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """As long as nothing can be accepted it is tried now and then, said once, and gone on with afterwards."""
    tries: list[float] = []
    really = socket.socket.accept

    def fail(listener: socket.socket) -> tuple[socket.socket, object]:
        if listener.getsockname()[1] != served.server.port:
            return really(listener)
        tries.append(time.monotonic())
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(socket.socket, "accept", fail)
        with served.connect() as probe:
            probe.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            eventually_sync(lambda: len(tries) >= 4 * (RESERVE + 1))
            patch.undo()
            assert everything(probe).startswith(b"HTTP/1.1 200 ")
    assert tries[-1] - tries[0] >= 3 * PAUSE
    assert len(caplog.records) == 1
    probed(served)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_connection_serves_one_request(served: Served, method: str) -> None:
    """Whatever else was asked for on it."""
    with served.connect() as connection:
        connection.sendall(f"{method} /livez HTTP/1.1\r\nConnection: keep-alive\r\n\r\n".encode() * 2)
        assert everything(connection).count(b"HTTP/1.1 200 ") == 1
