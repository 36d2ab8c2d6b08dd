"""What Git says: the document, and the sharing config that a valid document means.

A `SharingConfig` compares by meaning: positions and notes are left out of equality, so that a
rewrite that only moves lines or comments is recognised as `unchanged`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from nodeagent.model.inventory import Gpu

DEFAULT_RESOURCE = "nvidia.com/gpu"
DEFAULT_TRANSITION_TIMEOUT = 4 * 3600.0


class Mode(Enum):
    """How a GPU is shared; a GPU has exactly one at a time."""

    EXCLUSIVE = "exclusive"
    TIME_SLICED = "time-sliced"
    WITHHELD = "withheld"


@dataclass(frozen=True, slots=True)
class Contract:
    """What a share means to the pod that holds it: never changed while any share of the GPU is held."""

    resource: str
    mode: Mode

    def __str__(self) -> str:
        return f"{self.mode.value} {self.resource}"


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
    """One thing that is wrong with a document, where, and how to mend it."""

    file: str
    where: Where
    message: str
    stage: Stage

    def __str__(self) -> str:
        path = f"{self.where.path}: " if self.where.path else ""
        return f"{self.file}:{self.where.line}:{self.where.column}: {path}{self.message}"


@dataclass(frozen=True, slots=True)
class Match:
    """Which GPUs a rule speaks of: every criterion that is given must hold; none given is every GPU.

    `models` are shell globs (`*A100*`), compared case-sensitively; `min_memory` is in bytes.
    """

    indices: frozenset[int] | None = None
    uuids: frozenset[str] | None = None
    models: tuple[str, ...] | None = None
    min_memory: int | None = None

    @property
    def takes_all(self) -> bool:
        return self == Match()

    def matches(self, gpu: Gpu) -> bool:
        return (
            (self.indices is None or gpu.index in self.indices)
            and (self.uuids is None or gpu.uuid in self.uuids)
            and (self.models is None or any(fnmatchcase(gpu.model, glob) for glob in self.models))
            and (self.min_memory is None or gpu.memory >= self.min_memory)
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """Which GPUs, under which resource name, shared how.

    `contract` is None for withheld GPUs. `replicas` is the number of shares per GPU (1 when exclusive,
    0 when withheld). `max_shares_per_container` None means no limit.
    """

    name: str
    match: Match
    contract: Contract | None
    replicas: int
    max_shares_per_container: int | None = None
    where: Where = field(default=Where(), compare=False)

    @property
    def mode(self) -> Mode:
        return Mode.WITHHELD if self.contract is None else self.contract.mode


IMPLICIT_RULE = Rule("(default)", Match(), Contract(DEFAULT_RESOURCE, Mode.EXCLUSIVE), 1)
"""What holds for a GPU that no rule matches."""


@dataclass(frozen=True, slots=True)
class SharingConfig:
    """A parsed, valid document. `transition_timeout` is in seconds; `notes` are hints for its author."""

    name: str
    rules: tuple[Rule, ...]
    suspend: bool = False
    transition_timeout: float = DEFAULT_TRANSITION_TIMEOUT
    notes: tuple[str, ...] = field(default=(), compare=False)

    def rule_for(self, gpu: Gpu) -> Rule:
        """The first rule that matches, else the implicit exclusive one."""
        return next((rule for rule in self.rules if rule.match.matches(gpu)), IMPLICIT_RULE)


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
