"""What a schema cannot say: rules that contradict each other, or that could never do anything.

Only what the document alone decides is checked here, so that CI can check it without a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

from nodeagent.config.reach import never_matching, takes_every_gpu
from nodeagent.config.sited import Sited
from nodeagent.documents.quantities import format_quantity
from nodeagent.documents.tree import MOST_KEPT
from nodeagent.model.config import (
    DEFAULT_RESOURCE,
    IMPLICIT_RULE,
    MIG_RESOURCES,
    Mode,
    Rule,
    Stage,
    Violation,
    Where,
)
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import MAX_ID_LENGTH

_SHARED: Final = {Mode.TIME_SLICED: ".shared", Mode.MPS: ".mps"}
"""Modes in which a GPU has several shares, and how the name of such shares usually ends."""

_ANY_GPU: Final = Gpu("", 0, "", 0)
"""Shows those limits of a rule that follow from no GPU."""


@dataclass(frozen=True, slots=True)
class _Objection:
    where: Where
    message: str


def check_rules(rules: Sequence[Sited]) -> tuple[Violation, ...]:
    """Everything that is wrong with these rules taken together (stage semantic), in the order of the file."""
    found = [
        *_repeated_names(rules),
        *_never_matching(rules),
        *_ambiguous_resources(rules),
        *_placements(rules),
        *_mig_devices(rules),
        *islice(_long_ids(rules), MOST_KEPT),
        *_idle_fields(rules),
    ]
    found.sort(key=lambda one: (one.where.line, one.where.column))
    # Two rules may have been made of one entry.
    once = dict.fromkeys(Violation(rules[0].tree.file, one.where, one.message, Stage.SEMANTIC) for one in found)
    return tuple(once)


def _repeated_names(rules: Sequence[Sited]) -> Iterator[_Objection]:
    first: dict[str, Sited] = {}
    for sited in rules:
        earlier = first.setdefault(sited.rule.name, sited)
        if earlier is not sited:
            line = earlier.where("name").line
            message = f'expected each rule name once, got "{sited.rule.name}" again (first in line {line})'
            yield _Objection(sited.where("name"), message)


def _never_matching(rules: Sequence[Sited]) -> Iterator[_Objection]:
    for sited, message in never_matching(rules):
        yield _Objection(sited.where(), message)


def _ambiguous_resources(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """A resource name stands for one mode and one set of limits on a node. What names by profile MIG devices will have
    is known on the node only.
    """
    first: dict[str, Sited] = {}
    leftover = not any(takes_every_gpu(sited.rule) for sited in rules)
    for sited in rules:
        rule = sited.rule
        if rule.contract is None or rule.contract.resource == MIG_RESOURCES:
            continue
        resource = rule.contract.resource
        earlier = first.setdefault(resource, sited)
        expected = f"expected one mode and one set of limits for {resource}, got "
        # What is as the GPUs that no rule matches is told of with them, once.
        by_default = leftover and resource == DEFAULT_RESOURCE and _terms(rule) == _terms(IMPLICIT_RULE)
        if earlier is not sited and _terms(rule) != _terms(earlier.rule) and not by_default:
            whole_after_shared = rule.mode is Mode.EXCLUSIVE and earlier.rule.mode is not Mode.EXCLUSIVE
            message = (
                f"{_terms(earlier.rule)} in {earlier.named} and {_terms(rule)} in {_called(sited, sited)};"
                f" {_another_name(earlier if whole_after_shared else sited, sited, resource, rules)}"
            )
            yield _Objection(sited.where("resource"), expected + message)
        elif leftover and resource == DEFAULT_RESOURCE and _terms(rule) != _terms(IMPLICIT_RULE):
            rest, or_else = _leftover(sited, rules)
            message = (
                f"{_terms(rule)} in {_called(sited, sited)} and {_terms(IMPLICIT_RULE)} for the GPUs that {rest};"
                f" {_another_name(sited, sited, resource, rules)}{or_else}"
            )
            yield _Objection(sited.where("resource"), expected + message)


def _placements(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """Which shares a container should get is asked of a resource, so its rules must agree. It is not asked of whole
    GPUs, where the distances between them decide.
    """
    first: dict[str, Sited] = {}
    for sited in rules:
        rule = sited.rule
        if rule.contract is None:
            continue
        if rule.mode is Mode.EXCLUSIVE and not rule.match.mig_only:
            if sited.gives("placement"):
                yield _Objection(
                    sited.where("placement"),
                    "expected no placement beside exclusive whole GPUs, of which a container gets those nearest to one"
                    " another; remove it",
                )
            continue
        earlier = first.setdefault(rule.contract.resource, sited)
        if earlier.rule.placement is not rule.placement and rule.contract.resource != MIG_RESOURCES:
            yield _Objection(
                sited.where("placement"),
                f"expected one placement for {rule.contract.resource}, got {earlier.rule.placement.value} in"
                f' {earlier.named} and {rule.placement.value} in "{rule.name}"; write the same in both, or give one of'
                " them another `resource`",
            )


def _mig_devices(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """What cannot be done with MIG devices, or not in one rule with whole GPUs."""
    for sited in rules:
        match = sited.rule.match
        if sited.rule.mode is Mode.MPS and (match.mig_only or match.parts):
            yield _Objection(
                sited.where("mps"),
                "expected timeSlicing or exclusive for MIG devices, got mps, which is for whole GPUs; choose one of"
                " these, or let the rule speak of whole GPUs",
            )
        elif match.parts and not match.mig_only and sited.rule.mode is not Mode.WITHHELD:
            yield _Objection(
                sited.where("uuids"),
                "expected UUIDs of GPUs, or of MIG devices, got both, which no resource stands for; write a rule for"
                " each",
            )


def _long_ids(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """The kubelet takes ids of at most 63 characters, and an id is `<uuid>::<n>`."""
    for sited in rules:
        if sited.rule.mode not in _SHARED:
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


def _idle_fields(rules: Sequence[Sited]) -> Iterator[_Objection]:
    """A field that can do nothing is a mistake about it: parts of a GPU never add up to more than the GPU."""
    for sited in rules:
        if sited.rule.mps is not None and sited.rule.mps.oversubscribe and sited.rule.mps.memory is None:
            yield _Objection(
                sited.where("mps"),
                "expected `memoryPerReplica` beside `oversubscribe: true`, got none: shares get their parts of the"
                " memory, which are never too much; give `memoryPerReplica`, or remove `oversubscribe`",
            )


def _terms(rule: Rule) -> str:
    """Mode and limits in words: equal for two rules if and only if their shares are the same to a pod.

    The part of the memory that a share gets by default is told as such, since it follows from the GPU.
    """
    contract = rule.contract_for(_ANY_GPU)
    limits = contract.limits if contract is not None else None
    if rule.mps is None or limits is None:
        limit = rule.max_shares_per_container
        return rule.mode.value if limit is None else f"{rule.mode.value} with at most {limit} per container"
    memory = f"1/{rule.replicas} of the memory" if rule.mps.memory is None else format_quantity(rule.mps.memory)
    each = f"{memory} and {limits.threads} % of the threads each"
    return f"{rule.mode.value} with {each}, at most {limits.most} per container"


def _leftover(sited: Sited, rules: Sequence[Sited]) -> tuple[str, str]:
    """What is said of the GPUs that are left over, and how to have none beside these shares. In NVIDIA's file the last
    entry for GPUs may take all that are left.
    """
    if sited.rule.origin is None:
        return "no rule matches", ", or let a rule match every GPU"
    last = [one.rule.origin for one in rules if not one.rule.match.mig_only][-1:]
    can_take_all = sited.gives("devices") and last == [sited.rule.origin]
    return "are not shared", ", or remove `devices`" if can_take_all else ""


def _called(sited: Sited, here: Sited) -> str:
    """A rule, as it is called where `here` is spoken of."""
    if sited.rule.origin is None:
        return f'"{sited.rule.name}"'
    return "this entry" if sited.rule.origin == here.rule.origin else sited.rule.origin


def _another_name(sited: Sited, here: Sited, resource: str, rules: Sequence[Sited]) -> str:
    """The mend: a name that is free and, if it can, says what the shares are."""
    taken = {one.rule.contract.resource for one in rules if one.rule.contract is not None}
    suffix = _SHARED.get(sited.rule.mode, "") if sited.rule.origin is None else ".shared"
    name = f"{resource}{suffix}"
    if name in taken or not suffix or resource.endswith(suffix):
        name = f"{resource}-{sited.rule.name}"
    return f'give the shares of {_called(sited, here)} another name, such as "{sited.key("resource")}: {name}"'
