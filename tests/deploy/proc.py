"""What the kernel tells of the processes of a container, seen from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def status(pid: int | None) -> dict[str, str]:
    """/proc/PID/status by name. Raises OSError when there is no such process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def beside(pid: int | None) -> Iterator[int]:
    """All processes of the process namespace of this one, by their numbers on this machine. Raises OSError as above."""
    ours = Path(f"/proc/{pid}/ns/pid").readlink()
    for entry in Path("/proc").iterdir():
        with suppress(OSError):
            if entry.name.isdecimal() and (entry / "ns/pid").readlink() == ours:
                yield int(entry.name)
