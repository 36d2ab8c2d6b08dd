"""The lists that the kubelet gets, made from the applied contract and nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from nodeagent.model.holds import ShareKey
from nodeagent.model.shares import Applied, AppliedGpu, Device, Listing, ShareIds


def lists(applied: Applied, resources: Iterable[str], before: Mapping[str, Listing]) -> dict[str, Listing]:
    """The list of each resource, those of `resources` included that nothing is advertised of.

    A list that says the same as `before` is that very object, so its revision tells whether anything must be sent.
    """
    devices: dict[str, list[Device]] = {resource: [] for resource in resources}
    for entry in applied.ordered():
        if entry.contract is not None:
            devices.setdefault(entry.contract.resource, []).extend(_devices(entry))
    return {resource: _listing(resource, tuple(found), before.get(resource)) for resource, found in devices.items()}


def fenced(applied: Applied) -> ShareIds:
    """The ids of all fenced shares."""
    return ShareIds(applied.gpus, {uuid: (entry.fences.keys(),) for uuid, entry in applied.gpus.items()})


def fenced_shares(applied: Applied) -> frozenset[ShareKey]:
    """All fenced shares, with their resources."""
    return frozenset(key for entry in applied.gpus.values() for key in entry.keys(entry.fences))


def _devices(entry: AppliedGpu) -> Iterable[Device]:
    healthy = entry.healthy
    fences, numa = entry.fences, entry.gpu.numa_node
    for number, share in zip(sorted(entry.numbers), entry.ids(entry.numbers), strict=True):
        yield Device(share, healthy and number not in fences, numa)


def _listing(resource: str, devices: tuple[Device, ...], before: Listing | None) -> Listing:
    if before is None:
        return Listing(resource, 1, devices)
    return before if before.devices == devices else Listing(resource, before.revision + 1, devices)
