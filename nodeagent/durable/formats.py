"""Which versions of each kind of file are read and written here: the one table.

Each kind has a version of its own, since those who share a file are upgraded and rolled back at different times: an
agent of today finds what the one before it has left, and an MPS host (OnDelete) may be months older than its agent.

Within a version an object may get more keys: who reads it passes over those that it does not know. A row (a JSON list
of members) may get more at its end, likewise. Anything else (another meaning, a member that is gone, a new value of an
enum, a map whose keys are data, such as uuids) is another version. It is first read, for one release, and then written:
what is written can always be read by the release before. Where a reader says which versions it reads, the oldest of
those is written, so that it can be rolled back as well; one that says nothing reads version 1.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

UNDECLARED: Final = (1,)
"""What somebody reads who has not said what."""


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of file: its name, the versions of it that are read here, and those that can be written."""

    kind: str
    reads: tuple[int, ...] = (1,)
    writes: tuple[int, ...] = (1,)

    def written_for(self, declared: Collection[int] = UNDECLARED) -> int:
        """The version to write for who reads the `declared` ones: the oldest that we can. Where we can write none of
        them it is our oldest.
        """
        return min(set(self.writes) & set(declared), default=min(self.writes))


@dataclass(frozen=True, slots=True)
class Formats:
    """All kinds. Of the agent in its state directory: the first five. Between agent and MPS host: `desired`, `observed`
    and `host`. Of the host for itself, though the agent looks at them too: the last two.
    """

    applied: Format = field(default=Format("applied"))
    holds: Format = field(default=Format("holds"))
    last_known_good: Format = field(default=Format("last-known-good"))
    selection: Format = field(default=Format("config-selection"))
    renewal: Format = field(default=Format("driver-change"))
    desired: Format = field(default=Format("mps-desired"))
    observed: Format = field(default=Format("mps-observed"))
    host: Format = field(default=Format("mps-host"))
    daemon: Format = field(default=Format("mps-daemon"))
    compute_modes: Format = field(default=Format("mps-compute-modes"))


FORMATS: Final = Formats()
"""Of this release."""
