"""A piece of silicon: a GPU with its MIG devices, which is planned by itself so that its trouble is nobody else's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.state.observed import Holdings, Observed, by_gpu, holdings


@dataclass(frozen=True, slots=True)
class Family:
    """One of them, by the uuid of its GPU: `gpus` are what the node has of it now, `applied` what is applied of it, and
    `held` the shares of it that pods have or may have, by uuid.
    """

    uuid: str
    gpus: tuple[Gpu, ...] = ()
    applied: Applied = field(default_factory=Applied)
    held: Mapping[str, tuple[ShareKey, ...]] = field(default_factory=dict)

    def holdings(self, entry: AppliedGpu) -> Holdings:
        """Who has what of one of its members."""
        return holdings(entry, self.held.get(entry.gpu.uuid, ()))


def families(observed: Observed) -> tuple[Family, ...]:
    """All of a node, in the order of its GPUs."""
    gpus: dict[str, list[Gpu]] = {}
    entries: dict[str, dict[str, AppliedGpu]] = {}
    for gpu in observed.gpus:
        gpus.setdefault(gpu.physical, []).append(gpu)
    for uuid, entry in observed.applied.gpus.items():
        entries.setdefault(entry.gpu.physical, {})[uuid] = entry
    held = by_gpu(observed.held)
    found = []
    for physical in dict.fromkeys((*gpus, *entries)):
        members = dict.fromkeys((*(gpu.uuid for gpu in gpus.get(physical, ())), *entries.get(physical, ())))
        family = Family(
            physical,
            tuple(gpus.get(physical, ())),
            Applied(entries.get(physical, {})),
            {uuid: tuple(held[uuid]) for uuid in members if uuid in held},
        )
        found.append(family)
    return tuple(found)


def is_beside(entry: AppliedGpu, others: Mapping[str, AppliedGpu]) -> bool:
    """Whether any of the others is the same silicon in the other form: the GPU of this MIG device, or a MIG device of
    this GPU.
    """
    gpu = entry.gpu
    if gpu.mig is not None:
        return gpu.mig.parent in others
    return any(other.gpu.mig is not None and other.gpu.mig.parent == gpu.uuid for other in others.values())
