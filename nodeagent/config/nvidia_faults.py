"""What is wrong with an NVIDIA file that fits the schema, before it can be told in rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from nodeagent.config.nvidia_file import MigStrategy, NvidiaFile, Resource, is_part
from nodeagent.documents.tree import Path
from nodeagent.model.config import Mode
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
    sharing = file.sharing
    if sharing is None:
        return
    if sharing.mode is Mode.MPS and file.strategy is MigStrategy.SINGLE:
        yield Fault(
            MIG_STRATEGY,
            'expected "none" or "mixed" beside sharing.mps, got "single": MIG devices cannot be shared under MPS, and'
            " would have the name of the GPUs that are",
        )
    first: dict[str, Resource] = {}
    for resource in sharing.resources():
        earlier = first.setdefault(resource.name, resource)
        if earlier is not resource:
            yield Fault(
                (*resource.path, "name"),
                f'expected each resource once, got "{resource.name}" again (first in line'
                f" {file.tree.where(earlier.path).line})",
            )
        elif resource.profile is not None and file.strategy is not MigStrategy.MIXED:
            yield Fault(
                (*resource.path, "name"),
                f'expected "nvidia.com/gpu", the only resource under migStrategy {file.strategy.value}, got'
                f' "{resource.name}"; write "migStrategy: mixed" under flags',
            )
        else:
            yield from _devices(resource, file.strategy)


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
