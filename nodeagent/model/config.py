"""What Git says: the document, and the sharing config that a valid document means.

A `SharingConfig` compares by meaning: positions and notes are left out of equality, so that a
rewrite that only moves lines or comments is recognised as `unchanged`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final

from nodeagent.model.handover import HandOverTerms
from nodeagent.model.health import HealthPolicy
from nodeagent.model.inventory import Gpu
from nodeagent.model.printable import cut, printable

DEFAULT_RESOURCE = "nvidia.com/gpu"
MIG_RESOURCES = "nvidia.com/mig-*"
"""Stands for the names by profile, `nvidia.com/mig-1g.5gb` and so on, that MIG devices have by default."""
MIG_UUID = "MIG-"
"""How the uuids of MIG devices begin."""
MIB = 1024 * 1024
DEFAULT_TRANSITION_TIMEOUT = 4 * 3600.0
LONGEST_MESSAGE = 1000
"""Characters that are said of one mistake: the longest that we write ourselves have half as many."""


class Mode(Enum):
    """How a GPU is shared; a GPU has exactly one at a time."""

    EXCLUSIVE = "exclusive"
    TIME_SLICED = "time-sliced"
    MPS = "mps"
    WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class MpsLimits:
    """What one share under MPS may use: `memory` MiB of the GPU's memory, `threads` percent of its threads.

    A container may have at most `most` shares of one GPU, and its daemon allows each client that many times the limits.
    """

    memory: int
    threads: int
    most: int = 1

    def times(self, shares: int) -> tuple[int, int]:
        """(MiB, percent) of so many shares."""
        return self.memory * shares, min(self.threads * shares, 100)

    def __str__(self) -> str:
        each = f"{self.memory} MiB and {self.threads} % each"
        return each if self.most == 1 else f"{each}, at most {self.most} per container"


@dataclass(frozen=True, slots=True)
class Contract:
    """What a share means to the pod that holds it: never changed while any share of the GPU is held.

    `limits` are there under MPS only; the contract of a GPU under MPS always has them.
    """

    resource: str
    mode: Mode
    limits: MpsLimits | None = None

    def __str__(self) -> str:
        limits = f" ({self.limits})" if self.limits is not None else ""
        return f"{self.mode.value} {self.resource}{limits}"


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a document: `path` in the form `spec.rules[0].match`, line and column from 1."""

    path: str = ""
    line: int = 1
    column: int = 1


