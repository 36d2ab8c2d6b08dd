"""What rules ask of this very node's MIG devices: that a name means one thing.

Pods that ask for a resource cannot choose among what bears its name. NVIDIA's strategy `single`, MIG devices as
`nvidia.com/gpu`, therefore takes a node whose MIG devices are all of one profile and which has no whole GPU beside
them; the same holds here for every name that rules give to MIG devices. Which names those by profile are, and what else
has one of them, is known on the node only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from nodeagent.model.config import IMPLICIT_MIG_RULE, IMPLICIT_RULE, Mode, Placement, Rule
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.state.mps_terms import Fault
from nodeagent.state.naming import gpus as named

Decided = tuple[Rule, Gpu]


def faults(decided: Iterable[Decided]) -> Iterator[Fault]:
    """Everything that is wrong with these, each thing once. `decided` is which rule holds for which GPU."""
    by_resource: dict[str, list[Decided]] = {}
    for rule, gpu in decided:
        contract = rule.contract_for(gpu)
        if contract is not None:
            by_resource.setdefault(contract.resource, []).append((rule, gpu))
    for resource, listed in sorted(by_resource.items()):
        if all(gpu.mig is None for _, gpu in listed):
            continue
        # A lost GPU has its devices as they were: it must not keep the others from being partitioned anew.
        found = [(rule, gpu) for rule, gpu in listed if gpu.health is not GpuHealth.LOST] or listed
        if (odd := _odd(found, _kind)) is not None:
            rule, told = odd
            single = any(one.match.mig == ("*",) for one, _ in found)
            yield Fault(rule, f"expected {resource} to be one kind of device, {told}; {_mend(rule, single=single)}")
        elif (odd := _odd(found, _terms)) is not None:
            rule, told = odd
            key = "resource" if rule.origin is None else "rename"
            yield Fault(rule, f"expected one mode and one limit for {resource}, {told}; give these another `{key}`")


def _mend(rule: Rule, *, single: bool) -> str:
    """How to have a name for each kind. `single`: as by NVIDIA's strategy of that name."""
    if rule.origin is not None:
        return 'write "migStrategy: mixed" under flags' if single else "give these another `rename`"
    mend = "give the others a rule with another `resource`"
    return mend if rule.mode is not Mode.EXCLUSIVE else f"leave `resource` out for names by profile, or {mend}"


def _odd(found: Iterable[Decided], group_of: Callable[[Decided], str]) -> tuple[Rule, str] | None:
    """What is not as the largest group, or the first of equals in the order of the GPUs; and a rule to blame, one that
    is written in the document.
    """
    groups: dict[str, list[Decided]] = {}
    for one in sorted(found, key=lambda one: one[1].place):
        groups.setdefault(group_of(one), []).append(one)
    usual, *odd = sorted(groups, key=lambda name: -len(groups[name]))
    if not odd:
        return None
    rules = [rule for name in (*odd, usual) for rule, _ in groups[name]]
    blamed = next((rule for rule in rules if rule not in {IMPLICIT_RULE, IMPLICIT_MIG_RULE}), rules[0])
    told = " and ".join(f"{name} on {_on(groups[name])}" for name in odd)
    return blamed, f"{usual} as on {_on(groups[usual])}, got {told}"


def _kind(one: Decided) -> str:
    _, gpu = one
    return gpu.mig.profile if gpu.mig is not None else "a whole GPU"


def _terms(one: Decided) -> str:
    """Mode, limit and placement in words."""
    rule, _ = one
    limit = rule.max_shares_per_container
    told = rule.mode.value if limit is None else f"{rule.mode.value} with at most {limit} per container"
    return told if rule.placement is Placement.DISTRIBUTED else f"{told}, {rule.placement.value}"


def _on(found: Iterable[Decided]) -> str:
    return named(gpu for _, gpu in found)
