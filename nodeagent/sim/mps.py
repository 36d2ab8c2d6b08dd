"""MPS on the demo's node: which control program runs there, what its daemons are, and that nothing of them stays.

NVIDIA's own program is taken where there is one, since it runs without a GPU; elsewhere the stand-in of `mps_control`.
Daemons and the process that hosts them outlive an agent by design, and a demo by nobody's wish: all of them are ended,
each known by the MPS root that it was started for.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nodeagent.errors import CannotStart
from nodeagent.mps.control import PROGRAM, Control, Limits
from nodeagent.mps.files import Layout
from nodeagent.mps.process import Process, mps_processes
from nodeagent.sim import mps_control

STAND_IN = "stand-in"
"""What is asked for by who wants the stand-in whatever is on PATH."""

_TRY_SECONDS = 10.0
_STOP_SECONDS = 6.0
_END_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class ControlProgram:
    """The program that daemons are started with and asked by; `told` says which one it is."""

    path: str
    told: str


def choose(asked: str | None, folder: Path) -> ControlProgram:
    """The program that was asked for: a path, a name on PATH or `STAND_IN`; without wishes NVIDIA's if it is there and
    runs, else the stand-in, made in `folder`. Blocks. Raises CannotStart, OSError.
    """
    if asked is None:
        found = shutil.which(PROGRAM)
        if found is not None and not _fault(found):
            return ControlProgram(found, f"NVIDIA's own program, {found}")
        why = f"{PROGRAM} is not on PATH" if found is None else f"{found} does not run"
        return ControlProgram(str(write_stand_in(folder)), f"a stand-in, since {why}")
    if asked == STAND_IN:
        return ControlProgram(str(write_stand_in(folder)), "a stand-in, as asked for")
    found = shutil.which(asked)
    if found is None:
        raise CannotStart(f"cannot find {asked}: there is no such program")
    return ControlProgram(str(Path(found).absolute()), f"the program that was asked for, {found}")


def write_stand_in(folder: Path) -> Path:
    """Make the stand-in in `folder`, and see that it runs. Blocks. Raises CannotStart, OSError.

    A process is recognised by its name and its first word: both are those of NVIDIA's program where a script of this
    name is run by an interpreter of this name.
    """
    program, interpreter = folder / "bin" / PROGRAM, folder / "python" / PROGRAM
    for path in (program, interpreter):
        path.parent.mkdir(parents=True, exist_ok=True)
    # Through a virtual environment's own link the interpreter would not find its library under another name.
    interpreter.symlink_to(getattr(sys, "_base_executable", "") or sys.executable)
    source = Path(mps_control.__file__).read_text(encoding="utf-8")
    program.write_text(f"#!{interpreter} -IS\n{source}", encoding="utf-8")
    program.chmod(0o755)
    if fault := _fault(str(program)):
        raise CannotStart(f"cannot run programs in {folder} ({fault}): set TMPDIR to where that is allowed")
    return program


def _fault(program: str) -> str:
    """Why a control program cannot even tell its usage; empty when it can."""
    try:
        done = subprocess.run(
            [program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TRY_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return "it does not end"
    except OSError as error:
        return error.strerror or str(error)
    said = done.stderr.decode(errors="replace").strip()
    return f"exit code {done.returncode}: {said[-200:]}" if done.returncode else ""


class Daemons:
    """The daemons below one MPS root, asked by way of the control program `program`."""

    def __init__(self, root: Path, program: str) -> None:
        self._layout = Layout(root)
        self._program = program

    def find(self, uuid: str) -> Process | None:
        """The daemon of a GPU."""
        found = (one for one in mps_processes(self._layout.root) if one.kind == "daemon" and one.uuid == uuid)
        return next((one.process for one in found), None)

    async def limits(self, uuid: str) -> Limits:
        """What the daemon of a GPU gives each client, from itself. Raises ControlError."""
        return await Control(self._layout.pipe(uuid), program=self._program).limits()


async def end_all(root: Path) -> None:
    """End the MPS host of this root, and then every process of MPS below it; returns when there is none."""
    hosts = _hosts(root)
    await _end(hosts, _STOP_SECONDS)
    for host in hosts:
        with suppress(ChildProcessError):  # it may be the child of another agent than ours
            os.waitpid(host.pid, os.WNOHANG)  # noqa: ASYNC222 - does not wait
    deadline = time.monotonic() + _STOP_SECONDS
    while (found := [one.process for one in mps_processes(root)]) and time.monotonic() < deadline:
        await _end(found, _END_SECONDS)


async def _end(processes: Iterable[Process], within: float) -> None:
    """SIGTERM, and SIGKILL for those that are still there later."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        signalled = [process for process in processes if process.signal(number)]
        await asyncio.gather(*(process.ended(within) for process in signalled))


def _hosts(root: Path) -> list[Process]:
    """The processes that host daemons for this root, or are about to: its path is like no other's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"mps-host" in words and b"--mps-root=" + os.fsencode(root) in words:
                    found.append(Process.find(int(entry.name)))
    return [process for process in found if process is not None]
