"""Desired state: a sharing config resolved against the GPUs that this node has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.model.config import Contract, Rule, SharingConfig, Stage, Violation
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import MAX_ID_LENGTH, share_id

MAX_LIST_BYTES = 4 * 1024 * 1024
"""The kubelet's receive limit on ListAndWatch (gRPC's default, source of the kubelet)."""

_DEVICE_OVERHEAD = 2 + 2 + len("Unhealthy") + 2
"""Bytes of a Device on the wire beside its id, at most: tag and length of the id, tag, length and text of the health
(the longer of the two), and tag and length of the message itself (one byte each, since it stays below 128 bytes)."""


@dataclass(frozen=True, slots=True)
class Want:
    """What Git wants of one GPU. `contract` None: nothing is to be advertised of it."""

    gpu: Gpu
    rule: Rule

    @property
    def contract(self) -> Contract | None:
        return self.rule.contract

    @property
    def count(self) -> int:
        return self.rule.replicas if self.contract is not None else 0


@dataclass(frozen=True, slots=True)
class Desired:
    """What Git wants of every GPU of this node, by uuid."""

    wants: Mapping[str, Want] = field(default_factory=dict)

    def resources(self) -> frozenset[str]:
        return frozenset(want.contract.resource for want in self.wants.values() if want.contract is not None)


def resolve(config: SharingConfig, gpus: Iterable[Gpu]) -> Desired:
    """The first matching rule of each GPU. Same config and GPUs, same result."""
    return Desired({gpu.uuid: Want(gpu, config.rule_for(gpu)) for gpu in gpus})


def check(desired: Desired, file: str) -> tuple[Violation, ...]:
    """What is wrong with a config on this very node: ids and lists that the kubelet would refuse. By arithmetic, never
    by building the list.
    """
    found = []
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
                    f"expected share ids of at most {MAX_ID_LENGTH} characters, got {longest} for GPU {want.gpu.index} "
                    f"({want.gpu.uuid}) with {want.count} replicas; lower `replicas`",
                )
            )
    for resource, wants in sorted(by_resource.items()):
        size = sum(list_bytes(want.gpu.uuid, want.contract, want.count) for want in wants if want.contract is not None)
        if size > MAX_LIST_BYTES:
            shares = sum(want.count for want in wants)
            worst = max(wants, key=lambda want: want.count)
            found.append(
                _violation(
                    file,
                    worst.rule,
                    f"expected a list of {resource} of at most {MAX_LIST_BYTES} bytes (the kubelet's limit), "
                    f"got {size} bytes for {shares} shares on {len(wants)} GPUs; "
                    f"at most about {shares * MAX_LIST_BYTES // size} shares fit: lower `replicas`",
                )
            )
    return tuple(found)


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
