"""Becomes process 1 of a container made from an image: `python -m tests.deploy.process_one JSON`, run by `unshare`.

The caller has made the namespaces (mount, pid), in which this is process 1 already. What a container runtime does next
is done here: mount what is given and nothing else, make the root read-only, enter it, give up capabilities, and become
the command of the image. A seccomp profile is not applied, and the network is that of the machine.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_DEVICES = ("full", "null", "random", "urandom", "zero")


@dataclass(frozen=True, slots=True)
class Volume:
    """`source`, a file or directory of this machine, at `target` in the container."""

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Start:
    """One container. `privileged`: it keeps its capabilities. `writable`: so is its root."""

    root: str
    command: Sequence[str]
    environment: dict[str, str]
    directory: str = "/"
    volumes: Sequence[Volume] = ()
    privileged: bool = False
    writable: bool = False

    def dump(self) -> str:
        """The argument of this program."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Start:
        """What `dump` gave."""
        values = json.loads(text)
        return cls(**{**values, "volumes": [Volume(**volume) for volume in values["volumes"]]})


def become(start: Start) -> None:
    """Does not return."""
    root = Path(start.root)
    _mount("--bind", start.root, start.root)
    _mount("-t", "proc", "proc", str(root / "proc"))
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root / "dev"))
    for name in _DEVICES:
        _bind(root, Volume(f"/dev/{name}", f"/dev/{name}"))
    for volume in start.volumes:
        _bind(root, volume)
    if not start.writable:
        _mount("-o", "remount,bind,ro", start.root)
    libc = ctypes.CDLL(None, use_errno=True)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_bytes())
    os.chroot(root)  # from here on nothing can be imported
    os.chdir(start.directory)
    if not start.privileged:
        for capability in range(last + 1):
            _call(libc, _PR_CAPBSET_DROP, capability)
        _call(libc, _PR_SET_NO_NEW_PRIVS, 1)
    os.execvpe(start.command[0], list(start.command), start.environment)  # noqa: S606 - a shell would be another process


def _bind(root: Path, volume: Volume) -> None:
    target = root / volume.target.lstrip("/")
    if Path(volume.source).is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    _mount("--bind", volume.source, str(target))
    if volume.read_only:
        _mount("-o", "remount,bind,ro", str(target))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _call(libc: ctypes.CDLL, option: int, value: int) -> None:
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"cannot set process option {option}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    become(Start.load(sys.argv[1]))
