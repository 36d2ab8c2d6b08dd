"""Talking to one daemon: its commands, what their output means, and whose socket it is.

NVIDIA documents no protocol, so the commands go through NVIDIA's client program. It says what went wrong on stdout and
ends with 0 all the same, waits for ever for a daemon that is stopped, and knows other commands in other versions: every
call has a deadline and every output is read for what it should say.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.mps.child import Finished, TookTooLong, finish

PROGRAM: Final = "nvidia-cuda-mps-control"
DEADLINE: Final = 2.0
"""Seconds for a command. It takes 2 ms; the first ones of a daemon up to 120 ms."""

DEVICE: Final = 0
"""A daemon sees one GPU, and that is always number 0. A uuid in its place is accepted, and does nothing."""

_THREADS: Final = "get_default_active_thread_percentage"
_MEMORY: Final = f"get_default_device_pinned_mem_limit {DEVICE}"
_UNKNOWN: Final = "Unknown command"
_UNREACHABLE: Final = ("Cannot find MPS control daemon", "Cannot access CUDA_MPS_PIPE_DIRECTORY")
_BROKEN: Final = ("Cannot authenticate", "Cannot send command")
_ANSWERED: Final = (_THREADS, "set_default_active_thread_percentage")
"""Commands that a daemon never answers with nothing."""

_BETWEEN_TRIES: Final = (0.002, 0.02)
_ONE_TRY: Final = 0.2

_NEEDED: Final = (_THREADS, _MEMORY, "get_server_list")
_GIB: Final = 1024
_PERCENT = re.compile(r"[0-9]{1,3}\.[0-9]")
_AMOUNT = re.compile(r"([0-9]{1,20})([GM])")

_UUID_LENGTH: Final = 40
_LONGEST_SOCKET: Final = 106
"""Bytes. The kernel takes 107, the daemon one less (measured with 535)."""


class ControlError(Exception):
    """A daemon could not be asked; the message says why, and does not change while nothing else does."""


class NoDaemon(ControlError):
    """Nothing listens at this pipe directory."""


class NotHere(NoDaemon):
    """Not even its pipe directory can be seen."""


class NoAnswer(ControlError):
    """There may be a daemon, but it did not answer within the deadline."""


class Unexpected(ControlError):
    """It answered something else than its command promises."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of each client process, as a daemon reads them back: percent of the GPU's threads, MiB of its memory.

    From 1 GiB on the daemon tells whole GiB only, rounded down. `memory` None: there is no limit.
    """

    threads: float
    memory: int | None

    def fits(self, memory: int, threads: int) -> bool:
        """Whether this is what a daemon tells after `set_limits(memory, threads)`."""
        return self.memory == _as_told(memory) and self.threads == threads

    def __str__(self) -> str:
        memory = "no memory limit" if self.memory is None else f"{self.memory} MiB"
        return f"{memory} and {self.threads:g} % of threads"


def _as_told(memory: int) -> int:
    return memory if memory < _GIB else memory - memory % _GIB


class Control:
    """The daemon at the pipe directory `pipe`, asked by way of the client `program`, each time within `deadline` s.

    Every method raises ControlError or one of its kinds.
    """

    def __init__(self, pipe: Path, *, program: str = PROGRAM, deadline: float = DEADLINE) -> None:
        self._pipe = pipe
        self._program = program
        self._deadline = deadline

    async def ask(self, *commands: str) -> list[str]:
        """The lines that the daemon answers to these commands, sent by one client; a command may answer none.

        A daemon that serves one client drops another before it has read anything (measured), and host and agent ask
        the same daemons: who was dropped asks again.
        """
        until = time.monotonic() + self._deadline
        while True:
            finished = await self._run(commands, until - time.monotonic())
            if not _dropped(finished, commands):
                break
            pause = random.uniform(*_BETWEEN_TRIES)
            if time.monotonic() + pause + _ONE_TRY > until:
                raise NoAnswer("it drops every connection")
            await asyncio.sleep(pause)
        if finished.code != 0:
            raise NoAnswer(f"{PROGRAM} failed with {finished.code}: {_gist(finished)}")
        return finished.output.splitlines()

    async def limits(self) -> Limits:
        """The limits that clients get from now on."""
        return parse_limits(await self.ask(_THREADS, _MEMORY))

    async def set_limits(self, memory: int, threads: int) -> None:
        """Give clients that come from now on at most `memory` MiB and `threads` percent."""
        lines = await self.ask(
            f"set_default_active_thread_percentage {threads}",
            f"set_default_device_pinned_mem_limit {DEVICE} {memory}M",
        )
        if lines != [f"{threads:.1f}"]:
            raise Unexpected(f"limits of {memory} MiB and {threads} % of threads are answered {_quote(lines)}")

    async def probe(self) -> None:
        """See whether the daemon knows the commands that we need, by those that change nothing."""
        for line in await self.ask(*_NEEDED):
            if line.startswith(_UNKNOWN):
                raise Unexpected(f"the daemon does not know a command that is needed: {_quote([line])}")

    async def quit(self) -> None:
        """Have the daemon end, which it does a little later. Whether its servers have failed is not told."""
        finished = await self._run(("quit",), self._deadline)
        if finished.errors.startswith(_BROKEN):
            raise NoAnswer(f"the connection broke: {_gist(finished)}")
        if lines := finished.output.splitlines():
            raise Unexpected(f"quit is answered {_quote(lines)}")

    def peer(self) -> int:
        """The pid of the daemon that listens; 0 when it is in a pid namespace that we do not see. Never waits.

        A connection that says nothing holds up the daemon for everybody, so it is closed at once.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK) as connection:
            try:
                connection.connect(os.fspath(self._pipe / "control"))
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
                kind = NoDaemon if self._pipe.is_dir() else NotHere
                raise kind("nothing listens at its socket") from None
            except BlockingIOError:
                raise NoAnswer("it does not accept connections") from None
            except OSError as error:
                raise ControlError(f"cannot connect to its socket: {refusals.words(error)}") from error
            pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        return int(pid)

    async def _run(self, commands: Sequence[str], deadline: float) -> Finished:
        # Nothing of our own environment: CUDA_… there would change what the client does.
        environment = {"PATH": os.environ.get("PATH", os.defpath), "CUDA_MPS_PIPE_DIRECTORY": str(self._pipe)}
        text = "".join(f"{command}\n" for command in commands)
        try:
            finished = await finish([self._program], environment=environment, deadline=deadline, text=text)
        except TookTooLong:
            raise NoAnswer(f"no answer within {self._deadline:g} s") from None
        except OSError as error:
            raise ControlError(f"cannot run {self._program}: {refusals.words(error)}") from error
        if finished.code != 0 and finished.errors.startswith(_UNREACHABLE):
            raise NoDaemon("nothing listens at its socket")
        return finished


