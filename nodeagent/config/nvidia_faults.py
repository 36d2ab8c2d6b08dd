"""What is wrong with an NVIDIA file that fits the schema, before it can be said in rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from nodeagent.config.nvidia_file import MigStrategy, NvidiaFile, Resource, in_domain, is_part
from nodeagent.documents.faults import show
from nodeagent.documents.tree import Path, dotted
from nodeagent.model.config import DEFAULT_RESOURCE, Mode, mig_resource
from nodeagent.model.handover import IdStrategy

MIG_STRATEGY: Final[Path] = ("flags", "migStrategy")


class Fault(NamedTuple):
    """Where, and what."""

    path: Path
    message: str


def faults(file: NvidiaFile) -> Iterator[Fault]:
    """Everything that contradicts itself, or could do nothing."""
    if file.plugin.get("deviceIDStrategy") == IdStrategy.INDEX.value and file.strategy is not MigStrategy.NONE:
        yield Fault(
            ("flags", "plugin", "deviceIDStrategy"),
            f'expected "uuid" beside migStrategy {file.strategy.value}, got "index": the index that a container runtime'
            " gives a MIG device is not known here",
        )
    yield from _named(file.root.get("resources", {}))
    sharing = file.sharing
    if sharing is None:
        return
    if sharing.mode is Mode.MPS and file.strategy is MigStrategy.SINGLE:
        yield Fault(
            MIG_STRATEGY,
            'expected "none" or "mixed" beside sharing.mps, got "single": MIG devices cannot be shared under MPS, and'
            " would have the name of the GPUs that are",
        )
    taken = _Taken(file)
    for resource in sharing.resources():
        if (twice := taken.again(resource)) is not None:
            yield twice
        elif resource.profile is not None and file.strategy is not MigStrategy.MIXED:
            yield Fault(
                (*resource.path, "name"),
                f'expected "nvidia.com/gpu", the only resource under migStrategy {file.strategy.value}, got'
                f' "{resource.name}"; write "migStrategy: mixed" under flags',
            )
        else:
            yield from _devices(resource, file.strategy)


class _Taken:
    """Which devices of each resource earlier entries have. Entries of one resource share different devices, and the
    last of them may share all the others.
    """

    def __init__(self, file: NvidiaFile) -> None:
        self._file = file
        self._all: dict[str, Resource] = {}
        self._by_item: dict[tuple[str, int | str], Resource] = {}

    def again(self, resource: Resource) -> Fault | None:
        """What is wrong with an entry because of an earlier one, if anything is."""
        if (earlier := self._all.get(resource.name)) is not None:
            return Fault(
                (*resource.path, "name"),
                f'expected each resource once, got "{resource.name}" again, of which {self._place(earlier)} shares all;'
                " write this entry above that one, with `devices`, to share some of them in another way",
            )
        if resource.devices == "all":
            self._all[resource.name] = resource
            return None
        items: list[int | str] = [*sorted(resource.indices or ()), *sorted(resource.uuids)]
        for item in items:
            earlier = self._by_item.setdefault((resource.name, item), resource)
            if earlier is not resource:
                return Fault(
                    (*resource.path, "devices"),
                    f"expected each device in one entry of {resource.name}, got {item} again, which"
                    f" {self._place(earlier)} shares; remove it from one of them",
                )
        return None

    def _place(self, resource: Resource) -> str:
        return f"{dotted(resource.path)} (line {self._file.tree.where(resource.path).line})"


def _named(resources: Mapping[str, Any]) -> Iterator[Fault]:
    """NVIDIA's plugin ignores what the file says of names, and then adds and logs its own: those may stand there."""
    for key in ("gpus", "mig"):
        for position, entry in enumerate(resources.get(key, ())):
            pattern, name = entry["pattern"], in_domain(entry["name"])
            profiles = key == "mig" and name == mig_resource(pattern)
            if not profiles and (pattern != "*" or name != DEFAULT_RESOURCE):
                yield Fault(
                    ("resources", key, position),
                    "expected no other resources than NVIDIA's plugin adds itself, got"
                    f" {show(name)} for {show(pattern)}, which it would ignore; remove it,"
                    " `rename` under sharing gives shares another name",
                )


def _devices(resource: Resource, strategy: MigStrategy) -> Iterator[Fault]:
    if resource.profile is not None and isinstance(resource.devices, int):
        yield Fault(
            (*resource.path, "devices"),
            f'expected "all" or a list for MIG devices, which are not numbered, got {resource.devices}; list their'
            " UUIDs, or the indices of their GPUs",
        )
    if resource.profile is not None or strategy is MigStrategy.SINGLE:
        return
    why = (
        'migStrategy none offers no MIG devices; write "migStrategy: mixed" under flags'
        if strategy is MigStrategy.NONE
        else "under migStrategy mixed nvidia.com/gpu is whole GPUs; list it under its own nvidia.com/mig-<profile>"
    )
    for position, item in enumerate(resource.listed):
        if is_part(item):
            yield Fault((*resource.path, "devices", position), f'expected GPUs, got "{item}": {why}')