class Stage(Enum):
    """How far a document came before it was rejected (metric label `stage`)."""

    READ = "read"
    PARSE = "parse"
    SCHEMA = "schema"
    SEMANTIC = "semantic"


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a document, where, and how to mend it. Whatever the document holds, the message is
    of one line, not long, and can be printed. `stands_for` is how many there are where one stands for all that are not
    listed; `inside` is the document and the place in it, where the file has several: `ConfigMap gpu/sharing,
    t4.yaml:4:7`.
    """

    file: str
    where: Where
    message: str
    stage: Stage
    stands_for: int = 1
    inside: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", cut(printable(cut(self.message, LONGEST_MESSAGE)), LONGEST_MESSAGE))

    def __str__(self) -> str:
        told = ": ".join(part for part in (printable(self.inside), self.where.path, self.message) if part)
        return f"{printable(self.file)}:{self.where.line}:{self.where.column}: {told}"


def mistakes(violations: Iterable[Violation]) -> int:
    """How many things are wrong, those that are not listed included."""
    return sum(violation.stands_for for violation in violations)


@dataclass(frozen=True, slots=True)
class Match:
    """Which GPUs a rule speaks of: every criterion that is given must hold; none given is every GPU.

    `models` and `mig` are shell globs (`*A100*`, `1g.*`), compared case-sensitively; `min_memory` is in bytes. MIG
    devices are spoken of where `mig` is given, and only they; or where one is named by its own uuid. Indices, models
    and other uuids are those of their GPU, the memory and the profile, which `mig` is about, their own.
    """

    indices: frozenset[int] | None = None
    uuids: frozenset[str] | None = None
    models: tuple[str, ...] | None = None
    min_memory: int | None = None
    mig: tuple[str, ...] | None = None

    @property
    def takes_all(self) -> bool:
        """Whether it is every GPU, or every MIG device."""
        return self in {Match(), Match(mig=("*",))}

    @property
    def parts(self) -> frozenset[str]:
        """The uuids of MIG devices among its uuids."""
        return frozenset(uuid for uuid in self.uuids or () if uuid.startswith(MIG_UUID))

    @property
    def mig_only(self) -> bool:
        """Whether it speaks of MIG devices, and of no whole GPU."""
        return self.mig is not None or (bool(self.uuids) and self.parts == self.uuids)

    def matches(self, gpu: Gpu) -> bool:
        return self.covers(gpu) and self._of_that_kind(gpu)

    def covers(self, gpu: Gpu, whole: Gpu | None = None) -> bool:
        """Whether it matches, whatever is said or not said of MIG. The memory is that of `whole`, if that is given."""
        return (
            (self.indices is None or gpu.index in self.indices)
            and (self.uuids is None or any(name in self.uuids for name in (gpu.uuid, gpu.physical, gpu.older_name)))
            and (self.models is None or any(fnmatchcase(gpu.model, glob) for glob in self.models))
            and (self.min_memory is None or (whole or gpu).memory >= self.min_memory)
        )

    def _of_that_kind(self, gpu: Gpu) -> bool:
        if gpu.mig is None:
            return self.mig is None
        if self.mig is None:
            return self.uuids is not None and (gpu.uuid in self.uuids or gpu.older_name in self.uuids)
        return any(fnmatchcase(gpu.mig.profile, glob) for glob in self.mig)


@dataclass(frozen=True, slots=True)
class MpsTerms:
    """What a rule says of limits under MPS: None where each share gets its part of the GPU.

    `memory` is in bytes, whole MiB. `oversubscribe` allows limits that add up to more than the GPU has.
    """

    memory: int | None = None
    threads: int | None = None
    oversubscribe: bool = False


class Placement(Enum):
    """Which shares a container should get: those of GPUs that are used least, or of those that are used most."""

    DISTRIBUTED = "distributed"
    PACKED = "packed"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which GPUs, under which resource name, shared how.

    `contract` is None for withheld GPUs; under MPS it has no limits yet, which follow from `mps` and the GPU; with the
    resource MIG_RESOURCES each MIG device has the name that its profile gives it.
    `replicas` is the number of shares per GPU (1 when exclusive, 0 when withheld). `max_shares_per_container` None
    means no limit. `mps` is there under MPS only, and always there. `origin` is the entry of NVIDIA's file that a rule
    says in our words, which its author has not seen.
    """

    name: str
    match: Match
    contract: Contract | None
    replicas: int
    max_shares_per_container: int | None = None
    mps: MpsTerms | None = None
    placement: Placement = Placement.DISTRIBUTED
    where: Where = field(default=Where(), compare=False)
    origin: str | None = field(default=None, compare=False)

    @property
    def called(self) -> str:
        """What its author calls it: `rule "small"`, or `sharing.mps.resources[0]`."""
        return f'rule "{self.name}"' if self.origin is None else self.origin

    def matches(self, gpu: Gpu, whole: Gpu | None = None) -> bool:
        """Whether it speaks of this GPU or MIG device. A GPU that is withheld is so with all its MIG devices; `whole`
        is the GPU of a MIG device, where it is known.
        """
        with_parts = self.contract is None and self.match.mig is None
        return self.match.covers(gpu, whole) if with_parts else self.match.matches(gpu)

    @property
    def mode(self) -> Mode:
        return Mode.WITHHELD if self.contract is None else self.contract.mode

    def contract_for(self, gpu: Gpu) -> Contract | None:
        """What the shares of this GPU are; None for a withheld one.

        Without limits given, a share under MPS gets its part of the memory in whole MiB, and of the threads in whole
        percent, both rounded down.
        """
        if self.contract is None:
            return None
        if self.contract.resource == MIG_RESOURCES and gpu.mig is not None:
            return replace(self.contract, resource=mig_resource(gpu.mig.profile))
        if self.mps is None:
            return self.contract
        memory = self.mps.memory if self.mps.memory is not None else gpu.memory // self.replicas
        limits = MpsLimits(
            memory=max(memory // MIB, 1),
            threads=self.mps.threads or max(100 // self.replicas, 1),
            most=min(self.max_shares_per_container or self.replicas, self.replicas),
        )
        return replace(self.contract, limits=limits)


def mig_resource(profile: str) -> str:
    """The name that NVIDIA's plugin gives MIG devices of a profile under its strategy `mixed`."""
    return MIG_RESOURCES.removesuffix("*") + profile.replace("+", ".")


IMPLICIT_RULE = Rule("(default)", Match(), Contract(DEFAULT_RESOURCE, Mode.EXCLUSIVE), 1)
"""What holds for a GPU that no rule matches."""

IMPLICIT_MIG_RULE = Rule("(default)", Match(mig=("*",)), Contract(MIG_RESOURCES, Mode.EXCLUSIVE), 1)
"""What holds for a MIG device that no rule matches."""

THROUGH_MIG = Rule("(mig)", Match(), None, 0)
"""What holds for a GPU that is used through its MIG devices, and for MIG devices where they are not shown."""


@dataclass(frozen=True, slots=True)
class LabelTerms:
    """What NVIDIA's file says of labels, and ours never does: `mig_strategy` is the value of nvidia.com/mig.strategy,
    None where it follows from the shares; `timestamp` False leaves nvidia.com/gfd.timestamp out.
    """

    mig_strategy: str | None = None
    timestamp: bool = True


@dataclass(frozen=True, slots=True)
class MaxUnavailable:
    """How many devices may change their contract at a time: a `number`, or without one `percent` of those of which the
    config wants shares, rounded up.
    """

    number: int | None = None
    percent: int = 25

    def of(self, devices: int) -> int:
        """How many of so many devices; at least one."""
        share = -(-devices * self.percent // 100)
        return max(1, self.number if self.number is not None else share)

    def __str__(self) -> str:
        return f"{self.number}" if self.number is not None else f"{self.percent}%"


@dataclass(frozen=True, slots=True)
class SharingConfig:
    """A parsed, valid document. `transition_timeout` is in seconds, `max_unavailable` bounds how many devices change at
    a time; `notes` are hints for its author. `mig` False: GPUs with MIG enabled are offered as if they were whole
    (NVIDIA's strategy `none`). `handover` and `labels` are what NVIDIA's file says of them.
    """

    name: str
    rules: tuple[Rule, ...]
    suspend: bool = False
    transition_timeout: float = DEFAULT_TRANSITION_TIMEOUT
    max_unavailable: MaxUnavailable = field(default_factory=MaxUnavailable)
    health: HealthPolicy = field(default_factory=HealthPolicy)
    mig: bool = True
    handover: HandOverTerms = field(default_factory=HandOverTerms)
    labels: LabelTerms = field(default_factory=LabelTerms)
    notes: tuple[str, ...] = field(default=(), compare=False)

    def rule_for(self, gpu: Gpu, whole: Gpu | None = None) -> Rule:
        """The first rule that matches, else the implicit exclusive one. `whole` is the GPU of a MIG device."""
        if gpu.mig is not None and not self.mig:
            return THROUGH_MIG
        found = next((rule for rule in self.rules if rule.matches(gpu, whole)), None)
        if gpu.mig_enabled and self.mig:
            return found if found is not None and found.contract is None else THROUGH_MIG
        if found is not None:
            return found
        return IMPLICIT_RULE if gpu.mig is None else IMPLICIT_MIG_RULE


@dataclass(frozen=True, slots=True)
class Document:
    """The bytes read from the mount, and the text of the `revision` file beside them, if any."""

    path: str
    data: bytes
    revision: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_blob(self) -> str:
        """The blob id of these bytes, as `git hash-object` prints it: sha1 of `blob <size>`, a zero byte, the bytes."""
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data, usedforsecurity=False).hexdigest()


class Following(Enum):
    """Whether a change of the document can be seen: its directory is mounted, or one version of one of its keys, which
    never changes, or a single file, of which only what is written into that very file is seen.
    """

    FOLLOWED = "Followed"
    SUB_PATH = "SubPath"
    SINGLE_FILE = "SingleFile"

    @property
    def explained(self) -> str:
        """What it means, and what helps; empty where nothing has to."""
        return _FOLLOWING.get(self.value, "")


_FOLLOWING: Final = {
    "SubPath": "it is mounted by subPath, so that no change reaches it before the container is made anew: mount the "
    "ConfigMap as a directory, without subPath, and name that directory by --config",
    "SingleFile": "it is a file that is mounted by itself, so that a change which replaces it, as most do, is not "
    "seen: mount the directory that it is in",
}


@dataclass(frozen=True, slots=True)
class Unreadable:
    """There is no document: the file is missing, or cannot be read."""

    path: str
    missing: bool
    message: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a document turned out to mean: a config, or at least one violation, never both."""

    document: Document
    config: SharingConfig | None
    violations: tuple[Violation, ...] = ()
