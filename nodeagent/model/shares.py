"""Shares: the device ids that the kubelet is told of, and who has them.

Inside the agent a share is a number on a GPU; its id, `<uuid>` for an exclusive GPU and `<uuid>::<n>` else (NVIDIA's
form, since exporters parse it), is made at the edge. A number is a tenth of the memory of its id, and 40,000 of them
are handled per reload.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from nodeagent.model.config import Contract, Mode
from nodeagent.model.health import describe_xids
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth

MAX_ID_LENGTH = 63
"""Longest device id that the kubelet takes (`Device.ID`, device plugin API v1beta1)."""

MAX_NUMBER = 1_000_000
"""Highest number of a share: no list of the kubelet's 4 MiB has as many. An id with a higher one is nobody's share."""


_MOST_DIGITS = len(str(MAX_NUMBER))


def share_id(uuid: str, mode: Mode, number: int) -> str:
    """`<uuid>` for an exclusive GPU, `<uuid>::<number>` else."""
    return uuid if mode is Mode.EXCLUSIVE else f"{uuid}::{number}"


def split_share_id(share: str) -> tuple[str, int | None]:
    """(uuid, number), number None for an id without one. Raises ValueError where `::` is not followed by the number of
    a share, as `share_id` writes it.
    """
    uuid, separator, number = share.partition("::")
    if not separator:
        return share, None
    found = read_number(number)
    if found is None:
        raise ValueError(f"not a share id: {share[:80]!r}")
    return uuid, found


def read_number(text: str) -> int | None:
    """The number that is written so, in ASCII and without leading zeros; None for what is no number of a share."""
    # By its length first: text of thousands of digits is not converted at all.
    if not (0 < len(text) <= _MOST_DIGITS and text.isascii() and text.isdigit()):
        return None
    number = int(text)
    return number if number <= MAX_NUMBER and str(number) == text else None


class ShareState(Enum):
    """What the metrics and the status say of a share. HELD, DRAINING and FENCED are as in the glossary."""

    FREE = "free"
    HELD = "held"
    DRAINING = "draining"
    FENCED = "fenced"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class AppliedGpu:
    """What the agent has told the kubelet of one GPU: durable, written before it is advertised.

    `unseen` is True while a GPU remembered from before a reboot has not been listed by the driver again.
    `gpu` are the facts last seen, its index the remembered one. `contract` None means that nothing is advertised.
    `numbers` are the shares on the list; `fences` maps those that are sent Unhealthy on their way out to the
    monotonic second in which that was published. `leaving` is True once the GPU has begun to leave its contract for
    another one, or for none. `fault` says why the GPU's MPS daemon cannot be relied on: it is empty
    while it can, and where none is needed. `xids` are those that make it unhealthy, with when each came last
    (monotonic seconds), and `driver_load` is the loading of the driver in which they came.
    """

    gpu: Gpu
    contract: Contract | None = None
    numbers: frozenset[int] = frozenset()
    fences: Mapping[int, float] = field(default_factory=dict)
    max_shares_per_container: int | None = None
    unseen: bool = False
    fault: str = ""
    xids: Mapping[int, float] = field(default_factory=dict)
    driver_load: str | None = None
    leaving: bool = False

    @property
    def well(self) -> bool:
        """Whether the GPU itself can be relied on: whatever becomes of its MPS daemon."""
        return self.gpu.health is GpuHealth.OK and not self.xids

    @property
    def healthy(self) -> bool:
        """Whether the shares of this GPU are sent as Healthy, but for those that are fenced."""
        return self.well and not self.fault

    @property
    def trouble(self) -> str:
        """Why they are not."""
        if self.gpu.health is not GpuHealth.OK:
            return f"{self.gpu.name} {self.gpu.health.said()}: {self.gpu.message}"
        if self.xids:
            return f"{self.gpu.name}: {describe_xids(self.xids)}"
        return f"{self.gpu.name}: {self.fault}" if self.fault else ""

    def ids(self, numbers: Iterable[int]) -> Iterator[str]:
        """Ids of the given shares, in ascending order of number. Only meaningful with a contract."""
        if self.contract is not None:
            for number in sorted(numbers):
                yield share_id(self.gpu.uuid, self.contract.mode, number)

    def keys(self, numbers: Iterable[int]) -> Iterator[ShareKey]:
        """The same, each with its resource."""
        if self.contract is not None:
            for share in self.ids(numbers):
                yield self.contract.resource, share


@dataclass(frozen=True, slots=True)
class Applied:
    """The applied contract of the whole node: one entry per GPU that was ever seen and is not forgotten."""

    gpus: Mapping[str, AppliedGpu] = field(default_factory=dict)

    def ordered(self) -> list[AppliedGpu]:
        return sorted(self.gpus.values(), key=lambda entry: entry.gpu.place)

    def resources(self) -> frozenset[str]:
        return frozenset(entry.contract.resource for entry in self.gpus.values() if entry.contract is not None)


class ShareIds(AbstractSet[str]):
    """The ids of some shares of some GPUs, without any of them in memory: of each GPU, by uuid, those whose number is
    in one of several sets.
    """

    def __init__(self, gpus: Mapping[str, AppliedGpu], numbers: Mapping[str, tuple[AbstractSet[int], ...]]) -> None:
        self._gpus = gpus
        self._numbers = {uuid: sets for uuid, sets in numbers.items() if any(sets)}

    def __contains__(self, share: object) -> bool:
        if not self._numbers or not isinstance(share, str):
            return False
        uuid, separator, text = share.partition("::")
        sets, entry = self._numbers.get(uuid), self._gpus.get(uuid)
        if sets is None or entry is None or entry.contract is None:
            return False
        if (entry.contract.mode is Mode.EXCLUSIVE) is bool(separator):
            return False
        number = read_number(text) if separator else 0
        return number is not None and any(number in numbers for numbers in sets)

    def __iter__(self) -> Iterator[str]:
        for uuid, sets in self._numbers.items():
            yield from self._gpus[uuid].ids(frozenset().union(*sets))

    def __len__(self) -> int:
        return sum(len(frozenset().union(*sets)) for sets in self._numbers.values())

    def __bool__(self) -> bool:
        return bool(self._numbers)

    @classmethod
    def _from_iterable(cls, shares: Iterable[str]) -> frozenset[str]:  # type: ignore[override]  # what is left of it
        return frozenset(shares)


class Device(NamedTuple):
    """One line of a list that the kubelet gets. A tuple, since 40,000 of them are made per list. `numa` is the NUMA
    node of the GPU, None where it is not known.
    """

    id: str
    healthy: bool
    numa: int | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """The whole list of one resource; `revision` grows with every change of it."""

    resource: str
    revision: int
    devices: tuple[Device, ...]
