"""What rules under MPS ask of this very node's GPUs: as many clients as they take, and the memory that they have.

What the document alone decides is checked where it is read; here it is the GPUs that decide.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from nodeagent.model.config import DEFAULT_RESOURCE, MIB, Mode, MpsLimits, Rule
from nodeagent.model.inventory import Gpu
from nodeagent.model.mps import most_clients
from nodeagent.state.naming import gpus as named


class Fault(NamedTuple):
    """A rule, and what is wrong with it here."""

    rule: Rule
    message: str


def faults(decided: Iterable[tuple[Rule, Gpu]]) -> Iterator[Fault]:
    """Everything that is wrong with the rules under MPS among these, each thing once per rule. `decided` is which rule
    holds for which GPU.
    """
    under_mps: dict[Rule, list[Gpu]] = {}
    for rule, gpu in decided:
        if rule.mode is Mode.MPS:
            under_mps.setdefault(rule, []).append(gpu)
    for rule, gpus in under_mps.items():
        yield from _too_many_clients(rule, gpus)
        yield from _unknown_memory(rule, gpus)
        yield from _too_much_memory(rule, gpus)
    yield from _different_parts(under_mps)


def _too_many_clients(rule: Rule, gpus: Sequence[Gpu]) -> Iterator[Fault]:
    found = [gpu for gpu in gpus if rule.replicas > most_clients(gpu)]
    if found:
        most = min(map(most_clients, found))
        yield Fault(
            rule,
            f"expected at most {most} replicas under MPS, as many clients as {_named(found)}"
            f" {'takes' if len(found) == 1 else 'take'}, got {rule.replicas}; lower `replicas`",
        )


def _unknown_memory(rule: Rule, gpus: Sequence[Gpu]) -> Iterator[Fault]:
    found = [gpu for gpu in gpus if not gpu.memory]
    if found and _is_part(rule):
        some = f"{_named(found)} {'has' if len(found) == 1 else 'have'}"
        message = f"expected `memoryPerReplica`, since the driver does not say how much memory {some}, got none"
        if rule.origin is not None:
            message = (
                f"expected GPUs whose memory is known, got none: the driver does not say how much {some}; list others"
                " under `devices`, with a `rename`, or write `memoryPerReplica` in a file of our own format (nodeagent"
                " convert)"
            )
        yield Fault(rule, message)


def _too_much_memory(rule: Rule, gpus: Sequence[Gpu]) -> Iterator[Fault]:
    terms = rule.mps
    if terms is None or terms.memory is None:
        return
    if found := [gpu for gpu in gpus if gpu.memory and terms.memory > gpu.memory]:
        least = min(gpu.memory for gpu in found)
        yield Fault(
            rule,
            f"expected at most {least // MIB} MiB for one share, the memory of {_named(found)}, got"
            f" {terms.memory // MIB} MiB; lower `memoryPerReplica`",
        )
        return
    together = terms.memory * rule.replicas
    if not terms.oversubscribe and (found := [gpu for gpu in gpus if gpu.memory and together > gpu.memory]):
        least = min(gpu.memory for gpu in found)
        yield Fault(
            rule,
            f"expected at most {least // MIB} MiB for all shares together, the memory of {_named(found)}, got"
            f" {rule.replicas} x {terms.memory // MIB} MiB; lower `memoryPerReplica` (to at most"
            f" {least // rule.replicas // MIB}Mi) or `replicas`, or write `oversubscribe: true`",
        )


def _different_parts(under_mps: Mapping[Rule, Sequence[Gpu]]) -> Iterator[Fault]:
    """The parts of GPUs with different memory are different limits, and one resource name stands for one set."""
    by_resource: dict[str, dict[MpsLimits, list[tuple[Gpu, Rule]]]] = {}
    for rule, gpus in under_mps.items():
        for gpu in gpus:
            contract = rule.contract_for(gpu)
            if contract is not None and contract.limits is not None and _is_part(rule) and gpu.memory:
                sets = by_resource.setdefault(contract.resource, {})
                sets.setdefault(contract.limits, []).append((gpu, rule))
    for resource, sets in sorted(by_resource.items()):
        if len(sets) > 1:
            told = " and ".join(f"{limits} on {_named([gpu for gpu, _ in on])}" for limits, on in sets.items())
            _, *others = sets.values()
            rule = others[0][0][1]
            mend = "write `memoryPerReplica`, or a rule with another `resource` for each kind of GPU"
            if rule.origin is not None:
                mend = _other_entries(rule, resource, [[gpu for gpu, _ in on] for on in others])
            yield Fault(rule, f"expected one set of limits for {resource}, got {told}; {mend}")


def _other_entries(rule: Rule, resource: str, kinds: Iterable[Sequence[Gpu]]) -> str:
    """What helps in NVIDIA's file, which knows no limits: an entry with a name of its own for each kind of GPU."""
    names: list[str] = []
    entries = []
    for gpus in kinds:
        size = f"{resource}-{max(gpu.memory for gpu in gpus) >> 30}gb"
        names.append(size if size not in names else f"{size}-{len(names)}")
        devices = ", ".join(gpu.uuid if rule.match.uuids else str(gpu.index) for gpu in gpus)
        fields = f"name: {DEFAULT_RESOURCE}, rename: {names[-1]}, devices: [{devices}], replicas: {rule.replicas}"
        entries.append(f"- {{{fields}}}")
    taken = "" if rule.match.takes_all else ", and take these out of its `devices`"
    return f"write this above {rule.called}{taken}: {' and '.join(entries)}"


def _is_part(rule: Rule) -> bool:
    """Whether the memory of a share is its part of the GPU's."""
    return rule.mps is not None and rule.mps.memory is None


def _named(gpus: Sequence[Gpu]) -> str:
    return named(gpus)
