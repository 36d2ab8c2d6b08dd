"""How a container gets the devices of its shares: what the container runtime reads, in the words of NVIDIA's plugin."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum


class ListStrategy(Enum):
    """How a container runtime is told which GPUs a container has; several at once are possible."""

    ENVVAR = "envvar"
    VOLUME_MOUNTS = "volume-mounts"
    CDI_ANNOTATIONS = "cdi-annotations"
    CDI_CRI = "cdi-cri"

    @property
    def cdi(self) -> bool:
        """Whether it names devices of a CDI specification."""
        return self in {ListStrategy.CDI_ANNOTATIONS, ListStrategy.CDI_CRI}


class IdStrategy(Enum):
    """What names a GPU to the container runtime. The index is the driver's."""

    UUID = "uuid"
    INDEX = "index"


CONTROL_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset")
"""The device nodes that belong to no GPU, as a container has them: those that are there are passed."""

IMEX_CHANNEL = "/dev/nvidia-caps-imex-channels/channel0"
"""The device node of IMEX channel 0."""


@dataclass(frozen=True, slots=True)
class HandOver:
    """How devices are handed over. `strategies` is never empty.

    `device_specs` passes device nodes, which are below `dev_root` on the host. `gds`, `mofed` and `gdrcopy` ask the
    runtime for GPUDirect Storage, Mellanox OFED and GDRCopy. `imex_channels` is empty or (0,); with `imex_required` a
    container is refused where the channel is not there. CDI devices are called `<cdi_vendor>/gpu=<id>`, and the
    annotation that names them begins with `annotation_prefix`.
    """

    strategies: frozenset[ListStrategy] = frozenset({ListStrategy.ENVVAR})
    id_strategy: IdStrategy = IdStrategy.UUID
    device_specs: bool = False
    dev_root: str = "/"
    gds: bool = False
    mofed: bool = False
    gdrcopy: bool = False
    imex_channels: tuple[int, ...] = ()
    imex_required: bool = False
    cdi_vendor: str = "nvidia.com"
    annotation_prefix: str = "cdi.k8s.io/"

    @property
    def cdi(self) -> bool:
        """Whether any strategy names CDI devices."""
        return any(strategy.cdi for strategy in self.strategies)

    @property
    def only_cdi(self) -> bool:
        """Whether every strategy does."""
        return all(strategy.cdi for strategy in self.strategies)

    @property
    def passes_nodes(self) -> bool:
        """Whether device nodes are passed: with nothing but CDI it is the specification that brings them."""
        return self.device_specs and not self.only_cdi

    @property
    def needs_files(self) -> bool:
        """Whether the answers, or the condition on them, depend on files of the host."""
        return self.passes_nodes or bool(self.imex_channels) or self.cdi


@dataclass(frozen=True, slots=True)
class HandOverTerms:
    """What a config says of it: None where it says nothing, and the options of the agent hold."""

    strategies: frozenset[ListStrategy] | None = None
    id_strategy: IdStrategy | None = None
    device_specs: bool | None = None
    dev_root: str | None = None
    gds: bool | None = None
    mofed: bool | None = None
    gdrcopy: bool | None = None
    imex_channels: tuple[int, ...] | None = None
    imex_required: bool | None = None
    annotation_prefix: str | None = None

    def over(self, base: HandOver) -> HandOver:
        """The options of the agent, with what the config says in their place."""
        said = {name: value for name in _TERMS if (value := getattr(self, name)) is not None}
        return HandOver(**{**{entry.name: getattr(base, entry.name) for entry in fields(base)}, **said})


_TERMS = tuple(entry.name for entry in fields(HandOverTerms))


@dataclass(frozen=True, slots=True)
class HostFiles:
    """What the host has for handing devices over, as far as it was looked for; `looked`: it was.

    `nodes` are those of CONTROL_NODES and IMEX_CHANNEL that are there; they are named as a container has them, and were
    looked for in the directory `dev`. `caps` are the nodes of MIG capabilities by (minor of the GPU, GPU instance,
    compute instance; None for the GPU instance itself). `cdi` maps each kind that has a CDI specification
    (`nvidia.com/gpu`) in one of `cdi_dirs` to the names of its devices. `cdi_minors` are the minors of the GPUs whose
    device nodes a CDI device (`nvidia.com/gpu=0`) brings, where its specification says so. `problem` says what could
    not be read.
    """

    looked: bool = False
    nodes: frozenset[str] = frozenset()
    caps: Mapping[tuple[int, int, int | None], str] = field(default_factory=dict)
    cdi: Mapping[str, frozenset[str]] = field(default_factory=dict)
    cdi_minors: Mapping[str, frozenset[int]] = field(default_factory=dict)
    dev: str = "/dev"
    cdi_dirs: tuple[str, ...] = ()
    problem: str = ""


class HandOverReason(Enum):
    """Whether the host has what containers are referred to: reasons of the condition HandOverReady."""

    NOTHING_NEEDED = "NothingNeeded"
    PENDING = "Pending"
    NODES_FOUND = "NodesFound"
    SPEC_FOUND = "SpecFound"
    SPEC_MISSING = "SpecMissing"
    SPEC_OUTDATED = "SpecOutdated"
    DEVICES_MISSING = "DevicesMissing"
    CHANNEL_MISSING = "ChannelMissing"
    MIG_BY_INDEX = "MigByIndex"
    INDEX_UNKNOWN = "IndexUnknown"

    @property
    def well(self) -> bool:
        """Whether nothing is missing."""
        return self in {HandOverReason.NOTHING_NEEDED, HandOverReason.NODES_FOUND, HandOverReason.SPEC_FOUND}
