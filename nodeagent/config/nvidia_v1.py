"""NVIDIA's `version: v1` file: what it means here, with the resource names and ids that NVIDIA's plugin would give.

`devices` and `rename`, which NVIDIA's plugin parses and ignores, work; a note tells the author of the difference.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from nodeagent.config.nvidia_faults import MIG_STRATEGY, faults
from nodeagent.config.nvidia_file import MigStrategy, NvidiaFile, Resource, Sharing
from nodeagent.config.nvidia_notes import notes
from nodeagent.config.sited import Sited
from nodeagent.documents.tree import Path, Tree, dotted
from nodeagent.model.config import (
    DEFAULT_RESOURCE,
    MIG_RESOURCES,
    Contract,
    LabelTerms,
    Match,
    Mode,
    MpsTerms,
    Placement,
    Rule,
    SharingConfig,
    Stage,
    Violation,
)
from nodeagent.model.handover import HandOverTerms, IdStrategy

SCHEMA: Final = "nvidia-v1"

_POLICY: Final[Path] = ("flags", "plugin", "sharedDevicesAllocationPolicy")

_WHOLE_GPUS: Final = Rule("whole-gpus", Match(), Contract(DEFAULT_RESOURCE, Mode.EXCLUSIVE), 1)
_MIG_DEVICES: Final = replace(_WHOLE_GPUS, name="mig-devices", match=Match(mig=("*",)))
"""Under NVIDIA's strategy `single`, whether anything is shared or not."""

_BY_PROFILE: Final = replace(_MIG_DEVICES, contract=Contract(MIG_RESOURCES, Mode.EXCLUSIVE))
"""Under `mixed`, as they are by default."""


def check(tree: Tree) -> tuple[Violation, ...]:
    """What is wrong with a tree that fits the schema, before it can be said in rules (stage semantic)."""
    found = faults(NvidiaFile(tree))
    return tuple(Violation(tree.file, tree.where(path), message, Stage.SEMANTIC) for path, message in found)


def parse(tree: Tree) -> tuple[SharingConfig, tuple[Sited, ...]]:
    """The config that a tree means, and its rules with their places. The tree must fit the schema and pass `check`."""
    file = NvidiaFile(tree)
    sited = tuple(_rules(file))
    config = SharingConfig(
        name="",
        rules=tuple(one.rule for one in sited),
        mig=file.strategy is not MigStrategy.NONE,
        handover=_handover(file),
        labels=LabelTerms(mig_strategy=file.strategy.value, timestamp=not file.gfd.get("noTimestamp", False)),
        notes=tuple(notes(file)),
    )
    return config, sited


def _handover(file: NvidiaFile) -> HandOverTerms:
    """How devices are handed over, as far as the file says it: nothing of it is a default of the file's."""
    flags, plugin, imex = file.flags, file.plugin, file.imex
    by_id = plugin.get("deviceIDStrategy")
    channels = imex.get("channelIDs")
    return HandOverTerms(
        strategies=file.list_strategies,
        id_strategy=None if by_id is None else IdStrategy(by_id),
        device_specs=plugin.get("passDeviceSpecs"),
        dev_root=flags.get("nvidiaDevRoot") or flags.get("nvidiaDriverRoot") or None,
        gds=flags.get("gdsEnabled"),
        mofed=flags.get("mofedEnabled"),
        gdrcopy=flags.get("gdrcopyEnabled"),
        imex_channels=None if channels is None else tuple(channels),
        imex_required=imex.get("required"),
        annotation_prefix=plugin.get("cdiAnnotationPrefix"),
    )


def _rules(file: NvidiaFile) -> Iterator[Sited]:
    """What is shared; then, where the names by which MIG devices go here by default are not NVIDIA's, those too."""
    sharing = file.sharing
    if sharing is None:
        yield _sited(file, _WHOLE_GPUS, ())
    else:
        entries: Counter[str] = Counter()
        for resource in sharing.resources():
            entries[resource.name] += 1
            yield from _shared(file, sharing, resource, entries[resource.name])
    if file.strategy is MigStrategy.SINGLE and (
        sharing is None or all(one.devices != "all" for one in sharing.resources())
    ):
        yield _sited(file, replace(_MIG_DEVICES, placement=file.placement), MIG_STRATEGY)
    if file.strategy is MigStrategy.MIXED and file.placement is not Placement.DISTRIBUTED:
        yield _sited(file, replace(_BY_PROFILE, placement=file.placement), _POLICY)


def _shared(file: NvidiaFile, sharing: Sharing, resource: Resource, entry: int) -> Iterator[Sited]:
    """Under MPS the limits are NVIDIA's equal parts, which are our defaults. Several shares of a container are of one
    GPU there, so that as many as there are is no limit. `entry` is which one of this resource it is, from 1.
    """
    under_mps = sharing.mode is Mode.MPS
    replicas = resource.entry["replicas"]
    most = replicas if under_mps else None
    for suffix, match in _matches(resource, file.strategy):
        rule = Rule(
            name=f"{sharing.name}{suffix}{f'-{entry}' if entry > 1 else ''}",
            match=match,
            contract=Contract(sharing.called(resource), sharing.mode),
            replicas=replicas,
            max_shares_per_container=1 if sharing.fails_above_one else most,
            mps=MpsTerms() if under_mps else None,
            placement=file.placement,
        )
        yield _sited(file, rule, resource.path)


def _matches(resource: Resource, strategy: MigStrategy) -> Iterator[tuple[str, Match]]:
    """What a resource and its `devices` select, by what is added to the name of the rule: whole GPUs, MIG devices of a
    profile, or, under `single`, either.
    """
    for suffix, match in _selected(resource):
        if resource.profile is not None:
            named = re.sub("[^a-z0-9]+", "-", resource.profile)
            yield f"-{named}{suffix}", replace(match, mig=(resource.profile,))
            continue
        if match.uuids is None or match.parts != match.uuids:
            yield suffix, replace(match, uuids=None if match.uuids is None else match.uuids - match.parts)
        if strategy is MigStrategy.SINGLE:
            yield f"-mig{suffix}", replace(match, mig=("*",))


def _selected(resource: Resource) -> Iterator[tuple[str, Match]]:
    """Indices and UUIDs are two rules, since criteria of one rule must hold together."""
    uuids, indices = resource.uuids, resource.indices
    if not uuids:
        yield "", Match(indices=indices)
        return
    if indices:
        yield "-by-index", Match(indices=indices)
    yield "-by-uuid" if indices else "", Match(uuids=uuids)


def _sited(file: NvidiaFile, rule: Rule, path: Path) -> Sited:
    """`resource` is called `rename` there; a rule that nothing in the file names has no fields."""
    keys = {"resource": ("rename",)} if path not in {(), MIG_STRATEGY, _POLICY} else {"resource": ()}
    origin = dotted(path) or "this file"
    return Sited(replace(rule, where=file.tree.where(path), origin=origin), file.tree, path, keys)
