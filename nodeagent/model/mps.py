"""MPS daemons: what is true of them, as far as the agent has verified it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from nodeagent.model.config import Contract
from nodeagent.model.inventory import ComputeMode, Gpu

SHARED_MEMORY = "/dev/shm"  # noqa: S108 - not a temporary file: where CUDA looks for what a client shares with its server

MOST_CLIENTS = 48
MOST_CLIENTS_BEFORE_VOLTA = 16
VOLTA = (7, 0)
"""The compute capability from which a GPU takes 48 clients under MPS."""


def most_clients(gpu: Gpu) -> int:
    """How many clients a GPU takes. One whose driver does not tell its age is taken for one of today."""
    capability = gpu.compute_capability
    return MOST_CLIENTS if capability is None or capability >= VOLTA else MOST_CLIENTS_BEFORE_VOLTA


class DaemonState(Enum):
    """Where one daemon stands."""

    STARTING = "starting"
    READY = "ready"  # answers, with the limits of its contract
    OCCUPIED = "occupied"  # processes that are not its clients hold the GPU: it is started when they have left
    FAILED = "failed"  # does not run or does not answer; it is started again
    STOPPING = "stopping"  # nobody wants it any more; it, or the compute mode that it needed, is still there


@dataclass(frozen=True, slots=True)
class MpsDaemon:
    """One daemon, and the contract that it serves. `message` explains every state but READY.

    `restarts` counts the starts that were not asked for, `restored` how often limits that a client had changed were set
    again; `altered` says what they had been changed to, as long as that is so. `hindered`: it cannot be ended, or its
    compute mode cannot be put back.
    """

    uuid: str
    contract: Contract
    state: DaemonState
    message: str = ""
    restarts: int = 0
    restored: int = 0
    altered: str = ""
    hindered: bool = False

    @property
    def stuck(self) -> bool:
        """Whether it is not about to be ready, or gone, by itself."""
        return self.hindered or self.state in {DaemonState.OCCUPIED, DaemonState.FAILED}


class MpsReason(Enum):
    """How it stands with the MPS host, which starts and stops the daemons."""

    OFF = "HostOff"
    PENDING = "Pending"
    ABSENT = "HostAbsent"
    UNUSABLE = "Unusable"
    RUNNING = "Running"


@dataclass(frozen=True, slots=True)
class GpuMeans:
    """What the MPS host can do with one GPU, which it has tried before any daemon is asked for.

    `obstacle` is why no daemon can be prepared on it, empty where one can. `memory` is in MiB, None where the driver
    does not say; `clients` is how many processes may compute on it under MPS at most.
    """

    obstacle: str = ""
    memory: int | None = None
    clients: int = 0


@dataclass(frozen=True, slots=True)
class MpsStatus:
    """What the agent knows of the MPS host and its daemons, by uuid: READY are those that it has verified itself.

    A uuid that is not there has no daemon, and its compute mode is as it was found, but for the `left_modes`: GPUs
    whose daemon is gone with its host, and which are not in the compute mode DEFAULT (None: nobody can tell). While
    `reason` is PENDING nothing is known yet. `root` is where the daemons' directories are, `shared_memory` what clients
    need at /dev/shm. `means` is what the host can do, by uuid; None for a host of an older version, which does not say.
    `host_version` is empty for such a one; `bounded` is whether what pods can write to has a file system of its own.
    """

    reason: MpsReason = MpsReason.OFF
    message: str = ""
    daemons: Mapping[str, MpsDaemon] = field(default_factory=dict)
    root: str = ""
    shared_memory: str = SHARED_MEMORY
    means: Mapping[str, GpuMeans] | None = None
    left_modes: Mapping[str, ComputeMode | None] = field(default_factory=dict)
    host_version: str = ""
    bounded: bool | None = None

    def pipe(self, uuid: str) -> str:
        """The directory of the sockets of one daemon; the same path for every start of it."""
        return f"{self.root}/{uuid}/pipe"

    def trouble(self, uuid: str, contract: Contract) -> str:
        """Why the daemon of this contract is not ready; for one that is, its state."""
        daemon = self.daemons.get(uuid)
        if daemon is None:
            return self.message or "it has not been started yet"
        if daemon.contract != contract:
            return self.message or f"it still serves {daemon.contract}"
        return daemon.message or daemon.state.value
