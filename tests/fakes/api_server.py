"""A small API server of Kubernetes for tests: real HTTP over real TLS on loopback, and faults on demand.

It answers what the agent and `wait --pool` ask for, and nothing else; how objects behave is in `kube_objects`. What is
asked is called as RBAC calls it: `list nodes`, `watch nodes`, `patch nodes`, `create events`, `patch events`. Forbidden
is by 403, an expired token by 401, a watch that is too far behind by an error in its stream, as of the real one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, unquote, urlsplit

import trustme
import yaml

from tests.fakes.kube_objects import Json, Objects, Refused

AGENT_ACCOUNT = "system:serviceaccount:nodeagent:nodeagent"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. `what` is in the words of RBAC, `name` that of the object, `at` in monotonic seconds."""

    what: str
    name: str
    query: dict[str, str]
    body: Json | list[Json]
    at: float


@dataclass(slots=True)
class Fault:
    """What comes instead of an answer: a status (`code`, with `retry_after`, and a `message` of its own), other bytes
    (`raw`, of a `kind`, in an `encoding`), bytes without an end and without a newline (`endless`), the end of the
    connection (`cut`), or nothing at all until the server is closed (`hang`). With `hold` it is the right answer, as
    soon as that is set. `done`: what was asked for has been done all the same.
    """

    code: int = 0
    retry_after: int | str | None = None
    message: str = ""
    raw: bytes = b""
    kind: str = "text/html"
    encoding: str = ""
    endless: bool = False
    hold: asyncio.Event | None = None
    cut: bool = False
    hang: bool = False
    done: bool = False
    times: int = 1


class _Hung(Exception):
    """The connection is left alone."""


