"""The HTTP endpoints and the server's limits."""

from __future__ import annotations

import errno
import hashlib
import http.client
import json
import logging
import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from html import escape

import pytest

from nodeagent.model.snapshot import ConfigState, Snapshot
from nodeagent.report import http_front, http_workers, pages
from nodeagent.report.endpoints import STOPPED
from nodeagent.report.http_messages import MAX_REQUEST
from nodeagent.state.summarize import failing
from tests.report import builders
from tests.report.served import ANSWERS_WITHIN, Served, everything
from tests.waiting import eventually_sync, longer


@pytest.fixture
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Serve a node in sync, or as the test's parameter says."""
    found: Served = getattr(request, "param", None) or Served()
    found.server.start()
    yield found
    found.server.close()


def test_metrics_are_served_for_prometheus(served: Served) -> None:
    """In the text format, with its content type."""
    code, body, headers = served.get("/metrics")
    assert code == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "\nnodeagent_in_sync 1.0\n" in body


def test_status_is_json(served: Served) -> None:
    """The same document as `to_json` makes, whole."""
    code, body, headers = served.get("/status?pretty=1")
    assert code == 200
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["node"] == "gpu-node-1"


def test_a_large_status_arrives_whole(served: Served) -> None:
    """Forty thousand shares are sent while they are told, also to a client of HTTP 1.0."""
    served.snapshot = builders.large()
    _, body, headers = served.get("/status")
    assert headers["Transfer-Encoding"] == "chunked"
    assert sum(len(gpu["shares"]) for gpu in json.loads(body)["gpus"]) == 40_000
    with served.connect() as connection:
        connection.sendall(b"GET /status HTTP/1.0\r\n\r\n")
        head, _, old_body = everything(connection).partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert json.loads(old_body) == json.loads(body)


