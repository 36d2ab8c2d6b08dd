"""Unix sockets by their path: how they are named to gRPC, and how one process's socket is told from its successor's.

The kubelet announces a restart by nothing but a new `kubelet.sock`. Its identity, and whether anybody answers behind a
path, are asked here in one way for registration and PodResources.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from nodeagent import refusals

LOCAL_CHANNEL: Final[Sequence[tuple[str, int]]] = (("grpc.use_local_subchannel_pool", 1),)
"""Else channels to one target share a connection and the wait after a refused one, which a new kubelet must not pay."""


def target(path: Path) -> str:
    """The gRPC target of a unix socket; gRPC takes it for a URI, so that `%` and spaces are quoted."""
    return f"unix:{quote(str(path))}"


def identity(path: Path) -> str | None:
    """What stays the same as long as this socket is bound, and differs for the next one. None: there is no socket.

    The inode alone does not do, since file systems give a freed one out again at once. The time is that of the last
    modification, which binding sets: that of the last change also moves when somebody only labels or chmods the socket.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_dev}:{found.st_ino}:{found.st_mtime_ns}" if stat.S_ISSOCK(found.st_mode) else None


def absence(path: Path) -> tuple[str, bool]:
    """Why there is no identity: in words, and whether it is that nobody lets us look."""
    try:
        found = path.stat()
    except FileNotFoundError:
        hint = "" if path.parent.is_dir() else f" (there is no directory {path.parent})"
        return f"no {path}: waiting for the kubelet{hint}", False
    except OSError as error:
        return f"cannot look at {path}: {refusals.words(error, path)}", error.errno in refusals.DENIED
    if stat.S_ISSOCK(found.st_mode):
        return f"no {path}: waiting for the kubelet", False  # it came this moment
    return f"no {path}: it is {refusals.kind(found.st_mode)} and no socket; waiting for the kubelet", False


def refusal(path: Path) -> OSError | None:
    """Why nobody can connect to the socket; None where it can be done, by us at least. gRPC does not say."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except OSError as error:
            return error
    return None


def unconnected(error: OSError, path: Path) -> str:
    """Why nobody can connect to it, in words."""
    if error.errno == errno.EAGAIN:
        return f"{refusals.words(error, path)}: whoever listens takes no connection, its queue is full"
    return refusals.words(error, path)


def bind_refusal(path: Path) -> OSError | None:
    """Why no socket can be made at the path; None where one can. What was made for that is removed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(str(path))
            path.unlink(missing_ok=True)
        except OSError as error:
            return error
    return None


async def prove(path: Path, within: float) -> None:
    """Connect to the socket through its path. Raises OSError: nobody listens (TimeoutError: not `within` seconds)."""
    async with asyncio.timeout(within):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()


def deserted(path: Path) -> bool:
    """Whether the path is a socket that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        return probe.connect_ex(str(path)) == errno.ECONNREFUSED and identity(path) is not None
