"""What is under the MPS root, and how: the layout, and the files that the agent and the MPS host leave for each other.

Each file has one writer and is whole or absent (`durable.atomic`), sealed with its version and a checksum
(`durable.envelope`). Decoding is strict: what we could not have written is `Untrusted`, never repaired, since a guess
could end a daemon that pods compute through. Agent and host are seldom of one release: what may change in a file, and
what is written for whom, is said in `durable.formats`.

- `desired.json`, by the agent: which GPU is to be under which contract. Absent: nothing has been asked for yet.
- `observed.json`, by the host: what is true. A uuid that it does not name has no daemon and the compute mode that it
  had before. It is written anew every few seconds, so that one that cannot be written any more is seen to be old.
- `host.json`, by the host: what it is, and what it can do (`host_file`).
- `compute-modes.json`, by the host for itself: the compute modes that are to be restored when MPS leaves.
- `<uuid>/daemon.json`, by the host for itself: the contract that a daemon is started for, written before the start.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent.durable.atomic import Untrusted
from nodeagent.durable.contracts import decode_contract, decode_enum, encode_contract
from nodeagent.durable.envelope import expect, member, optional, parse_text, seal, unseal
from nodeagent.durable.formats import FORMATS, UNDECLARED, Format
from nodeagent.model.config import Contract, Mode
from nodeagent.model.inventory import ComputeMode
from nodeagent.model.mps import DaemonState

_UUID: Final = re.compile(r"(GPU|MIG)-[0-9A-Za-z-]{1,60}")

FORGOTTEN: Final = Contract("(forgotten)", Mode.MPS)
"""What something is told to be for of which no record is left. Nobody can ask for it: there are no limits."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything is under one MPS root."""

    root: Path

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def desired(self) -> Path:
        return self.root / "desired.json"

    @property
    def observed(self) -> Path:
        return self.root / "observed.json"

    @property
    def host(self) -> Path:
        return self.root / "host.json"

    @property
    def compute_modes(self) -> Path:
        return self.root / "compute-modes.json"

    @property
    def shared_memory(self) -> Path:
        """Where the tmpfs is mounted that daemons and pods have as /dev/shm."""
        return self.root / "shm"

    def directory(self, uuid: str) -> Path:
        """Everything of one daemon."""
        return self.root / uuid

    def pipe(self, uuid: str) -> Path:
        """The sockets of one daemon: what pods mount. The same directory for every start, until MPS leaves the GPU."""
        return self.root / uuid / "pipe"

    def start(self, uuid: str) -> Path:
        """Where a daemon makes its sockets while it starts: another directory each time, which no pod sees."""
        return self.root / uuid / "pipe.new"

    def log(self, uuid: str) -> Path:
        return self.root / uuid / "log"

    def record(self, uuid: str) -> Path:
        return self.root / uuid / "daemon.json"


def is_uuid(text: str) -> bool:
    """Whether this can be the uuid of a GPU: it becomes the name of a directory, so no other text will do."""
    return _UUID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ObservedDaemon:
    """What the host knows of one daemon: see `model.mps.MpsDaemon`, which is what the agent makes of it.

    `pid` and `start_time` (field 22 of /proc/PID/stat) are None while there is no process.
    """

    contract: Contract
    state: DaemonState
    message: str = ""
    pid: int | None = None
    start_time: int | None = None
    restarts: int = 0
    restored: int = 0
    altered: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What the host of this pid knows. `problem`: why it cannot do what is asked for, whichever GPU that is about.

    `shared_memory` is what clients need at /dev/shm. `answers` is the `checksum` of the desired.json that the host
    works by, empty before it has read one: what neither file names is free of MPS, unless the host is yet to read the
    newest. `life` tells one host from the next, and `beat` one moment of it from a later one; a host of an older
    version says neither. `reads` are the versions of desired.json that it reads.
    """

    host_pid: int
    shared_memory: str
    problem: str = ""
    daemons: Mapping[str, ObservedDaemon] = field(default_factory=dict)
    answers: str = ""
    life: str = ""
    beat: int = 0
    reads: tuple[int, ...] = UNDECLARED


@dataclass(frozen=True, slots=True)
class Record:
    """That there is, or was just going to be, a daemon for this contract. The counters outlive the host.

    `verified`: it has had its limits, so that another one in its place was not asked for, and other limits are somebody
    else's doing.
    """

    contract: Contract
    verified: bool = False
    restarts: int = 0
    restored: int = 0


def dump(value: object) -> bytes:
    """A body, in as few bytes as will do."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


# --- desired.json ---------------------------------------------------------------------------------------------------


def encode_desired(
    daemons: Mapping[str, Contract],
    token: str = "",
    *,
    form: Format = FORMATS.desired,
    declared: Collection[int] = UNDECLARED,
) -> bytes:
    """The contracts by uuid. Every one of them is of MPS. `token` tells this file from one that asked for the same, and
    `declared` are the versions that the host reads.
    """
    body = {"daemons": {uuid: encode_contract(daemons[uuid]) for uuid in sorted(daemons)}}
    return seal(form, {"token": token}, dump(body), declared)


def decode_desired(data: bytes, form: Format = FORMATS.desired) -> dict[str, Contract]:
    """What `encode_desired` was given. Raises Untrusted."""
    _, body = unseal(form, data)
    return {uuid: _contract(item) for uuid, item in by_uuid(as_object(body), "daemons").items()}


