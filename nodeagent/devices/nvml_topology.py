"""How near GPUs are to one another, as NVML tells: each GPU of its way to the others, and what that adds up to.

Nothing here is vital. What a GPU does not tell is left out, and the pair scores what is known of it. A question about
two GPUs hangs where either does, and says nothing of which one it is: it is asked in threads of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations

import pynvml

from nodeagent.devices.nvml_calls import at
from nodeagent.devices.nvml_errors import Handle, NVMLError, optional
from nodeagent.devices.turns import Turns
from nodeagent.errand import Hangs
from nodeagent.model.inventory import Gpu
from nodeagent.model.topology import NVLINK, Distance, Topology

_DISTANCES = {
    pynvml.NVML_TOPOLOGY_INTERNAL: Distance.BOARD,
    pynvml.NVML_TOPOLOGY_SINGLE: Distance.SINGLE,
    pynvml.NVML_TOPOLOGY_MULTIPLE: Distance.MULTIPLE,
    pynvml.NVML_TOPOLOGY_HOSTBRIDGE: Distance.HOST_BRIDGE,
    pynvml.NVML_TOPOLOGY_NODE: Distance.NODE,
    pynvml.NVML_TOPOLOGY_SYSTEM: Distance.SYSTEM,
}


_NO_LINK = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_INVALID_ARGUMENT})
"""What a place answers in which there is no NVLink; there may be more behind it."""


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What one GPU tells: how far others are over PCIe, by uuid; how many NVLinks lead to what, by the bus id of that;
    and how many lead to switches.
    """

    distances: Mapping[str, Distance] = field(default_factory=dict)
    links: Mapping[str, int] = field(default_factory=dict)
    switched: int = 0


class Ways:
    """The ways between GPUs that answer. Belongs to one event loop.

    `deadline` is how long one of them may take to tell, in seconds; `on_late` is called when one tells after that.
    """

    def __init__(self, deadline: float, *, on_late: Callable[[], None]) -> None:
        self._deadline = deadline
        self._on_late = on_late
        self._turns: dict[int, Turns] = {}
        self._key: object = None
        self._told: dict[str, Neighbours] = {}

    @property
    def busy(self) -> bool:
        """Whether any GPU is being asked, or about to be."""
        return any(turns.busy for turns in self._turns.values())

    async def find(self, opening: int, gpus: Sequence[Gpu]) -> Topology:
        """How near these GPUs, which have just answered, are to one another. They are asked only where they are others
        than the last time, or the library is, and else those that did not tell then.
        """
        key = (opening, [(gpu.uuid, gpu.index) for gpu in gpus])
        if key != self._key:
            self._key, self._told = key, {}
        await asyncio.gather(*(self._ask(gpu, gpus) for gpu in gpus if gpu.uuid not in self._told))
        return topology(gpus, self._told)

    async def _ask(self, gpu: Gpu, gpus: Sequence[Gpu]) -> None:
        if gpu.index not in self._turns:
            self._turns[gpu.index] = Turns(f"nvml-ways-{gpu.index}", self._deadline, on_late=self._on_late)
        call = partial(neighbours, gpus[gpus.index(gpu) + 1 :])  # a pair is asked about once
        with contextlib.suppress(Hangs, NVMLError, UnicodeError):
            self._told[gpu.uuid] = await self._turns[gpu.index].run(partial(at, gpu.index, gpu.uuid, call))


def neighbours(others: Iterable[Gpu], handle: Handle) -> Neighbours:
    """Ask one GPU for its distance to these, and for all its NVLinks."""
    links, switched = _links(handle)
    return Neighbours(_distances(handle, others), links, switched)


def topology(gpus: Iterable[Gpu], told: Mapping[str, Neighbours]) -> Topology:
    """The score of each pair of these GPUs, from what they have told, by uuid. For one that has told nothing the other
    one's word counts.

    All GPUs with links to switches reach one another through them, by as many links as both of them have.
    """
    scores = {}
    for one, other in combinations(sorted(gpus, key=lambda gpu: gpu.uuid), 2):
        here, there = told.get(one.uuid, Neighbours()), told.get(other.uuid, Neighbours())
        distance = here.distances.get(other.uuid) or there.distances.get(one.uuid) or Distance.UNKNOWN
        direct = max(_to(other, here.links), _to(one, there.links))
        score = distance + NVLINK * (direct + min(here.switched, there.switched))
        if score:
            scores[one.uuid, other.uuid] = score
    return Topology(scores)


def _distances(handle: Handle, others: Iterable[Gpu]) -> dict[str, Distance]:
    found = {}
    for other in others:
        try:
            level = pynvml.nvmlDeviceGetTopologyCommonAncestor(handle, pynvml.nvmlDeviceGetHandleByIndex(other.index))
        except NVMLError:
            continue
        found[other.uuid] = _DISTANCES.get(level, Distance.UNKNOWN)
    return found


def _links(handle: Handle) -> tuple[Mapping[str, int], int]:
    links: Counter[str] = Counter()
    switched = 0
    for link in range(pynvml.NVML_NVLINK_MAX_LINKS):
        try:
            active = pynvml.nvmlDeviceGetNvLinkState(handle, link)
        except NVMLError as error:
            if error.value in _NO_LINK:
                continue
            break
        if not active:
            continue
        with contextlib.suppress(NVMLError, UnicodeError):
            kind = optional(pynvml.nvmlDeviceGetNvLinkRemoteDeviceType, handle, link)
            if kind == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH:
                switched += 1
            else:
                links[_address(pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle, link).busId)] += 1
    return links, switched


def _to(gpu: Gpu, links: Mapping[str, int]) -> int:
    return 0 if gpu.pci_bus_id is None else links.get(_address(gpu.pci_bus_id), 0)


def _address(bus_id: str) -> str:
    """A bus id as it compares: NVML writes the domain with four or eight digits."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain.lstrip('0')}:{rest}"
