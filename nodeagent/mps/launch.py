"""Starting a daemon: NVIDIA's program, the environment that makes it the daemon of one GPU, and its /dev/shm."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.mps.child import Finished, TookTooLong, finish
from nodeagent.mps.control import PROGRAM
from nodeagent.mps.files import Layout
from nodeagent.mps.process import Process

_WITHIN: Final = 10.0
"""Seconds until the daemon has detached, which takes it a few milliseconds."""

_DEV_SHM: Final = Path("/dev/shm")  # noqa: S108 - not a temporary file: where CUDA looks

# The daemon keeps the directory and the umask of its start: its sockets are for clients of any user.
_PLAIN: Final = 'umask 022 && cd / && exec "$1" -d'
# While it starts it has a new directory in the place of the one that clients have, and no longer than that: what it and
# its servers make later is for clients.
_APART: Final = (
    f'mount --bind "$2" {_DEV_SHM} && mount --bind "$3" "$4" && umask 022 && cd / && "$1" -d && umount --lazy "$4"'
)


class CannotLaunch(Exception):
    """The program is not there, or started no daemon; the message says why."""


class Launcher:
    """Starts the daemons below one MPS root.

    `program` is the control program: a path, or a name that is looked up on PATH each time, since a driver may be
    installed later. `shared_memory` becomes /dev/shm of each daemon; None leaves it the one of this process.
    """

    def __init__(
        self,
        layout: Layout,
        program: str = PROGRAM,
        *,
        shared_memory: Path | None,
        deadline: float = _WITHIN,
    ) -> None:
        self._layout = layout
        self._program = program
        self._shared_memory = shared_memory
        self._deadline = deadline

    @property
    def shared_memory(self) -> str:
        """What clients need at /dev/shm."""
        return str(self._shared_memory or _DEV_SHM)

    def find(self) -> str:
        """The path of the control program. Raises CannotLaunch."""
        found = shutil.which(self._program)
        if found is None:
            where = "no such program" if os.sep in self._program else "it is not on PATH"
            raise CannotLaunch(f"cannot find {self._program}: {where}")
        return str(Path(found).absolute())

    @property
    def apart(self) -> bool:
        """Whether a daemon starts in the new directory by a mount that only it has; otherwise that has to be there."""
        return self._shared_memory is not None

    async def try_out(self) -> None:
        """See that the control program runs here, by having it tell its usage. Raises CannotLaunch."""
        program = self.find()
        try:
            ended = await finish([program, "--help"], environment=_surroundings(program), deadline=self._deadline)
        except TookTooLong:
            raise CannotLaunch(f"cannot run {program}: it does not end within {self._deadline:g} s") from None
        except OSError as error:
            raise CannotLaunch(f"cannot run {program}: {refusals.words(error)}") from error
        if ended.code != 0:
            raise CannotLaunch(f"cannot run {program}: exit code {ended.code}: {_said(ended)}")

    async def start(self, uuid: str) -> None:
        """Start the daemon of one GPU; it listens when this returns. Raises CannotLaunch."""
        program = self.find()
        command = ["sh", "-c", _PLAIN, "sh", program]
        if self._shared_memory is not None:
            command = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", _APART, "sh", program]
            command += map(str, (self._shared_memory, self._layout.start(uuid), self._layout.pipe(uuid)))
        try:
            ended = await finish(command, environment=self._environment(uuid, program), deadline=self._deadline)
        except TookTooLong:
            raise CannotLaunch(f"cannot start {program}: it has not detached within {self._deadline:g} s") from None
        except OSError as error:
            raise CannotLaunch(f"cannot start {program}: {refusals.named(error)}") from error
        if ended.code != 0:
            raise CannotLaunch(f"cannot start {program}: exit code {ended.code}: {_said(ended)}")

    def _environment(self, uuid: str, program: str) -> dict[str, str]:
        return {
            **_surroundings(program),
            "CUDA_VISIBLE_DEVICES": uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(self._layout.pipe(uuid)),
            "CUDA_MPS_LOG_DIRECTORY": str(self._layout.log(uuid)),
        }

    def shares_memory(self, process: Process) -> bool:
        """Whether a daemon that a host before has started has the /dev/shm that clients get now."""
        return _sees(process, _DEV_SHM, Path(self.shared_memory))

    def has_begun(self, process: Process, uuid: str) -> bool:
        """Whether a daemon has its clients' directory under the path of that, as its servers need it: its start was not
        cut short.
        """
        return _sees(process, self._layout.pipe(uuid), self._layout.pipe(uuid))


def _sees(process: Process, path: Path, ours: Path) -> bool:
    """Whether what a process has at a path is what we have there, or elsewhere."""
    try:
        seen, there = Path(f"/proc/{process.pid}/root{path}").stat(), ours.stat()
    except OSError:
        return True  # nobody can tell: it is left as it is
    return (seen.st_dev, seen.st_ino) == (there.st_dev, there.st_ino)


def _surroundings(program: str) -> dict[str, str]:
    """Of ours only what programs and libraries are found by: CUDA_… there would change what a daemon does."""
    directory = Path(program).parent
    path = os.pathsep.join((str(directory), str(directory.parent / "sbin"), os.environ.get("PATH", os.defpath)))
    libraries = os.environ.get("LD_LIBRARY_PATH")
    return {"PATH": path, **({"LD_LIBRARY_PATH": libraries} if libraries else {})}


def _said(ended: Finished) -> str:
    return " ".join((ended.errors or ended.output).split())[:300] or "it says nothing"
