"""The one connection to the Kubernetes API, shared by all who speak to it.

It is made when somebody needs it, and made anew, with the certificates and the address of then, when somebody has given
it up. Whoever is in the middle of a request on the old one is let finish: nobody's trouble ends what another sends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from nodeagent.node.api_client import ApiClient

_log = logging.getLogger(__name__)

_CLOSES_WITHIN: Final = 1.0


@dataclass(slots=True)
class _Line:
    api: ApiClient
    users: int = 0


class Connection:
    """`connect` makes a connection or raises ApiProblem."""

    def __init__(self, connect: Callable[[], ApiClient]) -> None:
        self._connect = connect
        self._line: _Line | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[ApiClient]:
        """The connection, for one request. Raises ApiProblem."""
        line = self._line = self._line or _Line(self._connect())
        line.users += 1
        try:
            yield line.api
        finally:
            line.users -= 1
            if line is not self._line and not line.users:
                await _close(line.api)

    async def renew(self) -> None:
        """The next request is to be made on another one."""
        line, self._line = self._line, None
        if line is not None and not line.users:
            await _close(line.api)


async def _close(api: ApiClient) -> None:
    try:
        async with asyncio.timeout(_CLOSES_WITHIN):
            await api.close()
    except Exception as error:  # noqa: BLE001 - it is not needed any more, however it ends
        _log.debug("cannot close a connection to the Kubernetes API: %r", error)