def test_the_page_may_load_nothing(served: Served) -> None:
    """The browser is told so, too."""
    code, body, headers = served.get("/")
    assert code == 200
    assert body.startswith("<!doctype html>")
    policy = dict(part.strip().split(" ", 1) for part in headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for name, tag in (("script-src", "script"), ("style-src", "style")):
        (inline,) = re.findall(rf"<{tag} [^>]*>(.*?)</{tag}>", body, re.DOTALL)
        assert policy[name] == f"'sha256-{b64encode(hashlib.sha256(inline.encode()).digest()).decode()}'"
    assert policy["connect-src"] == "'self'"
    assert {policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_page_that_is_known_is_not_sent_again(served: Served) -> None:
    """Its ETag stands for what the node is like: 304 as long as that is the same, whatever other tags come with it."""
    _, _, headers = served.get("/")
    tag = headers["ETag"]
    for known in (tag, f"W/{tag}", f'"a", {tag}', "*"):
        code, body, headers = served.get("/", known=known)
        assert (code, body, headers["ETag"]) == (304, "", tag)
        assert headers["Content-Type"] is None
        assert headers["Content-Length"] is None
    assert served.get("/", "HEAD", known=tag)[0] == 304
    for known in ("", '"a"', tag.strip('"'), "x" * 9000):
        assert served.get("/", known=known)[0] == 200
    served.snapshot = builders.troubled()
    code, body, headers = served.get("/", known=tag)
    assert code == 200
    assert "2 errors in the newest document" in body
    assert headers["ETag"] != tag
    for path in ("/status", "/metrics", "/livez"):
        assert served.get(path, known=headers["ETag"])[0] == 200


def test_a_snapshot_that_says_otherwise_has_another_tag(served: Served) -> None:
    """Though it has the number of the one before, as that of an agent whose turns fail."""
    tag = served.get("/")[2]["ETag"]
    assert served.snapshot is not None
    served.snapshot = failing(served.snapshot, "cannot complete a turn", builders.AT)
    code, body, _ = served.get("/", known=tag)
    assert code == 200
    assert "cannot complete a turn" in body


def test_a_loop_that_has_stopped_is_said_on_a_page_that_is_open(served: Served) -> None:
    """Nothing makes another snapshot then: the tag is another one all the same, and again when the loop turns."""
    tag = served.get("/")[2]["ETag"]
    served.alive = False
    code, body, headers = served.get("/", known=tag)
    assert code == 200
    assert f"<strong>Not ready</strong><p>{escape(STOPPED)}" in body
    assert served.get("/", known=headers["ETag"])[0] == 304
    served.alive = True
    assert served.get("/", known=headers["ETag"])[0] == 200
    assert served.get("/", known=tag)[0] == 304


def test_another_agent_has_other_tags(served: Served) -> None:
    """Nobody keeps the page of an agent that has been restarted since."""
    tag = served.get("/")[2]["ETag"]
    other = Served()
    other.server.start()
    try:
        assert other.get("/", known=tag)[0] == 200
    finally:
        other.server.close()


def test_many_who_look_cost_one_page_a_second(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once for all who ask within the same second, and again for the next snapshot."""
    made: list[Snapshot] = []

    def make(snapshot: Snapshot, _now: float) -> str:
        made.append(snapshot)
        return "page"

    monkeypatch.setattr(pages, "page", make)
    assert {served.get("/")[1] for _ in range(20)} == {"page"}
    assert len(made) == 1
    served.snapshot = builders.troubled()
    served.get("/")
    assert len(made) == 2


def test_that_nothing_has_changed_is_said_though_all_workers_are_busy(served: Served) -> None:
    """A page that is open in a browser asks for nothing that slow clients could keep from it."""
    assert served.snapshot is not None
    snapshot, served.snapshot = served.snapshot, builders.large()
    slow = [served.connect() for _ in range(http_workers.WORKERS + http_workers.MOST_WAITING)]
    try:
        for one in slow:
            one.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        eventually_sync(lambda: served.server.open >= len(slow))
        served.snapshot = snapshot
        code, _, headers = served.get("/", known="*")
        assert code == 304
        assert served.get("/", known=headers["ETag"])[0] == 304
    finally:
        for one in slow:
            one.close()


def test_a_path_that_is_not_there_names_those_that_are(served: Served) -> None:
    """404 with a list."""
    code, body, _ = served.get("/healthz")
    assert code == 404
    assert [line.split()[0] for line in body.splitlines()] == ["/", "/status", "/metrics", "/livez", "/readyz"]


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/livez", "/readyz", "/nothing"])
def test_head_is_get_without_a_body(served: Served, path: str) -> None:
    """Same code, same type, no body."""
    code, body, headers = served.get(path, "HEAD")
    assert (code, headers["Content-Type"]) == (served.get(path)[0], served.get(path)[2]["Content-Type"])
    assert body == ""


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_nothing_can_be_changed(served: Served, method: str) -> None:
    """What is not a question is refused."""
    code, _, headers = served.get("/status", method)
    assert (code, headers["Allow"]) == (405, "GET, HEAD")


def test_liveness_is_the_loop_alone(served: Served) -> None:
    """A bad config never restarts the agent; a loop that hangs does."""
    served.snapshot = builders.troubled()
    assert served.get("/livez")[:2] == (200, "ok\n")
    served.alive = False
    assert served.get("/livez")[0] == 503
    assert served.get("/readyz")[0] == 503
    assert served.get("/status")[0] == 200


def test_readiness_is_the_condition_ready(served: Served) -> None:
    """With the reason, when it is not."""
    assert served.get("/readyz")[:2] == (200, "ok\n")
    served.snapshot = builders.snapshot(
        conditions=builders.conditions(
            ConfigAccepted=(False, "ParseError", "tab"), Stalled=(True, "DrainTimeout", "GPU 0")
        )
    )
    assert served.get("/readyz")[0] == 200
    served.snapshot = builders.troubled()
    assert served.get("/readyz")[:2] == (
        503,
        "Ready: NotRegistered: nvidia.com/gpu is foreign: another plugin keeps taking it\n",
    )


@pytest.mark.parametrize("served", [Served(strict=True)], indirect=True)
def test_strict_readiness_is_also_git(served: Served) -> None:
    """A rollout stops at a node that rejects the document or stalls; draining is ready, and each reason is one line."""
    served.snapshot = builders.snapshot(
        conditions=builders.conditions(Draining=(True, "PodsHoldShares", "")), in_sync=False
    )
    assert served.get("/readyz")[0] == 200
    served.snapshot = builders.snapshot(
        conditions=builders.conditions(
            ConfigAccepted=(False, "ParseError", "line\n1"), Stalled=(True, "DrainTimeout", "GPU 0")
        )
    )
    assert served.get("/readyz")[:2] == (503, "ConfigAccepted: ParseError: line 1\nStalled: DrainTimeout: GPU 0\n")
    served.snapshot = builders.snapshot(conditions=())
    assert served.get("/readyz")[1].splitlines()[0] == "Ready: Unknown: not computed yet"


@pytest.mark.parametrize("served", [Served(), Served(strict=True)], indirect=True)
def test_readiness_names_the_mistakes_of_a_first_document(served: Served) -> None:
    """Nobody looks further than the probe's answer: each mistake has its place there, of very many the first ones."""
    wrong = tuple(builders.violation(f"mistake {number}") for number in range(50))
    wrong = (*wrong, replace(builders.violation("206 more mistakes"), stands_for=206))
    path = "/etc/nodeagent/sharing.yaml"
    nothing = (False, "NothingAccepted", f"no sharing config was ever accepted: {wrong[0]} (and 255 more)")
    served.snapshot = builders.snapshot(
        config=ConfigState(path, newest=builders.document("bad"), violations=wrong),
        conditions=builders.conditions(Ready=nothing),
        in_sync=False,
    )
    code, body, _ = served.get("/readyz")
    place = f"{path}:12:17: spec.rules[0].timeSlicing.replicas"
    assert (code, body.splitlines()) == (
        503,
        [
            f"Ready: NothingAccepted: no sharing config was ever accepted: {place}: mistake 0 (and 255 more)",
            *(f"{place}: mistake {number}" for number in range(1, 5)),
            "and 251 more, see /status",
        ],
    )


def test_an_agent_whose_loop_has_stopped_is_not_in_sync(served: Served) -> None:
    """What it answers is as of its last turn, and says so."""
    served.alive = False
    status = json.loads(served.get("/status")[1])
    assert (status["inSync"], status["settled"]) == (False, False)
    assert [one["reason"] for one in status["conditions"] if one["type"] == "Ready"] == ["Failing"]
    assert "as of its last turn" in served.get("/")[1]


@pytest.mark.parametrize("path", ["/", "/status", "/metrics", "/readyz"])
def test_an_agent_that_waits_is_alive_and_nothing_else(served: Served, path: str) -> None:
    """The second agent of a node is not killed for waiting, and does not speak for the node."""
    served.snapshot = None
    assert served.get("/livez")[0] == 200
    code, body, _ = served.get(path)
    assert code == 503
    assert "waiting for the lock" in body


@pytest.mark.parametrize("listen", ["127.0.0.1:0", ":0", "[::1]:0", "[::]:0", "localhost:0"])
def test_it_listens_where_it_is_told(listen: str) -> None:
    """IPv4, IPv6, every address, a name; port 0 is any free one."""
    served = Served(listen=listen)
    assert served.server.port == 0
    served.server.start()
    try:
        host = "::1" if ":" in listen.rpartition(":")[0] else "127.0.0.1"
        with socket.create_connection((host, served.server.port), timeout=longer(ANSWERS_WITHIN)) as connection:
            connection.sendall(b"GET /livez HTTP/1.1\r\n\r\n")
            assert everything(connection).endswith(b"\r\n\r\nok\n")
    finally:
        served.server.close()


def test_a_port_in_use_is_an_error(served: Served) -> None:
    """Starting says so at once."""
    with pytest.raises(OSError, match="in use") as caught:
        Served(listen=f"127.0.0.1:{served.server.port}").server.start()
    assert caught.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("listen", ["9400", "host", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:http", "192.0.2.1:0"])
def test_an_address_that_cannot_be_is_an_error(listen: str) -> None:
    """Also one that is no address."""
    server = Served(listen=listen).server
    with pytest.raises(OSError, match=r"expected host:port|[Cc]annot assign"):
        server.start()


def test_closing_ends_it(served: Served) -> None:
    """The port is free again, open connections end, and closing twice does no harm."""
    port = served.server.port
    with served.connect() as connection:
        eventually_sync(lambda: served.server.open)
        served.server.close()
        served.server.close()
        assert everything(connection) == b""
    again = Served(listen=f"127.0.0.1:{port}")
    again.server.start()
    assert again.get("/livez")[0] == 200
    again.server.close()


def test_a_request_that_drips_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole request has one deadline: a byte now and then does not prolong it."""
    monkeypatch.setattr(http_front, "ANSWER_SECONDS", 0.2)
    with served.connect() as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\n")

        def cut_off() -> bool:
            try:
                connection.sendall(b"X")
            except OSError:
                return True
            return not served.server.open

        eventually_sync(cut_off)


def test_an_answer_that_is_not_taken_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that does not read its answer loses it."""
    monkeypatch.setattr(http_workers, "WRITE_SECONDS", 0.2)
    served.snapshot = builders.large()
    with served.connect() as connection:
        connection.sendall(b"GET /status HTTP/1.1\r\n\r\n")
        eventually_sync(lambda: served.server.open)
        eventually_sync(lambda: not served.server.open)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"y" * MAX_REQUEST, b"431"),
        (b"GET /" + b"y" * MAX_REQUEST, b"431"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET /livez HTTP/7.0\r\n\r\n", b"505"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", b"431"),
        (b"\x16\x03\x01\x02\x00\r\n\r\n", b"400"),
        (b"GET /livez HTTP/1.1\n\n", b"200"),
        (b"GET http://node/livez HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /livez\r\n\r\n", b"200"),
        (b"GET //livez HTTP/1.1\r\n\r\n", b"200"),
        (b"POST /livez HTTP/1.1\r\n\r\n" + b"body\n" * 200, b"405"),
        (b"GET /livez HTTP/1.1\r\n" + b"X: y\r\n" * 99 + b"\r\n", b"200"),
        (b"GET /livez HTTP/one\r\n\r\n", b"400"),
        (b"\r\n\r\n", b"400"),
    ],
)
def test_odd_requests_are_answered(served: Served, request_: bytes, code: bytes) -> None:
    """What is too long or no HTTP gets its code, and nothing else happens."""
    with served.connect() as connection:
        connection.sendall(request_)
        assert everything(connection).split(b"\r\n")[0].split()[1] == code
    assert answered(served)


def test_a_fault_in_an_answer_is_logged_and_told(
    served: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One broken endpoint is a 500, and the others go on."""
    broken = builders.snapshot()
    served.snapshot = builders.snapshot(gpus=(None,))
    code, body, _ = served.get("/")
    assert (code, body) == (500, "internal error: see the agent's log\n")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    served.snapshot = broken
    assert served.get("/")[0] == 200


def test_requests_are_not_logged(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    """Probes every few seconds from the kubelet are no news."""
    caplog.set_level(logging.INFO)
    served.get("/livez")
    served.get("/nothing")
    assert caplog.records == []


def answered(served: Served) -> bool:
    """Whether the probe gets its answer."""
    try:
        return served.get("/livez")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
