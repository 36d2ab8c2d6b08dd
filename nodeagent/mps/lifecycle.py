"""What is to be done about the daemon of one GPU, from what is known of it: decisions alone, performed by `daemon`.

There is never a step that takes more than one look to justify. So whoever is killed between two of them, and comes back
knowing only what is on the disk and in /proc, goes on where the other one stopped:

- STOP: a daemon runs that nobody asked for, or that was started for another contract;
- LEAVE: nobody asked for one and none runs: what is left of it goes, the compute mode above all;
- START: one is asked for and none runs;
- CHECK: the one that was asked for runs: does it answer, and with its limits?
- RECOGNISE: one is asked for and one runs, but what for is recorded nowhere: is it the one?
- WAIT: nobody has asked for anything yet, of any GPU, and nothing is known to have been asked for before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from nodeagent.model.config import Contract
from nodeagent.model.inventory import GpuProcess
from nodeagent.mps.control import Limits
from nodeagent.mps.files import Record
from nodeagent.mps.process import MpsProcess, Process

_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Timing:
    """How often, and for how long, in seconds."""

    check_every: float = 2.0
    answers_within: float = 2.0
    """A daemon answers a client within this time, or this check has failed."""
    silent_at_most: float = 10.0
    """Without an answer for longer than this a daemon is killed and started again."""
    late_at_most: float = 2.0
    """A host that comes later than this to what was due has stood still, and knows nothing of that time."""
    appears_within: float = 2.0
    """A daemon whose start was not seen listens within this time, or it is ended."""
    ends_within: float = 2.0
    """Each of quit, SIGTERM and SIGKILL is given this time."""
    look_again: float = 2.0
    """When something else has to change first: a process has to leave the GPU, a program to be installed."""
    strays_every: float = 30.0
    tries_every: float = 10.0
    """What could not be done with a GPU is tried again, where nothing has been seen to change."""
    beats_every: float = 5.0
    """What is true is written at least so often."""
    first_pause: float = 1.0
    longest_pause: float = 30.0
    healthy_after: float = 60.0
    """A daemon that was well for this long is started again at once, as if it had never failed."""


class Step(Enum):
    """What is next."""

    WAIT = auto()
    STOP = auto()
    LEAVE = auto()
    START = auto()
    CHECK = auto()
    RECOGNISE = auto()


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked for: the contract of one GPU, None for no daemon.

    `given` False: nothing has been asked for of any GPU, as when no agent has run yet. Then what was asked for in an
    earlier life of the host stays.
    """

    contract: Contract | None = None
    given: bool = True

    def target(self, record: Record | None) -> Contract | None:
        """The contract that there should be a daemon for."""
        if self.given or record is None:
            return self.contract
        return record.contract


def next_step(wish: Wish, record: Record | None, *, runs: bool) -> Step:
    """What is next, where `runs` is whether there is a daemon, and `record` what it was started for."""
    if not wish.given and record is None:
        return Step.WAIT
    target = wish.target(record)
    if runs and record is None and target is not None:
        return Step.RECOGNISE
    if runs:
        return Step.CHECK if record is not None and record.contract == target else Step.STOP
    return Step.LEAVE if target is None else Step.START


def started_for(contract: Contract, before: Record | None) -> Record:
    """The record to write before a daemon is started. It counts as a restart when one for the same contract had been
    well, and is gone without anybody having asked for that.
    """
    if before is None:
        return Record(contract)
    again = before.verified and before.contract == contract
    return Record(contract, restarts=before.restarts + again, restored=before.restored)


def daemon_limits(contract: Contract) -> tuple[int, int]:
    """(MiB, percent) that a daemon gives each client: those of as many shares as one container may have."""
    assert contract.limits is not None  # noqa: S101 - for the types: it is of MPS
    return contract.limits.times(contract.limits.most)


def altered(found: Limits, contract: Contract) -> str:
    """What the limits have been changed to; empty when they are as they should be."""
    return "" if found.fits(*daemon_limits(contract)) else str(found)


@dataclass(frozen=True, slots=True)
class Found:
    """The processes of MPS that are there for one GPU."""

    daemons: tuple[Process, ...] = ()
    servers: tuple[Process, ...] = ()

    @classmethod
    def of(cls, uuid: str, processes: Iterable[MpsProcess]) -> Found:
        """Those among `processes` whose pipe directory is that of this GPU."""
        ours = [one for one in processes if one.uuid == uuid]
        return cls(
            daemons=tuple(one.process for one in ours if one.kind == "daemon"),
            servers=tuple(one.process for one in ours if one.kind == "server"),
        )


def in_the_way(processes: Sequence[GpuProcess], servers: Collection[Process]) -> str:
    """Why no daemon can be started on a GPU with these processes; empty when it can.

    `servers` are ours, left over from a daemon that is gone. Their clients go on computing, without anybody who could
    admit others: nothing else can be done than wait for them.
    """
    pids = {server.pid for server in servers}
    if direct := [process for process in processes if not process.mps]:
        return f"held by {named(direct)}"
    if clients := [process for process in processes if process.mps and process.pid not in pids]:
        return f"held by clients of another MPS daemon, or of one that is gone: {named(clients)}"
    return ""


def named(processes: Sequence[GpuProcess]) -> str:
    """`process 1234 (python)`; of many, the first few."""
    shown = [f"{one.pid} ({one.name})" if one.name else str(one.pid) for one in processes[:_NAMED]]
    more = f" and {len(processes) - _NAMED} more" if len(processes) > _NAMED else ""
    return f"{'process' if len(processes) == 1 else 'processes'} {', '.join(shown)}{more}"


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a daemon may be started again: at once after the first failure, then after pauses that double."""

    failures: int = 0
    not_before: float = 0.0

    def failed(self, now: float, timing: Timing, *, well_for: float = 0.0) -> Backoff:
        """After one more failure, of a daemon that had been well for so many seconds."""
        before = 0 if well_for >= timing.healthy_after else self.failures
        doubled = timing.first_pause * 2.0 ** min(before - 1, 30)
        pause = min(doubled, timing.longest_pause) if before else 0.0
        return Backoff(before + 1, now + pause)