@dataclass(slots=True)
class ApiServer:
    """Use with `async with`. Nodes, labels and events are in `objects`, what was asked in `asked`."""

    directory: Path
    objects: Objects = field(default_factory=Objects)
    asked: list[Asked] = field(default_factory=list)
    forbidden: set[str] = field(default_factory=set)
    faults: dict[str, Fault] = field(default_factory=dict)
    deaf: bool = False
    """Watches are open, and nothing comes of them, as over a connection that has died without a word."""
    flooded: int = 0
    """Bytes of answers without an end that have been sent."""
    port: int = 0
    _tokens: int = 0
    _valid: str = ""
    _watches: set[asyncio.Queue[bytes | None]] = field(default_factory=set)
    _names: dict[int, str] = field(default_factory=dict)
    _connections: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None
    _tls: ssl.SSLContext | None = None

    # --- for tests ---

    @property
    def kubeconfig(self) -> Path:
        """How to reach it, by a token in a file of its own."""
        return self.directory / "kubeconfig"

    def count(self, what: str) -> int:
        """How often this was asked."""
        return sum(entry.what == what for entry in self.asked)

    def fail(self, what: str, **fault: object) -> None:
        """The next `times` (1) requests for this get a Fault."""
        self.faults[what] = Fault(**fault)  # type: ignore[arg-type]

    def expire_token(self) -> None:
        """The token of now is not taken any more; the file has another only after `rotate_token`."""
        self._tokens += 1
        self._valid = f"token-{self._tokens}"

    def rotate_token(self) -> None:
        """Put a token into the file that is taken."""
        self.expire_token()
        (self.directory / "token").write_text(self._valid, encoding="utf-8")

    def close_watches(self) -> None:
        """End every watch without an error, as when its time is up."""
        for queue in self._watches:
            queue.put_nowait(None)

    def fail_watches(self) -> None:
        """Tell every watch that it is too far behind, and end it."""
        for queue in self._watches:
            queue.put_nowait(_line("ERROR", Refused(410, "Expired", "too old resource version: 1 (2)").status))
            queue.put_nowait(None)

    @property
    def watches(self) -> int:
        """How many are open."""
        return len(self._watches)

    # --- life ---

    async def start(self) -> None:
        """Listen: on any free port at first, later on the same."""
        if self._tls is None:
            authority = trustme.CA()
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(self._tls)
            self.directory.mkdir(parents=True, exist_ok=True)
            authority.cert_pem.write_to_path(str(self.directory / "ca.crt"))
            self.objects.on_change = self._on_change
            self.rotate_token()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=self._tls, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "agent"}}],
            "clusters": [
                {
                    "name": "test",
                    "cluster": {
                        "server": f"https://127.0.0.1:{self.port}",
                        "certificate-authority": str(self.directory / "ca.crt"),
                    },
                }
            ],
            "users": [{"name": "agent", "user": {"tokenFile": str(self.directory / "token")}}],
        }
        self.kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")

    async def stop(self) -> None:
        """Be away: connections end, new ones are refused. Objects are kept."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- HTTP ---

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except _Hung:
            await asyncio.Event().wait()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client has gone
        except asyncio.CancelledError:
            pass  # by `stop`, which waits for this to end
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer. False: the connection ends."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *lines = head.rstrip().split("\r\n")
        method, target, _ = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (entry.partition(":") for entry in lines)}
        raw = await reader.readexactly(int(headers.get("content-length", 0)))
        url = urlsplit(target)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        what, name = _what(method, [unquote(part) for part in url.path.strip("/").split("/")], query)
        request = Asked(what, name, query, json.loads(raw) if raw else {}, time.monotonic())
        self.asked.append(request)
        if (fault := self.faults.get(what)) is not None and fault.times > 0:
            fault.times -= 1
            if fault.done:
                with suppress(Refused):
                    self._answer(request, headers.get("content-type", ""))
            if fault.hold is None:
                return await self._fail(writer, fault)
            await fault.hold.wait()
        try:
            self._admit(request, headers.get("authorization", ""))
            if what == "watch nodes":
                await self._watch(writer, request)
                return True
            answer = self._answer(request, headers.get("content-type", ""))
        except Refused as refused:
            await _send(writer, refused.code, json.dumps(refused.status).encode())
        else:
            await _send(writer, 201 if what == "create events" else 200, json.dumps(answer).encode())
        return True

    def _admit(self, request: Asked, authorization: str) -> None:
        """Whether who asks is known, and may."""
        if authorization != f"Bearer {self._valid}":
            raise Refused(401, "Unauthorized", "Unauthorized")
        if request.what in self.forbidden:
            verb, resource = request.what.split(" ")
            scope = "at the cluster scope" if resource == "nodes" else 'in the namespace "default"'
            whom = f'User "{AGENT_ACCOUNT}" cannot {verb} resource "{resource}" in API group "" {scope}'
            raise Refused(403, "Forbidden", f'{resource} "{request.name}" is forbidden: {whom}')

    async def _fail(self, writer: asyncio.StreamWriter, fault: Fault) -> bool:
        if fault.hang:
            raise _Hung
        if fault.cut:
            return False
        if fault.endless:
            return await self._flood(writer)
        message = fault.message or f"fault {fault.code}"
        status = Refused(fault.code, HTTPStatus(fault.code).phrase.replace(" ", ""), message).status
        body = fault.raw or json.dumps(status).encode()
        kind = fault.kind if fault.raw else "application/json"
        if (
            fault.code == HTTPStatus.TOO_MANY_REQUESTS and not fault.message
        ):  # by the filter before everything that speaks JSON
            body, kind = b"Too many requests, please try again later.\n", "text/plain; charset=utf-8"
        extra = f"Retry-After: {fault.retry_after}\r\n" if fault.retry_after is not None else ""
        extra += f"Content-Encoding: {fault.encoding}\r\n" if fault.encoding else ""
        await _send(writer, fault.code or 200, body, kind, extra)
        return True

    async def _flood(self, writer: asyncio.StreamWriter) -> bool:
        """Send until the client has had enough; how much is in `flooded`."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        part = b"x" * (1 << 20)
        while not writer.transport.is_closing():
            await _chunk(writer, part)
            self.flooded += len(part)
        return False

    def _answer(self, request: Asked, kind: str) -> Json:
        body = request.body
        if request.what == "list nodes":
            return self._list(request.query)
        if request.what == "patch nodes" and isinstance(body, dict):
            assert kind == "application/apply-patch+yaml", kind
            assert (body["apiVersion"], body["kind"], body["metadata"]["name"]) == ("v1", "Node", request.name), body
            force = request.query.get("force") == "true"
            return self.objects.apply(request.name, body, request.query["fieldManager"], force=force)
        if request.what == "patch nodes" and isinstance(body, list):
            assert kind == "application/json-patch+json", kind
            return self.objects.patch_taints(request.name, body)
        assert isinstance(body, dict)
        if request.what == "create events":
            return self.objects.create_event(body)
        assert kind == "application/merge-patch+json", kind
        return self.objects.patch_event(request.name, body)

    def _list(self, query: dict[str, str]) -> Json:
        """By pages, with a selector of equalities, `key in (a,b)` and keys that must exist."""
        selected = _selector(query.get("labelSelector", ""))
        names = [name for name in self.objects.names() if selected(self.objects.labels(name))]
        begin = int(query.get("continue", "0"))
        end = begin + int(query.get("limit", "500"))
        more = {"continue": str(end)} if end < len(names) else {}
        return {
            "kind": "NodeList",
            "apiVersion": "v1",
            "metadata": {"resourceVersion": str(self.objects.version), **more},
            "items": [self.objects.get(name) for name in names[begin:end]],
        }

    # --- watches ---

    async def _watch(self, writer: asyncio.StreamWriter, request: Asked) -> None:
        name = request.query["fieldSelector"].removeprefix("metadata.name=")
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        if name in self.objects.names():
            queue.put_nowait(_line("ADDED", self.objects.get(name)))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        self._names[id(queue)] = name
        self._watches.add(queue)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(float(request.query["timeoutSeconds"])):
                    while (line := await queue.get()) is not None:
                        await _chunk(writer, line)
            await _chunk(writer, b"")
        finally:
            self._watches.discard(queue)
            del self._names[id(queue)]

    def _on_change(self, change: str, name: str, node: Json) -> None:
        if not self.deaf:
            for queue in self._watches:
                if self._names[id(queue)] == name:
                    queue.put_nowait(_line(change, node))


