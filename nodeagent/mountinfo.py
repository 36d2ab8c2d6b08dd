"""What is mounted where, as this process sees it: `/proc/self/mountinfo`, see proc(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

SELF: Final = Path("/proc/self/mountinfo")


@dataclass(frozen=True, slots=True)
class Mount:
    """One mount: `root` is what of the file system, of type `kind`, is seen at `point`."""

    root: str
    point: str
    kind: str
    source: str


def read(path: Path = SELF) -> list[Mount]:
    """All mounts, each after those that it lies on. What is no line of it is passed over. Raises OSError."""
    return list(_mounts(path.read_bytes()))


def covering(mounts: list[Mount], path: str) -> Mount | None:
    """The one by which an absolute path without links is seen: the nearest, of several at one point the last."""
    found: Mount | None = None
    for mount in mounts:
        point = mount.point.rstrip("/")
        if (path == mount.point or path.startswith(f"{point}/")) and (
            found is None or len(mount.point) >= len(found.point)
        ):
            found = mount
    return found


def _mounts(data: bytes) -> Iterator[Mount]:
    for line in data.split(b"\n"):
        fields = line.split(b" ")
        try:
            kind, source = fields[fields.index(b"-", 6) + 1 :][:2]
        except ValueError:
            continue
        yield Mount(*(_unescape(field) for field in (fields[3], fields[4], kind, source)))


def _unescape(field: bytes) -> str:
    r"""A name as it is: the kernel shows a space as `\040`, and whatever else would end a field or a line likewise."""
    whole = re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8) & 0xFF]), field)
    return whole.decode("utf-8", "surrogateescape")
