"""Desired state: a sharing config resolved against the GPUs that this node has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.model.config import Contract, Rule, SharingConfig, Stage, Violation
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import MAX_ID_LENGTH, share_id
from nodeagent.model.words import count
from nodeagent.state import mig_terms, mps_terms

MAX_LIST_BYTES = 4 * 1024 * 1024
"""The kubelet's receive limit on ListAndWatch (gRPC's default, source of the kubelet)."""

MAX_SHARES = 100_000
"""Shares on a node, at most. The agent keeps each of them in memory, and its container has a limit of that
(`docs/benchmarks.md`); nobody shares a GPU among thousands."""

_TOPOLOGY_BYTES = 2 + 2 + 1 + 2
"""Bytes of a Device's topology on the wire, at most: tag and length of the topology, tag and length of the one node in
it, tag and number of that (Linux has 1024 nodes at most: two bytes)."""

_DEVICE_OVERHEAD = 2 + 2 + len("Unhealthy") + _TOPOLOGY_BYTES + 2
"""Bytes of a Device on the wire beside its id, at most: tag and length of the id, tag, length and text of the health
(the longer of the two), the topology, and tag and length of the message itself (one byte each, since it stays below 128
bytes). The NUMA node counts wherever it is not known: drivers may come to tell it, and a config that was accepted must
stay so."""


@dataclass(frozen=True, slots=True)
class Want:
    """What Git wants of one GPU. `contract` None: nothing is to be advertised of it."""

    gpu: Gpu
    rule: Rule

    @property
    def contract(self) -> Contract | None:
        return self.rule.contract_for(self.gpu)

    @property
    def count(self) -> int:
        return self.rule.replicas if self.contract is not None else 0


@dataclass(frozen=True, slots=True)
class Desired:
    """What Git wants of every GPU of this node, by uuid, and how many devices may change at a time."""

    wants: Mapping[str, Want] = field(default_factory=dict)
    most_unavailable: int = 1

    def resources(self) -> frozenset[str]:
        return frozenset(want.contract.resource for want in self.wants.values() if want.contract is not None)


def resolve(config: SharingConfig, gpus: Iterable[Gpu]) -> Desired:
    """The first matching rule of each GPU. Same config and GPUs, same result."""
    gpus = tuple(gpus)
    whole = {gpu.uuid: gpu for gpu in gpus if gpu.mig is None}
    wants = {gpu.uuid: Want(gpu, config.rule_for(gpu, whole.get(gpu.physical))) for gpu in gpus}
    devices = sum(want.rule.contract is not None for want in wants.values())
    return Desired(wants, config.max_unavailable.of(devices))


def changed(before: Desired | None, after: Desired | None) -> frozenset[str]:
    """The uuids of the GPUs of which other shares are wanted than before, whatever rule says so."""
    old, new = _shares(before), _shares(after)
    return frozenset(uuid for uuid in old.keys() | new.keys() if old.get(uuid) != new.get(uuid))


def _shares(desired: Desired | None) -> dict[str, tuple[Contract, int]]:
    wants = desired.wants if desired is not None else {}
    return {uuid: (want.contract, want.count) for uuid, want in wants.items() if want.contract is not None}


def check(desired: Desired, file: str) -> tuple[Violation, ...]:
    """What is wrong with a config on this very node: ids and lists that the kubelet would refuse and more shares than
    the agent keeps, by arithmetic, never by building a list; and what MPS and MIG cannot do with these GPUs.
    """
    decided = [(want.rule, want.gpu) for want in desired.wants.values()]
    faults = (*mps_terms.faults(decided), *mig_terms.faults(decided))
    found = [_violation(file, rule, message) for rule, message in faults]
    by_resource: dict[str, list[Want]] = {}
    for want in desired.wants.values():
        if want.contract is None:
            continue
        by_resource.setdefault(want.contract.resource, []).append(want)
        longest = len(share_id(want.gpu.uuid, want.contract.mode, want.count - 1))
        if longest > MAX_ID_LENGTH:
            found.append(
                _violation(
                    file,
                    want.rule,
                    f"expected share ids of at most {MAX_ID_LENGTH} characters, got {longest} for {want.gpu.name} "
                    f"({want.gpu.uuid}) with {want.count} replicas; lower `replicas`",
                )
            )
    fitting = 0
    for resource, wants in sorted(by_resource.items()):
        shares = sum(want.count for want in wants)
        size = sum(list_bytes(want.gpu.uuid, want.contract, want.count) for want in wants if want.contract is not None)
        fit = shares if size <= MAX_LIST_BYTES else shares * MAX_LIST_BYTES // size
        fitting += fit
        if size > MAX_LIST_BYTES:
            worst = max(wants, key=lambda want: want.count)
            found.append(
                _violation(
                    file,
                    worst.rule,
                    f"expected a list of {resource} of at most {MAX_LIST_BYTES} bytes (the kubelet's limit), "
                    f"got {size} bytes for {shares} shares on {count(wants, 'GPU')}; "
                    f"at most about {fit} shares fit: lower `replicas`",
                )
            )
    # A list that is too long has been told already: all together are too long beside that only if the rest of it is.
    return (*found, _too_many(desired, file)) if fitting > MAX_SHARES else tuple(found)


def _too_many(desired: Desired, file: str) -> Violation:
    """What is wrong where all lists together are too long, told of the rule that makes most of it."""
    by_rule: dict[str, list[Want]] = {}
    for want in desired.wants.values():
        if want.count:
            by_rule.setdefault(want.rule.name, []).append(want)
    made = {name: sum(want.count for want in wants) for name, wants in by_rule.items()}
    total = sum(made.values())
    name = max(made, key=lambda name: made[name])
    most = (MAX_SHARES - total + made[name]) // len(by_rule[name])
    on = count(sum(map(len, by_rule.values())), "GPU")
    message = (
        f"expected at most {MAX_SHARES} shares on a node, got {total} on {on}; "
        f"{by_rule[name][0].rule.called} makes {made[name]} of them: lower its `replicas`"
    )
    return _violation(file, by_rule[name][0].rule, f"{message} to at most {most}" if most > 0 else message)


def list_bytes(uuid: str, contract: Contract, count: int) -> int:
    """Size on the wire, in bytes and at most, of the shares 0 to count-1 of one GPU in a ListAndWatchResponse."""
    total = 0
    start = 0
    while start < count:
        stop = min(count, 10 ** len(str(start)))
        total += (stop - start) * device_bytes(share_id(uuid, contract.mode, start))
        start = stop
    return total


def device_bytes(share: str) -> int:
    """Size on the wire, in bytes and at most, of one share in a ListAndWatchResponse."""
    return len(share.encode()) + _DEVICE_OVERHEAD


def _violation(file: str, rule: Rule, message: str) -> Violation:
    return Violation(file, rule.where, message, Stage.SEMANTIC)


def describe(contract: Contract | None, count: int) -> str:
    """`time-sliced nvidia.com/gpu.shared x10`, or `withheld`."""
    if contract is None:
        return "withheld"
    return f"{contract} x{count}" if count != 1 else str(contract)