def checksum(data: bytes) -> str:
    """What stands for the bytes of one desired.json in what the host answers."""
    return hashlib.sha256(data).hexdigest()


# --- observed.json --------------------------------------------------------------------------------------------------


def encode_observed(observed: Observed, form: Format = FORMATS.observed) -> bytes:
    """Everything, daemons in order of uuid: equal values are equal bytes. The agent may be of the release before."""
    body = {
        "hostPid": observed.host_pid,
        "sharedMemory": observed.shared_memory,
        "problem": observed.problem,
        "answers": observed.answers,
        "life": observed.life,
        "beat": observed.beat,
        "readsDesired": list(observed.reads),
        "daemons": {
            uuid: {
                "contract": None if daemon.contract == FORGOTTEN else encode_contract(daemon.contract),
                "state": daemon.state.value,
                "message": daemon.message,
                "pid": daemon.pid,
                "startTime": daemon.start_time,
                "restarts": daemon.restarts,
                "restored": daemon.restored,
                "altered": daemon.altered,
            }
            for uuid, daemon in sorted(observed.daemons.items())
        },
    }
    return seal(form, {}, dump(body))


def decode_observed(data: bytes, form: Format = FORMATS.observed) -> Observed:
    """What `encode_observed` was given. Raises Untrusted."""
    _, body = unseal(form, data)
    value = as_object(body)
    reads = optional(value, "readsDesired", list)
    return Observed(
        host_pid=at_least(1, member(value, "hostPid", int)),
        shared_memory=member(value, "sharedMemory", str),
        problem=member(value, "problem", str),
        answers=member(value, "answers", str),
        life=optional(value, "life", str) or "",
        beat=at_least(0, optional(value, "beat", int) or 0),
        reads=UNDECLARED if reads is None else tuple(expect(one, "readsDesired", int) for one in reads),
        daemons={uuid: _observed_daemon(expect(item, uuid, dict)) for uuid, item in by_uuid(value, "daemons").items()},
    )


def _observed_daemon(item: Mapping[str, object]) -> ObservedDaemon:
    pid, start_time = optional(item, "pid", int), optional(item, "startTime", int)
    told = item.get("contract")
    daemon = ObservedDaemon(
        contract=FORGOTTEN if told is None else _contract(told),
        state=decode_enum(DaemonState, member(item, "state", str)),
        message=member(item, "message", str),
        pid=None if pid is None else at_least(1, pid),
        start_time=None if start_time is None else at_least(0, start_time),
        restarts=at_least(0, member(item, "restarts", int)),
        restored=at_least(0, member(item, "restored", int)),
        altered=member(item, "altered", str),
    )
    if (pid is None) is not (start_time is None):
        raise Untrusted(f"its process is impossible: pid {pid}, start time {start_time}")
    if daemon.state is DaemonState.READY and (pid is None or daemon.contract == FORGOTTEN):
        raise Untrusted("it cannot be ready")
    return daemon


# --- what the host keeps for itself ---------------------------------------------------------------------------------


def encode_record(record: Record) -> bytes:
    """One record."""
    body = {
        "contract": encode_contract(record.contract),
        "verified": record.verified,
        "restarts": record.restarts,
        "restored": record.restored,
    }
    return seal(FORMATS.daemon, {}, dump(body))


def decode_record(data: bytes) -> Record:
    """What `encode_record` was given. Raises Untrusted."""
    _, body = unseal(FORMATS.daemon, data)
    value = as_object(body)
    return Record(
        contract=_contract(value.get("contract")),
        verified=member(value, "verified", bool),
        restarts=at_least(0, member(value, "restarts", int)),
        restored=at_least(0, member(value, "restored", int)),
    )


def encode_compute_modes(modes: Mapping[str, ComputeMode]) -> bytes:
    """The modes that were found, by uuid."""
    return seal(FORMATS.compute_modes, {}, dump({"modes": {uuid: modes[uuid].value for uuid in sorted(modes)}}))


def decode_compute_modes(data: bytes) -> dict[str, ComputeMode]:
    """What `encode_compute_modes` was given. Raises Untrusted."""
    _, body = unseal(FORMATS.compute_modes, data)
    modes = by_uuid(as_object(body), "modes")
    return {uuid: decode_enum(ComputeMode, expect(mode, uuid, str)) for uuid, mode in modes.items()}


# --- parts ----------------------------------------------------------------------------------------------------------


def as_object(body: bytes) -> Mapping[str, object]:
    """What a body holds. Raises Untrusted."""
    return expect(parse_text(body), "file", dict)


def by_uuid(value: Mapping[str, object], key: str) -> Mapping[str, object]:
    """A member that is something for each of some GPUs. Raises Untrusted."""
    found: dict[str, object] = member(value, key, dict)
    for uuid in found:
        if not is_uuid(uuid):
            raise Untrusted(f"{key}: expected uuids of GPUs, got {uuid[:80]!r}")
    return found


def _contract(item: object) -> Contract:
    contract = decode_contract(expect(item, "contract", dict))
    if contract.mode is not Mode.MPS:
        raise Untrusted(f"no daemon has a contract that is {contract.mode.value}")
    return contract


def at_least(least: int, value: int) -> int:
    """The value, if it is not below `least`. Raises Untrusted."""
    if value < least:
        raise Untrusted(f"expected at least {least}, got {value}")
    return value