def _what(method: str, path: list[str], query: dict[str, str]) -> tuple[str, str]:
    match method, path:
        case "GET", ["api", "v1", "nodes"]:
            return ("watch nodes" if query.get("watch") == "true" else "list nodes"), ""
        case "PATCH", ["api", "v1", "nodes", name]:
            return "patch nodes", name
        case "POST", ["api", "v1", "namespaces", "default", "events"]:
            return "create events", ""
        case "PATCH", ["api", "v1", "namespaces", "default", "events", name]:
            return "patch events", name
    raise AssertionError(f"nobody should ask {method} {path}")


def _selector(text: str) -> Callable[[dict[str, str]], bool]:
    """After https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors, a part of it."""
    wanted: dict[str, set[str] | None] = {}
    for part in text.replace("(", "").replace(")", "").split(",") if " in " not in text else [text]:
        if " in " in part:
            key, _, values = part.partition(" in ")
            wanted[key.strip()] = {value.strip() for value in values.strip("() ").split(",")}
        elif part:
            key, equal, value = part.partition("=")
            wanted[key] = {value} if equal else None
    return lambda labels: all(
        key in labels and (values is None or labels[key] in values) for key, values in wanted.items()
    )


def _line(change: str, thing: Json) -> bytes:
    return json.dumps({"type": change, "object": thing}, ensure_ascii=False).encode() + b"\n"


async def _chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
    await writer.drain()


async def _send(
    writer: asyncio.StreamWriter, code: int, body: bytes, kind: str = "application/json", extra: str = ""
) -> None:
    line = f"HTTP/1.1 {code} {HTTPStatus(code).phrase}\r\n"
    head = f"{line}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    writer.write(head.encode() + body)
    await writer.drain()
