"""Random configs of a node with GPUs under MPS, and whether the node is what one of them asks for."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from nodeagent.model.config import Contract, Mode, MpsLimits
from nodeagent.model.mps import DaemonState
from nodeagent.mps.control import ControlError
from tests.agent.documents import GPU, MPS, SHARED, Rule, exclusive, mps, sharing, time_sliced, withheld
from tests.agent.harness import GPUS, uuid
from tests.agent.mps_node import MpsNode
from tests.soak.layouts import BATCH, gpu_index

OTHER_MPS = "example.com/batch.mps"
UNDER_MPS = (MPS, OTHER_MPS)
"""Resources that stand for shares under MPS, whatever their limits are at the moment."""

ANCHOR = GPUS - 1
"""A GPU that is always asked to be the same: a pod finds a place on it at any time."""

_MEMORY = 80 * 1024
_LIMITS = (
    MpsLimits(9216, 25),
    MpsLimits(9216, 25, most=2),
    MpsLimits(20480, 50),
    MpsLimits(5000, 10, most=3),
    MpsLimits(40000, 100),
)
_MOST_SHARES = 6


@dataclass(frozen=True, slots=True)
class Want:
    """What a GPU is to be: so many shares under a contract."""

    contract: Contract
    count: int

    def rule(self, at: list[int]) -> Rule:
        """As a rule for these GPUs."""
        resource, limits = self.contract.resource, self.contract.limits
        if limits is not None:
            return mps(self.count, f"{limits.memory}Mi", limits.threads, resource, at=at, most=limits.most)
        if self.contract.mode is Mode.EXCLUSIVE:
            return exclusive(resource, at=at)
        return time_sliced(self.count, resource, at=at)


ANCHORED = Want(Contract(BATCH, Mode.TIME_SLICED), 30)


@dataclass(frozen=True, slots=True)
class Layout:
    """What every GPU is to be, by index; None: withheld."""

    wants: Mapping[int, Want | None]

    def document(self, comment: str) -> bytes:
        """As a sharing config, a rule for each kind of GPU."""
        alike: dict[Want | None, list[int]] = {}
        for index, want in self.wants.items():
            alike.setdefault(want, []).append(index)
        rules = (withheld(at=at) if want is None else want.rule(at) for want, at in alike.items())
        return sharing(*rules, comment=comment)

    def contract(self, index: int) -> Contract | None:
        """What the shares of a GPU are to be."""
        want = self.wants[index]
        return None if want is None else want.contract

    def daemons(self) -> dict[int, Contract]:
        """The contracts of the GPUs that are to be under MPS."""
        wanted = {index: want.contract for index, want in self.wants.items() if want is not None}
        return {index: contract for index, contract in wanted.items() if under_mps(contract)}

    def __str__(self) -> str:
        return "; ".join(
            f"GPU {index}: {'withheld' if want is None else f'{want.count} x {want.contract}'}"
            for index, want in self.wants.items()
            if index != ANCHOR
        )


def under_mps(contract: Contract | None) -> bool:
    """Whether shares under this contract need a daemon."""
    return contract is not None and contract.limits is not None


def arbitrary(rng: random.Random) -> Layout:
    """Every GPU but the anchor is something."""
    return _with(rng, dict.fromkeys(range(GPUS)), set(range(GPUS)) - {ANCHOR})


def changed(rng: random.Random, before: Layout) -> Layout:
    """Some GPUs are to be something else, and the others what they are; or other limits come under the same name."""
    used = sorted({contract.resource for contract in before.daemons().values()})
    if used and rng.random() < 1 / 3:
        resource = rng.choice(used)
        fixed: dict[str, Contract] = {}
        wants = dict(before.wants)
        for index, contract in before.daemons().items():
            if contract.resource == resource:
                wants[index] = _shares(rng, resource, fixed)
        return Layout(wants)
    some = rng.sample(sorted(set(before.wants) - {ANCHOR}), rng.randint(1, 4))
    return _with(rng, before.wants, set(some))


def _with(rng: random.Random, wants: Mapping[int, Want | None], others: set[int]) -> Layout:
    """These GPUs are something else, in accord with what the names mean on those that stay."""
    stay = {index: want for index, want in wants.items() if index not in others}
    fixed = {want.contract.resource: want.contract for want in stay.values() if want is not None}
    found = {**stay, **{index: _kind(rng, fixed) for index in sorted(others)}, ANCHOR: ANCHORED}
    return Layout(dict(sorted(found.items())))


def _kind(rng: random.Random, fixed: dict[str, Contract]) -> Want | None:
    resource = rng.choice((MPS, MPS, MPS, OTHER_MPS, SHARED, GPU, None))
    if resource is None:
        return None
    if resource == GPU:
        return Want(Contract(GPU, Mode.EXCLUSIVE), 1)
    if resource == SHARED:
        return Want(Contract(SHARED, Mode.TIME_SLICED), rng.randint(2, _MOST_SHARES))
    return _shares(rng, resource, fixed)


def _shares(rng: random.Random, resource: str, fixed: dict[str, Contract]) -> Want:
    """Shares under MPS, of the contract that the name has by now."""
    contract = fixed.setdefault(resource, Contract(resource, Mode.MPS, rng.choice(_LIMITS)))
    limits = contract.limits
    assert limits is not None
    return Want(contract, rng.randint(limits.most, min(_MEMORY // limits.memory, _MOST_SHARES)))


# --- whether it is so ------------------------------------------------------------------------------------------------


def settled(node: MpsNode, layout: Layout) -> bool:
    """Whether nothing is left to do: each GPU has the shares that are wanted of it, or, where pods hold more than that
    or hold something else, exactly what they hold; and exactly the daemons run that these shares need, told to be well
    by the host. While GPUs drain others may wait for their turn, with all that they had. Raises AssertionError, naming
    what is not there yet.
    """
    waits, drains = [], 0
    serving = node.desired()
    kubelet = node.kubelet
    names = kubelet.resources()
    listed = {name: by_gpu(kubelet.devices(name)) for name in names}
    held = {name: by_gpu(kubelet.held(name)) for name in names}
    for index, want in layout.wants.items():
        have = {name: ids for name in names if (ids := listed[name].get(index))}
        kept = {name: ids for name in names if (ids := held[name].get(index))}
        serves = serving.get(uuid(index))
        is_right = want is not None and serves == (want.contract if under_mps(want.contract) else None)
        if want is None or not is_right or kept.keys() - {want.contract.resource}:
            if have == kept:
                assert kept or (want is None and serves is None), f"GPU {index}: {serves} is nobody's, wanted {want}"
                drains += bool(kept)
            else:
                waits.append(f"GPU {index}: {have} on the list, {kept} held, wanted {want}")
            continue
        name = want.contract.resource
        if have.keys() - {name}:
            waits.append(f"GPU {index}: {have} on the list, wanted {want}")
            continue
        assert have, f"GPU {index}: nothing on the list, wanted {want}"
        mine = kept.get(name, set())
        assert len(have[name]) == max(want.count, len(mine)), f"GPU {index}: {have}, wanted {want}, {mine} held"
        assert mine <= have[name], f"GPU {index}: held and not on the list: {mine - have[name]}"
        sick = {id_ for id_ in have[name] if not kubelet.devices(name)[id_]}
        assert not sick or len(mine) > want.count, f"GPU {index}: unhealthy: {sick}"
    assert drains or not waits, "; ".join(waits)
    _daemons_are(node, serving)
    return True


def _daemons_are(node: MpsNode, serving: Mapping[str, Contract]) -> None:
    running = {uuid(index): process for index, process in node.daemons().items()}
    told = node.observed().daemons
    assert running.keys() == serving.keys(), f"daemons run for {sorted(running)}, wanted are {sorted(serving)}"
    assert told.keys() == serving.keys(), f"the host tells of {sorted(told)}, wanted are {sorted(serving)}"
    for one, contract in serving.items():
        claim, process = told[one], running[one]
        assert (claim.state, claim.contract) == (DaemonState.READY, contract), f"{one}: {claim}, wanted {contract}"
        assert (claim.pid, claim.start_time) == (process.pid, process.start_time), f"{one}: {claim}, and {process} runs"
    modes = {uuid(index): mode for index, mode in node.compute_modes().items() if mode != "default"}
    assert modes == dict.fromkeys(serving, "exclusive-process"), f"compute modes: {modes}"
    clients = [one for one in node.mps_processes() if one.kind == "server"]
    assert not clients, f"servers are left: {clients}"


async def limited(node: MpsNode) -> bool:
    """Whether every daemon that is asked for reads back the limits of its contract."""
    for index in range(GPUS):
        contract = node.desired().get(uuid(index))
        if contract is not None and contract.limits is not None:
            limits = contract.limits
            try:
                found = await node.control(index).limits()
            except ControlError as error:
                raise AssertionError(f"GPU {index}: {error}") from error
            assert found.fits(*limits.times(limits.most)), f"GPU {index}: its daemon has {found}, wanted {contract}"
    return True


def by_gpu(ids: Iterable[str]) -> dict[int, set[str]]:
    """Ids of shares by the index of their GPU."""
    found: dict[int, set[str]] = {}
    for id_ in ids:
        found.setdefault(gpu_index(id_), set()).add(id_)
    return found


def ids_of(index: int, ids: Iterable[str]) -> Iterator[str]:
    """Those ids that are of this GPU."""
    return (id_ for id_ in ids if gpu_index(id_) == index)
