"""Requests to the Kubernetes API as bytes: when a watch may begin, and how much of an answer is taken in.

An object in etcd is at most 1.5 MiB, and has more as JSON. Whoever sends much more is not an API server, or one in
trouble: what is beyond the bound is not read, and the connection ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Final, cast

import httpx2

from nodeagent.node.api_problem import OddAnswer

DEADLINE: Final = 10.0
"""Seconds within which a request must be answered."""

MOST_OBJECT: Final = 3 << 20
"""Bytes of an answer that is one object, and of a line of a watch."""

MOST_PAGE: Final = 64 << 20
"""Bytes of a part of a list, which is 500 objects."""

_NO_NEWLINES: Final = {"\x85": b"\\u0085", "\u2028": b"\\u2028", "\u2029": b"\\u2029"}
"""In the values of annotations, as they are: whoever splits the text of a watch into lines must not find them."""


class WatchEnded(httpx2.RequestError):
    """lightkube asks again, at once and for ever, when a watch ends without an error."""


class Transport(httpx2.AsyncHTTPTransport):
    """Lets a watch through only after somebody has said whom to tell that it is open: so it is the caller who decides
    when the next one begins. An answer to it begins in time or never. All answers are within bounds.
    """

    watch: Callable[[], None] | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # What is compressed has no bound before it is taken in.
        request.headers["Accept-Encoding"] = "identity"
        if "watch" not in request.url.params:
            response = await super().handle_async_request(request)
            most = MOST_PAGE if request.method == "GET" else MOST_OBJECT
            return await _within(response, lambda parts: _whole(parts, most))
        if self.watch is None:
            raise WatchEnded("the watch has ended", request=request)
        async with asyncio.timeout(DEADLINE):
            response = await super().handle_async_request(request)
            if response.status_code != HTTPStatus.OK:
                response = await _within(response, lambda parts: _whole(parts, MOST_OBJECT))
                await response.aread()  # why not
        if response.status_code == HTTPStatus.OK:
            self.watch()
            response = await _within(response, _lines)
        if response.status_code != HTTPStatus.UNAUTHORIZED:  # else it is asked once more, with the token of now
            self.watch = None
        return response


class _Bounded(httpx2.AsyncByteStream):
    def __init__(
        self, stream: httpx2.AsyncByteStream, take: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
    ) -> None:
        self._stream = stream
        self._take = take

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._take(aiter(self._stream))

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _within(
    response: httpx2.Response, take: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]
) -> httpx2.Response:
    """The answer, read through `take`."""
    stream = cast("httpx2.AsyncByteStream", response.stream)
    if (encoding := response.headers.get("Content-Encoding", "identity")) != "identity":
        await stream.aclose()
        raise OddAnswer(f"the answer is encoded as {encoding[:20]!r}, which nobody has asked for")
    response.stream = _Bounded(stream, take)
    return response


async def _whole(parts: AsyncIterator[bytes], most: int) -> AsyncIterator[bytes]:
    size = 0
    async for part in parts:
        size += len(part)
        if size > most:
            raise OddAnswer(f"the answer has more than {most >> 20} MiB")
        yield part


async def _lines(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Line by line: what is yielded ends a line, but for the end of what was sent."""
    line = bytearray()
    async for part in parts:
        *ended, rest = part.split(b"\n")
        for end in ended:
            line += end
            if len(line) > MOST_OBJECT:
                break
            yield _plain(bytes(line)) + b"\n"
            line.clear()
        line += rest
        if len(line) > MOST_OBJECT:
            raise OddAnswer(f"a line of the watch has more than {MOST_OBJECT >> 20} MiB")
    if line:
        yield _plain(bytes(line))


def _plain(line: bytes) -> bytes:
    for character, escape in _NO_NEWLINES.items():
        line = line.replace(character.encode(), escape)
    return line
