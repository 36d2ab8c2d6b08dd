"""Rules that can never match, because earlier ones take all that they speak of: as far as the document shows it.

Rules without `mig` speak of whole GPUs, those with `mig` of MIG devices; without it, MIG devices can be named by their
UUIDs. What is withheld without `mig` is so with its MIG devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from fnmatch import fnmatchcase
from typing import Final

from nodeagent.config.sited import Sited
from nodeagent.model.config import Match, Mode, Rule

_NEVER: Final = "expected a rule that can match, got one that never does:"


class Kind(Enum):
    """What a rule may speak of."""

    GPUS = auto()
    PARTS = auto()


def never_matching(rules: Sequence[Sited]) -> Iterator[tuple[Sited, str]]:
    """Each rule that never matches, and what is said of it."""
    for position, sited in enumerate(rules):
        kinds = _spoken_of(sited.rule)
        before = [one for one in rules[:position] if kinds <= _taken(one.rule)]
        things = "MIG devices" if Kind.PARTS in kinds else "GPUs"
        earlier = next((one for one in before if _covers(one.rule.match, sited.rule.match)), None)
        if earlier is not None:
            taken = f"every {things[:-1]}" if _takes_all(earlier.rule.match) else f"all {things} that it names"
            why = f"{earlier.named} takes {taken} first; move this rule above it, or narrow that one"
            yield sited, f"{_NEVER} {why}"
        elif _covered_together([one.rule.match for one in before], sited.rule.match):
            why = f"the rules before it take all {things} that it names; remove it, or narrow them"
            yield sited, f"{_NEVER} {why}"


def takes_every_gpu(rule: Rule) -> bool:
    """Whether it leaves no whole GPU to others."""
    return Kind.GPUS in _taken(rule) and _takes_all(rule.match)


def _spoken_of(rule: Rule) -> set[Kind]:
    """What it is meant for."""
    if rule.match.mig_only:
        return {Kind.PARTS}
    return {Kind.GPUS, Kind.PARTS} if rule.match.parts else {Kind.GPUS}


def _taken(rule: Rule) -> set[Kind]:
    """What it leaves nothing of to others."""
    withheld = rule.mode is Mode.WITHHELD and not rule.match.mig_only
    return {Kind.GPUS, Kind.PARTS} if withheld else _spoken_of(rule)


def _takes_all(match: Match) -> bool:
    return (
        match.indices is None
        and match.uuids is None
        and match.min_memory is None
        and _anything(match.models)
        and _anything(match.mig)
    )


def _covers(wide: Match, narrow: Match) -> bool:
    """Whether everything that `narrow` matches is matched by `wide`, as far as the criteria themselves show it."""
    return (
        (wide.indices is None or (narrow.indices is not None and narrow.indices <= wide.indices))
        and (wide.uuids is None or (narrow.uuids is not None and narrow.uuids <= wide.uuids))
        and (wide.min_memory is None or (narrow.min_memory is not None and narrow.min_memory >= wide.min_memory))
        and _covers_globs(wide.models, narrow.models)
        and _covers_globs(wide.mig, narrow.mig)
    )


def _covers_globs(wide: Sequence[str] | None, narrow: Sequence[str] | None) -> bool:
    if wide is None or _anything(wide):
        return True
    return narrow is not None and all(
        any(glob == other or (not set(glob) & set("*?[") and fnmatchcase(glob, other)) for other in wide)
        for glob in narrow
    )


def _anything(globs: Sequence[str] | None) -> bool:
    return globs is None or any(glob.strip("*") == "" for glob in globs)


def _covered_together(before: Sequence[Match], match: Match) -> bool:
    """Whether rules that look at nothing but index, uuid or profile have together named all that `match` names."""
    indices: set[int] = set()
    uuids: set[str] = set()
    profiles: list[str] = []
    for one in before:
        if one.min_memory is not None or not _anything(one.models):
            continue
        if one.uuids is None and _anything(one.mig):
            indices |= one.indices or set()
        if one.indices is None and _anything(one.mig):
            uuids |= one.uuids or set()
        if one.indices is None and one.uuids is None:
            profiles.extend(one.mig or ())
    return (
        bool(match.indices and match.indices <= indices)
        or bool(match.uuids and match.uuids <= uuids)
        or bool(match.mig and profiles and _covers_globs(profiles, match.mig))
    )
