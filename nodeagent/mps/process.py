"""Processes that are not our children: which one is meant, whether it lives, and which of them belong to MPS.

A pid alone names nobody: it may be another process's by the time of a signal. So a process is its pid and the time at
which it started, and is signalled through a descriptor of its own. What has ended but is not reaped, as under an init
that does not reap, is gone.
"""

from __future__ import annotations

import asyncio
import os
import signal as signals
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

Kind = Literal["daemon", "server", "client"]

_PROC: Final = Path("/proc")
_COMM: Final = b"nvidia-cuda-mps\n"
"""The kernel keeps 15 characters of a name, which are the same for the daemon and its server."""

_PIPE_VARIABLE: Final = b"CUDA_MPS_PIPE_DIRECTORY="


@dataclass(frozen=True, slots=True)
class Process:
    """One process for ever: `start_time` is in clock ticks since the boot."""

    pid: int
    start_time: int

    @classmethod
    def find(cls, pid: int) -> Process | None:
        """The process that has this pid now; None when there is none that lives. Raises OSError where nobody can tell,
        as without a free descriptor: that is no reason to take it for dead.
        """
        data = _stat(pid)
        start_time = None if data is None else parse_stat(data)
        return None if start_time is None else cls(pid, start_time)

    def alive(self) -> bool:
        """Whether it still runs."""
        return Process.find(self.pid) == self

    def parent(self) -> int | None:
        """The pid of its parent, 0 for one that we do not see; None when it has ended. Raises OSError as `find`."""
        data = _stat(self.pid)
        return None if data is None or parse_stat(data) != self.start_time else parse_parent(data)

    def signal(self, number: signals.Signals) -> bool:
        """Send a signal to this process and no other; False when it has ended. Raises PermissionError."""
        descriptor = self._open()
        if descriptor is None:
            return False
        try:
            signals.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    async def ended(self, within: float | None = None) -> bool:
        """Wait until it has ended, at most `within` seconds (None: for ever). Whether it has."""
        descriptor = self._open()
        if descriptor is None:
            return True
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            async with asyncio.timeout(within):
                await ended.wait()
        except TimeoutError:
            return not self.alive()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)
        return True

    def _open(self) -> int | None:
        """A descriptor of this process; None when it has ended. The pid is asked again once the descriptor holds it."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return None
        if self.alive():
            return descriptor
        os.close(descriptor)
        return None


@dataclass(frozen=True, slots=True)
class MpsProcess:
    """A process of MPS: a daemon, a server that a daemon started, or a client that types commands to a daemon.

    `pipe` is its pipe directory; `uuid` names the GPU when that is where we put the daemon of a GPU, else None.
    """

    process: Process
    kind: Kind
    pipe: Path
    uuid: str | None


def mps_processes(root: Path) -> list[MpsProcess]:
    """All processes of MPS whose pipe directory is below `root`; those that we may not look into are left out. Blocks
    for some 10 µs for each process of this machine. Raises OSError where nobody can tell which there are.
    """
    found = []
    for pid in sorted(int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
            if (_PROC / str(pid) / "comm").read_bytes() == _COMM and (seen := _look_into(pid, root)) is not None:
                found.append(seen)
    return found


def _look_into(pid: int, root: Path) -> MpsProcess | None:
    process = Process.find(pid)
    kind = parse_command((_PROC / str(pid) / "cmdline").read_bytes())
    pipe = parse_environment((_PROC / str(pid) / "environ").read_bytes())
    # Last, that what was read is about one process.
    if process is None or kind is None or pipe is None or not process.alive():
        return None
    try:
        below = pipe.relative_to(root.absolute()).parts
    except ValueError:
        return None
    return MpsProcess(process, kind, pipe, below[0] if len(below) == 2 and below[1] == "pipe" else None)


def _stat(pid: int) -> bytes | None:
    """The bytes of /proc/PID/stat; None when there is no such process."""
    if pid <= 0:
        return None
    try:
        return (_PROC / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None


def parse_stat(data: bytes) -> int | None:
    """The start time in the bytes of /proc/PID/stat; None for a process that has ended. A name may hold anything."""
    fields = data[data.rfind(b")") + 1 :].split()
    try:
        state, start_time = fields[0], int(fields[19])
    except (IndexError, ValueError):
        return None
    return None if state in {b"Z", b"X", b"x"} else start_time


def parse_parent(data: bytes) -> int:
    """The pid of the parent in the bytes of /proc/PID/stat that `parse_stat` understands."""
    return int(data[data.rfind(b")") + 1 :].split()[1])


def parse_command(data: bytes) -> Kind | None:
    """What a process is by the bytes of its /proc/PID/cmdline."""
    program, *arguments = data.split(b"\0")
    name = program.rpartition(b"/")[2]
    if name == b"nvidia-cuda-mps-server":
        return "server"
    if name == b"nvidia-cuda-mps-control":
        return "daemon" if {b"-d", b"-f"}.intersection(arguments) else "client"
    return None


def parse_environment(data: bytes) -> Path | None:
    """The pipe directory in the bytes of a /proc/PID/environ."""
    for variable in data.split(b"\0"):
        if variable.startswith(_PIPE_VARIABLE):
            return Path(os.fsdecode(variable.removeprefix(_PIPE_VARIABLE)))
    return None
