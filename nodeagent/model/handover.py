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
    """What names a GPU to the container runtime."""

    UUID = "uuid"
    INDEX = "index"


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
    """What the host has for handing devices over, as far as it was looked for.

    `nodes` are the paths of NVIDIA's device nodes as a container has them (`/dev/nvidiactl`), whatever root they are
    below on the host. `caps` are those of MIG by (minor of the GPU, GPU instance, compute instance, None for the GPU
    instance itself). `cdi` maps the kind of each CDI specification (`nvidia.com/gpu`) to the names of its devices;
    `problem` says why it could not be looked.
    """

    nodes: frozenset[str] = frozenset()
    caps: Mapping[tuple[int, int, int | None], str] = field(default_factory=dict)
    cdi: Mapping[str, frozenset[str]] = field(default_factory=dict)
    problem: str = ""
