"""What a schema cannot say: rules that contradict each other, or that could never do anything.

Only what the document alone decides is checked here, so that CI can check it without a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from nodeagent.config.sited import Sited
from nodeagent.model.config import DEFAULT_RESOURCE, IMPLICIT_RULE, Match, Mode, Rule, Stage, Violation, Where
from nodeagent.model.shares import MAX_ID_LENGTH


@dataclass(frozen=True, slots=True)
class _Objection:
    where: Where
    message: str


def check_rules(rules: Sequence[Sited]) -> tuple[Violation, ...]:
    """Everything that is wrong with these rules taken together (stage semantic), in the order of the file."""
    found = [*_repeated_names(rules), *_never_matching(rules), *_ambiguous_resources(rules), *_long_ids(rules)]
    found.sort(key=lambda one: (one.where.line, one.where.column))
    return tuple(Violation(rules[0].tree.file, one.where, one.message, Stage.SEMANTIC) for one in found)


def _repeated_names(rules: Sequence[Sited]) -> Iterator[_Objection]:
    first: dict[str, Sited] = {}
    for sited in rules:
        earlier = first.setdefault(sited.rule.name, sited)
        if earlier is not sited:
            line = earlier.where("name").line
            message = f'expected each rule name once, got "{sited.rule.name}" again (first in line {line})'
            yield _Objection(sited.where("name"), message)


def _never_matching(rules: Sequence[Sited]) -> Iterator[_Objection]:
    for position, sited in enumerate(rules):
        before = rules[:position]
        earlier = next((one for one in before if _covers(one.rule.match, sited.rule.match)), None)
        if earlier is not None:
            taken = "every GPU" if _takes_all(earlier.rule.match) else "all GPUs that it names"
            yield _Objection(
                sited.where(),
                f"expected a rule that can match, got one that never does: {_named(earlier)} takes {taken} first;"
                " move this rule above it, or narrow that one",
            )
        elif before and _covered_together([one.rule.match for one in before], sited.rule.match):
            yield _Objection(
                sited.where(),
                "expected a rule that can match, got one that never does: the rules before it take all GPUs that it"
                " names; remove it, or narrow them",
            )


def _ambiguous_resources(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """A resource name stands for one mode and one set of limits on a node."""
    first: dict[str, Sited] = {}
    leftover = not any(_takes_all(sited.rule.match) for sited in rules)
    for sited in rules:
        rule = sited.rule
        if rule.contract is None:
            continue
        resource = rule.contract.resource
        earlier = first.setdefault(resource, sited)
        expected = f"expected one mode and one limit for {resource}, got "
        if earlier is not sited and _terms(rule) != _terms(earlier.rule):
            shared = earlier if rule.mode is Mode.EXCLUSIVE and earlier.rule.mode is Mode.TIME_SLICED else sited
            message = (
                f'{_terms(earlier.rule)} in {_named(earlier)} and {_terms(rule)} in "{rule.name}";'
                f" {_another_name(shared, resource, rules)}"
            )
            yield _Objection(sited.where("resource"), expected + message)
        elif earlier is sited and leftover and resource == DEFAULT_RESOURCE and _terms(rule) != _terms(IMPLICIT_RULE):
            message = (
                f'{_terms(rule)} in "{rule.name}" and {_terms(IMPLICIT_RULE)} for the GPUs that no rule matches;'
                f" {_another_name(sited, resource, rules)}, or let a rule match every GPU"
            )
            yield _Objection(sited.where("resource"), expected + message)


def _long_ids(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """The kubelet takes ids of at most 63 characters, and an id is `<uuid>::<n>`."""
    for sited in rules:
        if sited.rule.mode is not Mode.TIME_SLICED:
            continue
        suffix = len(f"::{sited.rule.replicas - 1}")
        for uuid in sorted(sited.rule.match.uuids or ()):
            length = len(uuid) + suffix
            if length > MAX_ID_LENGTH:
                yield _Objection(
                    sited.where("replicas"),
                    f"expected share ids of at most {MAX_ID_LENGTH} characters, got {length} for"
                    f" {uuid}::{sited.rule.replicas - 1}; the kubelet takes no longer ones",
                )


def _named(sited: Sited) -> str:
    return f'rule "{sited.rule.name}" (line {sited.where().line})'


def _terms(rule: Rule) -> str:
    limit = rule.max_shares_per_container
    return rule.mode.value if limit is None else f"{rule.mode.value} with at most {limit} per container"


def _another_name(sited: Sited, resource: str, rules: Sequence[Sited]) -> str:
    """The mend: a name that is free and, if it can, says what the shares are."""
    taken = {one.rule.contract.resource for one in rules if one.rule.contract is not None}
    name = f"{resource}.shared"
    if name in taken or sited.rule.mode is not Mode.TIME_SLICED or resource.endswith(".shared"):
        name = f"{resource}-{sited.rule.name}"
    return f'give the shares of "{sited.rule.name}" another name, such as "{sited.key("resource")}: {name}"'


def _takes_all(match: Match) -> bool:
    return match.indices is None and match.uuids is None and match.min_memory is None and _any_model(match)


def _any_model(match: Match) -> bool:
    return match.models is None or any(glob.strip("*") == "" for glob in match.models)


def _covers(wide: Match, narrow: Match) -> bool:
    """Whether everything that `narrow` matches is matched by `wide`, as far as the criteria themselves show it."""
    return (
        (wide.indices is None or (narrow.indices is not None and narrow.indices <= wide.indices))
        and (wide.uuids is None or (narrow.uuids is not None and narrow.uuids <= wide.uuids))
        and (wide.min_memory is None or (narrow.min_memory is not None and narrow.min_memory >= wide.min_memory))
        and (_any_model(wide) or _covers_models(wide.models or (), narrow.models))
    )


def _covers_models(wide: Sequence[str], narrow: Sequence[str] | None) -> bool:
    return narrow is not None and all(
        any(glob == other or (not set(glob) & set("*?[") and fnmatchcase(glob, other)) for other in wide)
        for glob in narrow
    )


def _covered_together(before: Sequence[Match], match: Match) -> bool:
    """Whether rules that look at nothing but index, or nothing but uuid, have together named all that `match` names."""
    indices: set[int] = set()
    uuids: set[str] = set()
    for one in before:
        if _any_model(one) and one.min_memory is None:
            if one.uuids is None:
                indices |= one.indices or set()
            if one.indices is None:
                uuids |= one.uuids or set()
    return bool(match.indices and match.indices <= indices) or bool(match.uuids and match.uuids <= uuids)
