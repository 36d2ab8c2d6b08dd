"""Rules that can never match, because earlier ones take all that they speak of: as far as the document shows it.

Rules without `mig` speak of whole GPUs, those with `mig` of MIG devices; without it, MIG devices can be named by their
UUIDs. What is withheld without `mig` is so with its MIG devices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final

from nodeagent.config.globs import Budget, Globs
from nodeagent.config.sited import Sited
from nodeagent.model.config import Match, Mode, Rule

_NEVER: Final = "expected a rule that can match, got one that never does:"


class Kind(Enum):
    """What a rule may speak of."""

    GPUS = auto()
    PARTS = auto()


_GPUS: Final = frozenset({Kind.GPUS})
_PARTS: Final = frozenset({Kind.PARTS})
_ALL: Final = _GPUS | _PARTS


def never_matching(rules: Sequence[Sited]) -> Iterator[tuple[Sited, str]]:
    """Each rule that never matches, and what is said of it."""
    budget = Budget()
    taken = {kinds: _Earlier() for kinds in (_GPUS, _PARTS, _ALL)}
    for sited in rules:
        rule = _Criteria(sited)
        kinds = _spoken_of(sited.rule)
        things = "MIG devices" if Kind.PARTS in kinds else "GPUs"
        if (earlier := taken[kinds].by_one(rule, budget)) is not None:
            what = f"every {things[:-1]}" if _takes_all(earlier.rule.match) else f"all {things} that it names"
            why = f"{earlier.named} takes {what} first; move this rule above it, or narrow that one"
            yield sited, f"{_NEVER} {why}"
        elif taken[kinds].by_all(rule, budget):
            why = f"the rules before it take all {things} that it names; remove it, or narrow them"
            yield sited, f"{_NEVER} {why}"
        for others, earlier_ones in taken.items():
            if others <= _taken(sited.rule):
                earlier_ones.add(rule)


def takes_every_gpu(rule: Rule) -> bool:
    """Whether it leaves no whole GPU to others."""
    return Kind.GPUS in _taken(rule) and _takes_all(rule.match)


def _spoken_of(rule: Rule) -> frozenset[Kind]:
    """What it is meant for."""
    if rule.match.mig_only:
        return _PARTS
    return _ALL if rule.match.parts else _GPUS


def _taken(rule: Rule) -> frozenset[Kind]:
    """What it leaves nothing of to others."""
    withheld = rule.mode is Mode.WITHHELD and not rule.match.mig_only
    return _ALL if withheld else _spoken_of(rule)


def _takes_all(match: Match) -> bool:
    return (
        match.indices is None
        and match.uuids is None
        and match.min_memory is None
        and _narrowing(match.models) is None
        and _narrowing(match.mig) is None
    )


def _narrowing(globs: Sequence[str] | None) -> Globs | None:
    """The globs of a criterion; None where they let anything pass."""
    found = None if globs is None else Globs(globs)
    return None if found is None or found.anything else found


class _Criteria:
    """What a rule matches, ready to be compared with many others."""

    def __init__(self, sited: Sited) -> None:
        self.sited = sited
        self.match = sited.rule.match
        self.models = _narrowing(self.match.models)
        self.mig = _narrowing(self.match.mig)

    def covers(self, other: _Criteria, budget: Budget) -> bool:
        """Whether everything that the other one matches is matched by this, as far as the criteria themselves show."""
        wide, narrow = self.match, other.match
        return (
            (wide.indices is None or (narrow.indices is not None and narrow.indices <= wide.indices))
            and (wide.uuids is None or (narrow.uuids is not None and narrow.uuids <= wide.uuids))
            and (wide.min_memory is None or (narrow.min_memory is not None and narrow.min_memory >= wide.min_memory))
            and (self.models is None or (other.models is not None and self.models.cover(other.models, budget)))
            and (self.mig is None or (other.mig is not None and self.mig.cover(other.mig, budget)))
        )


class _Earlier:
    """Rules, and what they take: each for itself, and together those that look only at index, uuid or profile."""

    def __init__(self) -> None:
        self._rules: list[_Criteria] = []
        self._indices: set[int] = set()
        self._uuids: set[str] = set()
        self._profiles = Globs()

    def add(self, rule: _Criteria) -> None:
        """One more."""
        self._rules.append(rule)
        match = rule.match
        if match.min_memory is not None or rule.models is not None:
            return
        if match.uuids is None and rule.mig is None:
            self._indices |= match.indices or set()
        if match.indices is None and rule.mig is None:
            self._uuids |= match.uuids or set()
        if match.indices is None and match.uuids is None:
            self._profiles.add(match.mig or ())

    def by_one(self, rule: _Criteria, budget: Budget) -> Sited | None:
        """The first one that takes all that this rule matches."""
        return next((one.sited for one in self._rules if one.covers(rule, budget)), None)

    def by_all(self, rule: _Criteria, budget: Budget) -> bool:
        """Whether they have together named all that this rule names."""
        match = rule.match
        return (
            bool(match.indices and match.indices <= self._indices)
            or bool(match.uuids and match.uuids <= self._uuids)
            or bool(match.mig and self._profiles.cover(Globs(match.mig), budget))
        )
