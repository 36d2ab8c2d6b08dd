"""What goes over an HTTP connection: the one request that is read from it, and the head of the answer.

The parser is our own because the standard library's reads from a blocking file and builds an e-mail message of the
headers. Of these only `If-None-Match` is read; the others are counted, and a request costs a few microseconds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from nodeagent.report.endpoints import Answer

MAX_REQUEST: Final = 16 * 1024
"""Bytes of a request's line and headers together; a body is never read."""

MOST_HEADERS: Final = 100

_EMPTY_LINE: Final = re.compile(rb"\r?\n\r?\n")
_KNOWN: Final = re.compile(rb"\nif-none-match:([^\r\n]*)", re.IGNORECASE)
_VERSION: Final = re.compile(r"HTTP/([0-9]{1,4})\.([0-9]{1,4})")


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `chunks`: whether the answer may come in chunks, which HTTP 1.0 does not know. `known`: the tags of
    answers that the client has, as `If-None-Match` says them.
    """

    method: str
    target: str
    chunks: bool
    known: str = ""


def is_whole(head: bytes | bytearray) -> bool:
    """Whether what has been read needs no more: it has its empty line, or is too long anyway."""
    return len(head) > MAX_REQUEST or b"\r\n\r\n" in head or b"\n\n" in head


def parse(head: bytes) -> Request | HTTPStatus:
    """The request, or what is wrong with it."""
    lines = _EMPTY_LINE.split(head, 1)[0]
    if len(head) > MAX_REQUEST or lines.count(b"\n") > MOST_HEADERS:
        return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
    words = head.partition(b"\n")[0].decode("latin-1").split()
    if len(words) not in {2, 3}:
        return HTTPStatus.BAD_REQUEST
    method, target = words[:2]
    version = _VERSION.fullmatch(words[2]) if len(words) == 3 else None
    if version is None:
        # A line without a version is of HTTP 0.9, which knows GET alone; it is answered as HTTP 1.0.
        return Request(method, target, chunks=False) if words[2:] == [] and method == "GET" else HTTPStatus.BAD_REQUEST
    number = int(version[1]), int(version[2])
    if number >= (2, 0):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    known = _KNOWN.search(lines)
    return Request(method, target, number >= (1, 1), known[1].decode("latin-1") if known is not None else "")


def refusal(status: HTTPStatus) -> Answer:
    """The answer to what is no request, or cannot be answered now."""
    headers = {"Retry-After": "1"} if status is HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Answer(status, f"{status.phrase.lower()}\n".encode(), headers=headers)


def head(answer: Answer, *, chunked: bool) -> bytes:
    """Status line and headers of an answer, with the empty line."""
    unchanged = answer.code is HTTPStatus.NOT_MODIFIED
    fields = {
        "Server": "nodeagent",
        "Date": formatdate(usegmt=True),
        **({} if unchanged else {"Content-Type": answer.content_type}),
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        **answer.headers,
    }
    if unchanged:
        pass  # it has no body, and its length would be taken for that of the page
    elif isinstance(answer.body, bytes):
        fields["Content-Length"] = str(len(answer.body))
    elif chunked:
        fields["Transfer-Encoding"] = "chunked"
    fields["Connection"] = "close"
    lines = [
        f"HTTP/1.1 {answer.code.value} {answer.code.phrase}",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return "\r\n".join((*lines, "", "")).encode("latin-1")
