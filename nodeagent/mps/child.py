"""Running a program to its end, under a deadline: what hangs is killed, what has ended is reaped, nothing is inherited.

asyncio's own subprocesses cost a thread each, which reaps the child whenever it likes: whoever kills it then may hit
another process of the same number. Here a pidfd tells the loop of the end, and the child is reaped here, after the last
signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Final

MOST_OUTPUT: Final = 64 * 1024
"""Bytes of each stream that are kept; a program that says more is killed."""

_AFTER_KILL: Final = 1.0


class TookTooLong(Exception):
    """The program had not ended within its deadline and was killed, with all that it had started in its session."""


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: `code` is negative for a signal."""

    code: int
    output: str
    errors: str


async def finish(
    command: Sequence[str], *, environment: Mapping[str, str], deadline: float, text: str = ""
) -> Finished:
    """Run `command` with `text` (less than a pipe holds) on its stdin, in a session of its own, until it ends.

    Raises OSError when it cannot be started, and TookTooLong. A caller that is cancelled leaves nothing behind.
    """
    child = subprocess.Popen(  # noqa: S603, ASYNC220 - our own command; returns when it has been executed
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(environment),
        start_new_session=True,
    )
    try:
        pidfd = _pidfd(child)
        try:
            return await _attend(child, pidfd, text, deadline)
        finally:
            os.close(pidfd)
    finally:
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


def _pidfd(child: subprocess.Popen[bytes]) -> int:
    try:
        return os.pidfd_open(child.pid)
    except OSError:
        _kill(child)
        child.wait()
        raise


async def _attend(child: subprocess.Popen[bytes], pidfd: int, text: str, deadline: float) -> Finished:
    assert child.stdin is not None  # noqa: S101 - for the types: all three are pipes
    assert child.stdout is not None  # noqa: S101
    assert child.stderr is not None  # noqa: S101
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    output, errors = (_Stream(loop, stream, child) for stream in (child.stdout, child.stderr))
    try:
        with suppress(BrokenPipeError):
            child.stdin.write(text.encode())
            child.stdin.close()
        try:
            async with asyncio.timeout(deadline):
                await ended.wait()
        except TimeoutError:
            raise TookTooLong(f"no answer within {deadline:g} s") from None
        # The end of its streams is not waited for: what it has left running, a daemon above all, may hold them.
        said = output.rest(), errors.rest()
        return Finished(child.wait(), *said)
    finally:
        output.close()
        errors.close()
        if child.returncode is None:
            _kill(child)
            # Asleep in the kernel it does not even die: then it is left to be reaped by the next Popen.
            with suppress(TimeoutError):
                async with asyncio.timeout(_AFTER_KILL):
                    await ended.wait()
            child.poll()
        loop.remove_reader(pidfd)


def _kill(child: subprocess.Popen[bytes]) -> None:
    """Kill its whole session. It has not been reaped, so that its number is still its own."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


class _Stream:
    """What a child says on one stream, read as it comes, so that it never waits for us."""

    def __init__(self, loop: asyncio.AbstractEventLoop, stream: IO[bytes], child: subprocess.Popen[bytes]) -> None:
        self._loop = loop
        self._descriptor = stream.fileno()
        self._child = child
        self._data = bytearray()
        os.set_blocking(self._descriptor, False)
        loop.add_reader(self._descriptor, self._read)

    def _read(self) -> None:
        while len(self._data) <= MOST_OUTPUT:
            try:
                piece = os.read(self._descriptor, MOST_OUTPUT)
            except BlockingIOError:
                return
            if not piece:
                self.close()
                return
            self._data += piece
        self.close()
        _kill(self._child)

    def rest(self) -> str:
        """All that it has said until now."""
        self._read()
        return self._data[:MOST_OUTPUT].decode(errors="replace")

    def close(self) -> None:
        self._loop.remove_reader(self._descriptor)
