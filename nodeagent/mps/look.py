"""What the agent finds under the MPS root: whether a host runs, what it was asked for, what it tells, what it has kept.

A host that tells nothing, or nothing yet, may have begun something all the same. What it keeps for itself says so: that
is on disk before a daemon is started or a GPU changed, and goes when all is as it was.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from nodeagent.durable import atomic
from nodeagent.durable.envelope import OtherVersion, version_of
from nodeagent.durable.formats import FORMATS, Formats
from nodeagent.model.config import Contract
from nodeagent.model.mps import GpuMeans
from nodeagent.mps.files import (
    Layout,
    Observed,
    checksum,
    decode_compute_modes,
    decode_desired,
    decode_observed,
    decode_record,
    is_uuid,
)
from nodeagent.mps.host_file import HostWord, decode_host

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Seen:
    """Everything, at one moment.

    `desired` is what the host is asked for (None: nothing yet), and `answered` whether `observed` was written with that
    in mind. `word` is what the host says of itself. `kept` are the GPUs that a host has laid hands on, with the
    contract where it is known. `problem` says which file could not be used, and why; it is taken for absent.

    `told` is whether `observed` is by the host that runs, as far as the pid in its lock says. `unheard`: what it tells
    is of a version that is not read here. `verified` are the contracts of the daemons that have had their limits, as
    the host has it for itself. `version` is that of what is asked for.
    """

    runs: bool = False
    desired: Mapping[str, Contract] | None = None
    observed: Observed | None = None
    told: bool = False
    word: HostWord | None = None
    answered: bool = False
    kept: Mapping[str, Contract | None] = field(default_factory=dict)
    problem: str = ""
    unheard: bool = False
    verified: Mapping[str, Contract] = field(default_factory=dict)
    version: int | None = None

    @property
    def heard(self) -> HostWord | None:
        """What the host that runs says of itself; None where it has not said it yet, or is of an older version."""
        if not self.runs or not self.told or self.word is None or self.observed is None:
            return None
        return self.word if self.word.life == self.observed.life else None

    @property
    def means(self) -> Mapping[str, GpuMeans] | None:
        """What the host can do; None for one of an older version, which tells everything else."""
        if (word := self.heard) is not None:
            return word.gpus
        older = self.told and self.observed is not None and not self.observed.life
        return None if older else {}


def look(layout: Layout, formats: Formats = FORMATS) -> Seen:
    """What is there now. Blocks. Raises OSError when not even the lock can be looked at."""
    # The lock comes first: where no host runs, what is read after that has been at rest, or is by one who begins anew.
    runs = host_runs(layout.lock)
    holder = _holder(layout.lock) if runs else None
    problems: list[str] = []
    unread: set[Path] = set()

    def read(path: Path, decode: Callable[[bytes], T]) -> tuple[T | None, bytes]:
        try:
            data = atomic.read(path)
            return (None, b"") if data is None else (decode(data), data)
        except atomic.Untrusted as error:
            if isinstance(error, OtherVersion):
                unread.add(path)
            problems.append(f"cannot use {path}: {error}")
        except OSError as error:
            problems.append(str(error))
        return None, b""

    desired, asked = read(layout.desired, lambda data: decode_desired(data, formats.desired))
    observed, _ = read(layout.observed, lambda data: decode_observed(data, formats.observed))
    word, _ = read(layout.host, decode_host)
    modes, _ = read(layout.compute_modes, decode_compute_modes)
    kept: dict[str, Contract | None] = dict.fromkeys(modes or ())
    verified: dict[str, Contract] = {}
    for uuid in _directories(layout.root):
        if layout.record(uuid).exists():
            record, _ = read(layout.record(uuid), decode_record)
            kept[uuid] = record.contract if record is not None else None
            if record is not None and record.verified:
                verified[uuid] = record.contract
    return Seen(
        runs=runs,
        desired=desired,
        observed=observed,
        told=observed is not None and holder in {None, observed.host_pid},
        word=word,
        answered=observed is not None and observed.answers == (checksum(asked) if desired is not None else ""),
        kept=kept,
        problem="; ".join(problems),
        unheard=layout.observed in unread,
        verified=verified,
        version=version_of(asked) if desired is not None else None,
    )


def host_runs(lock: Path) -> bool:
    """Whether a host holds its lock. Raises OSError.

    Looking takes the lock for a moment; a host that comes in this moment tries again.
    """
    with atomic.naming(lock, "look at lock file"):
        try:
            descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        else:
            # Closing alone would leave it to a child process that is between fork and exec at this moment.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            return False
        finally:
            os.close(descriptor)


def _holder(lock: Path) -> int | None:
    """The pid that whoever holds the lock has written into it; None where there is none."""
    try:
        found = lock.read_bytes()[:32].strip()
    except OSError:
        return None
    return int(found) if found.isdigit() else None


def _directories(root: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in root.iterdir() if is_uuid(entry.name))
    except FileNotFoundError:
        return []
