"""Sockets that behave as a kubelet's: they appear at once, and stay behind, stale, when their process ends.

grpcio removes the path that it bound when its server stops, even where another socket has taken that path; a kubelet
that ends by a signal leaves its socket. So each server is bound under a name of its own, and then renamed to where it
is to be found.
"""

from __future__ import annotations

import itertools
import os
import stat
from contextlib import suppress
from pathlib import Path

import grpc
import grpc.aio

from nodeagent.kubelet import names

_serial = itertools.count()


class SocketServer:
    """One gRPC server on one unix socket. `prepare` binds, `publish` makes it reachable, `stop` leaves a stale
    socket.
    """

    def __init__(self, path: Path, handler: grpc.GenericRpcHandler, *, scratch: Path) -> None:
        self._path = path
        self._bound = scratch / f".{os.getpid():x}-{next(_serial):x}"
        self._server = grpc.aio.server(handlers=[handler])

    async def prepare(self) -> None:
        """Bind and serve, unseen as yet. Raises ValueError where the path is too long for a unix socket."""
        for path in (self._path, self._bound):
            if len(os.fsencode(path)) > names.MAX_SOCKET_PATH:
                raise ValueError(f"cannot serve on {path}: longer than {names.MAX_SOCKET_PATH} bytes")
        self._server.add_insecure_port(f"unix:{self._bound}")
        await self._server.start()

    def publish(self) -> None:
        self._bound.rename(self._path)

    async def stop(self) -> None:
        await self._server.stop(None)


def wipe_sockets(directory: Path) -> None:
    """Remove every socket directly in a directory, as the kubelet does at start; files and sub-directories stay."""
    for entry in directory.iterdir():
        with suppress(FileNotFoundError):  # its plugin has removed it meanwhile
            if stat.S_ISSOCK(entry.lstat().st_mode):
                entry.unlink()