def _dropped(finished: Finished, commands: Sequence[str]) -> bool:
    """Whether the daemon has not even read the commands."""
    if finished.code != 0:
        return finished.errors.startswith(_BROKEN) or not (finished.errors or finished.output).strip()
    return not finished.output and commands[0].startswith(_ANSWERED)


def parse_limits(lines: Sequence[str]) -> Limits:
    """What the answers to both readings say. Raises Unexpected."""
    threads, *memory = lines or ("",)
    if not _PERCENT.fullmatch(threads) or len(memory) > 1:
        raise Unexpected(f"reading the limits is answered {_quote(lines)}")
    if not memory:  # how a daemon says that there is no limit
        return Limits(float(threads), None)
    found = _AMOUNT.fullmatch(memory[0])
    if found is None:
        raise Unexpected(f"reading the limits is answered {_quote(lines)}")
    return Limits(float(threads), int(found[1]) * (_GIB if found[2] == "G" else 1))


def check_root(root: Path) -> None:
    """Raises ValueError when the sockets of daemons below this directory would have paths that are too long."""
    room = _LONGEST_SOCKET - len("//pipe/control_privileged") - _UUID_LENGTH
    length = len(os.fsencode(root.absolute()))
    if length > room:
        raise ValueError(
            f"cannot use {root}: its path has {length} bytes, and the sockets below it leave room for {room}"
        )


def _quote(lines: Sequence[str]) -> str:
    return repr(" | ".join(lines)[:200]) if lines else "with nothing"


def _gist(finished: Finished) -> str:
    return repr((finished.errors or finished.output).strip()[:200])
