"""Random sharing configs, and whether the kubelet's lists are what one of them asks for, given what pods hold."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from nodeagent.sim.kubelet import StandInKubelet
from tests.agent.documents import GPU, SHARED, Rule, exclusive, sharing, time_sliced, withheld
from tests.agent.harness import GPUS, uuid

BATCH = "example.com/batch"


@dataclass(frozen=True, slots=True)
class Want:
    """What a GPU is to be: so many devices of one resource."""

    resource: str
    count: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What every GPU is to be, by index; None: withheld."""

    wants: Mapping[int, Want | None]

    def document(self) -> bytes:
        """As a sharing config, a rule for each kind of GPU."""
        alike: dict[Want | None, list[int]] = {}
        for index, want in self.wants.items():
            alike.setdefault(want, []).append(index)
        return sharing(*(_rule(want, at) for want, at in alike.items()))


def uniform(count: int, resource: str = SHARED) -> Layout:
    """Every GPU shared alike."""
    return Layout(dict.fromkeys(range(GPUS), Want(resource, count)))


def arbitrary(rng: random.Random) -> Layout:
    """One in three shares all GPUs alike; the others mix up to four kinds, withheld GPUs seldom among them, and never
    alone: there is always something that a pod can come to have.
    """
    if rng.random() < 1 / 3:
        return uniform(rng.randint(2, 12))
    kinds: list[Want | None] = [_kind(rng) for _ in range(rng.randint(1, 4))]
    wants = {index: rng.choice(kinds) for index in range(GPUS)}
    return Layout(wants) if any(wants.values()) else uniform(2)


def settled(kubelet: StandInKubelet, layout: Layout) -> bool:
    """Whether nothing is left to do: each GPU has exactly what is wanted of it, or, where pods hold more than that or
    hold something else, exactly what they hold. While GPUs drain others may wait for their turn, with all that they
    had. Raises AssertionError, naming the GPU that is not there yet.
    """
    waits, drains = [], 0
    resources = (GPU, SHARED, BATCH)
    listed = {resource: _by_gpu(kubelet.devices(resource)) for resource in resources}
    held = {resource: _by_gpu(dict.fromkeys(kubelet.held(resource), True)) for resource in resources}
    for index, want in layout.wants.items():
        others = [resource for resource in resources if want is None or resource != want.resource]
        left = {resource: (listed[resource].get(index, {}), held[resource].get(index, {})) for resource in others}
        drains += any(kept for _, kept in left.values())
        waits += [
            f"GPU {index}: {resource} has {len(have)}, {len(kept)} of them held"
            for resource, (have, kept) in left.items()
            if have.keys() != kept.keys()
        ]
        if want is None or any(have.keys() != kept.keys() for have, kept in left.values()):
            continue
        have, kept = listed[want.resource].get(index, {}), held[want.resource].get(index, {})
        count = 0 if any(held[resource].get(index) for resource in others) else want.count
        assert len(have) == max(count, len(kept)), f"GPU {index}: {len(have)} of {want}, {len(kept)} held"
        assert kept.keys() <= have.keys(), f"GPU {index}: held and not on the list"
        assert all(have.values()) or len(kept) > count, f"GPU {index}: {have}"
    assert drains or not waits, "; ".join(waits)
    return True


def gpu_index(id_: str) -> int:
    """Which GPU a device is of."""
    return _INDEX[id_.partition("::")[0]]


_INDEX = {uuid(index): index for index in range(GPUS)}


def _by_gpu(devices: Mapping[str, bool]) -> dict[int, dict[str, bool]]:
    found: dict[int, dict[str, bool]] = {}
    for id_, healthy in devices.items():
        found.setdefault(gpu_index(id_), {})[id_] = healthy
    return found


def _kind(rng: random.Random) -> Want | None:
    resource = rng.choice((SHARED, SHARED, BATCH, GPU, None))
    if resource is None:
        return None
    return Want(resource, 1 if resource == GPU else rng.randint(2, 12))


def _rule(want: Want | None, at: list[int]) -> Rule:
    if want is None:
        return withheld(at=at)
    if want.resource == GPU:
        return exclusive(at=at)
    return time_sliced(want.count, want.resource, at=at)
