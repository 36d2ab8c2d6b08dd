"""What each path answers. Sockets are the server's affair (`http.py`); this only looks at the newest snapshot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from itertools import chain

from nodeagent.model.config import mistakes
from nodeagent.model.moment import Moment
from nodeagent.model.snapshot import Condition, ConfigState, Snapshot
from nodeagent.report import status
from nodeagent.report.dates import dated
from nodeagent.report.metrics import CONTENT_TYPE as METRICS
from nodeagent.report.metrics import Metrics
from nodeagent.report.page import POLICY
from nodeagent.report.pages import Pages
from nodeagent.report.verdict import stopped

TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
JSON = "application/json"

NOT_YET = "not serving yet: starting, or waiting for the lock that another agent of this node holds\n"

STOPPED = "the agent's loop has stopped turning: everything else is as of its last turn"

_PATHS = {
    "/": "the status page",
    "/status": "the status as JSON",
    "/metrics": "the metrics, for Prometheus",
    "/livez": "whether the agent's loop turns",
    "/readyz": "whether the node is served, and if not, why",
}

_MISTAKES = 5
"""Of the newest document, that /readyz has."""

_SLOW = frozenset({"/", "/status", "/metrics"})
"""What takes more than a moment to answer, and is answered with a lot."""

_PAGE_HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, and a body in one piece or in several that are made while they are sent."""

    code: HTTPStatus
    body: bytes | Iterable[bytes]
    content_type: str = TEXT
    headers: Mapping[str, str] = field(default_factory=dict)

    def begun(self) -> Answer:
        """The same, with the first piece of the body made: a fault in it can be told as long as nothing was sent."""
        if isinstance(self.body, bytes):
            return self
        pieces = iter(self.body)
        return replace(self, body=chain([next(pieces, b"")], pieces))


class Endpoints:
    """The answers of one agent. Called from several threads."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        alive: Callable[[], bool],
        metrics: Metrics,
        *,
        strict_readiness: bool,
        clock: Callable[[], Moment],
    ) -> None:
        self._snapshot = snapshot
        self._alive = alive
        self._metrics = metrics
        self._strict = strict_readiness
        self._clock = clock
        self._pages = Pages()

    def at_once(self, method: str, target: str, known: str = "") -> Answer | None:
        """The answer where it is small and takes no time, as those to the probes, and that nothing has changed."""
        path = _path(target)
        if method not in {"GET", "HEAD"} or path not in _SLOW:
            return self.answer(method, target, known)
        # One look: what is newer by the time of a second one would be a whole page.
        snapshot = self._snapshot() if path == "/" and known else None
        tag = self._pages.tag(snapshot, alive=self._alive()) if snapshot is not None else ""
        return _unchanged(tag) if tag and _among(tag, known) else None

    def answer(self, method: str, target: str, known: str = "") -> Answer:
        """The answer to one request; HEAD is answered as GET, and its body not sent. `known` is its If-None-Match."""
        path = _path(target)
        if path not in _PATHS:
            return _text(HTTPStatus.NOT_FOUND, "".join(f"{name:<9} {what}\n" for name, what in _PATHS.items()))
        if method not in {"GET", "HEAD"}:
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, b"only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
        if path == "/livez":
            return self._livez()
        snapshot = self._snapshot()
        if path == "/readyz":
            return self._readyz(snapshot)
        if snapshot is None:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, NOT_YET)
        if path == "/metrics":
            return Answer(HTTPStatus.OK, self._metrics.render(), METRICS)
        now, alive = self._clock(), self._alive()
        if path == "/status":
            shown = dated(snapshot if alive else stopped(snapshot, STOPPED), now)
            return Answer(HTTPStatus.OK, status.render(shown, now.wall), JSON)
        return self._page(snapshot, now, known, alive=alive)

    def _page(self, snapshot: Snapshot, now: Moment, known: str, *, alive: bool) -> Answer:
        tag = self._pages.tag(snapshot, alive=alive)
        if _among(tag, known):
            return _unchanged(tag)
        shown = snapshot if alive else stopped(snapshot, STOPPED)
        return Answer(HTTPStatus.OK, self._pages.page(shown, tag, now), HTML, {**_PAGE_HEADERS, "ETag": tag})

    def _livez(self) -> Answer:
        if self._alive():
            return _text(HTTPStatus.OK, "ok\n")
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the agent's loop has stopped turning\n")

    def _readyz(self, snapshot: Snapshot | None) -> Answer:
        if not self._alive():
            return self._livez()
        if snapshot is None:
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, NOT_YET)
        faults = [_reason(snapshot, "Ready", well=True)]
        if self._strict:
            faults += [_reason(snapshot, "ConfigAccepted", well=True), _reason(snapshot, "Stalled", well=False)]
        lines = [fault for fault in faults if fault is not None]
        if _says_of_document(snapshot, strict=self._strict):
            lines += _mistakes(snapshot.config)
        told = "".join(f"{line}\n" for line in lines)
        return _text(HTTPStatus.SERVICE_UNAVAILABLE, told) if told else _text(HTTPStatus.OK, "ok\n")


def _reason(snapshot: Snapshot, type_: str, *, well: bool) -> str | None:
    """What is wrong with a condition, in one line; None when it is as it should be. One that is not there is not."""
    condition = snapshot.condition(type_) or Condition(type_, not well, "Unknown", "not computed yet")
    if condition.status is well:
        return None
    message = f": {condition.message}" if condition.message else ""
    return " ".join(f"{type_}: {condition.reason}{message}".split())


def _says_of_document(snapshot: Snapshot, *, strict: bool) -> bool:
    """Whether it is the newest document that keeps the node from being ready."""
    return snapshot.config.desired is None or strict


def _mistakes(config: ConfigState) -> Iterator[str]:
    """The mistakes of the newest document but the first, which the condition has; of very many the first ones."""
    yield from (" ".join(f"{violation}".split()) for violation in config.violations[1:_MISTAKES])
    if (more := mistakes(config.violations) - _MISTAKES) > 0:
        yield f"and {more} more, see /status"


def _unchanged(tag: str) -> Answer:
    return Answer(HTTPStatus.NOT_MODIFIED, b"", headers={"ETag": tag})


def _among(tag: str, known: str) -> bool:
    return any(one.strip().removeprefix("W/") in {tag, "*"} for one in known.split(","))


def _path(target: str) -> str:
    path = target.partition("?")[0]
    return "/" + path.lstrip("/") if path.startswith("//") else path


def _text(code: HTTPStatus, text: str) -> Answer:
    return Answer(code, text.encode())
