"""What a config would do to a node, share by share.

The planner is rehearsed in turns: as far as things go while the pods that hold shares stay; then as if the shares that
must drain had been left; and then, where MPS is in the way, as if that had been seen to.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from nodeagent.commands import rehearsal
from nodeagent.commands.rehearsal import Node
from nodeagent.model.config import THROUGH_MIG, Contract
from nodeagent.model.health import describe_xids
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.mps import MpsReason
from nodeagent.model.plan import Wait, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import ChangeClass
from nodeagent.state.desired import Desired
from nodeagent.state.drift import share_count
from nodeagent.state.observed import Observed, by_gpu, holdings
from nodeagent.state.summary import change

_FOR_PODS: Final = {WaitReason.PODS, WaitReason.POD_RESOURCES}
_UNKNOWN: Final = AppliedGpu(Gpu("", 0, "", 0))


@dataclass(frozen=True, slots=True)
class Terms:
    """What a GPU is offered as: contract, number of shares, and how many of them one container may have (None: any)."""

    contract: Contract | None = None
    shares: int = 0
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class GpuPreview:
    """What becomes of one GPU, as ids of shares.

    `added`, `removed` and `kept` at once; `draining` when their pods have ended, and `later` after that. `holders` are
    who holds shares of a GPU that has to drain, `namespace/pod/container`, "" for one that is not known. `obstacle` is
    what else has to be seen to before `later` comes: why there will be no MPS daemon, or why there will still be one.

    `illness` is why the GPU is, and stays, unhealthy; `cured` are XIDs that stand against it no more. With
    `through_mig` it is used through its MIG devices or, being one, with all of its GPU.
    """

    gpu: Gpu
    before: Terms
    after: Terms
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    draining: tuple[str, ...] = ()
    later: tuple[str, ...] = ()
    holders: tuple[str, ...] = ()
    obstacle: str = ""
    illness: str = ""
    cured: frozenset[int] = frozenset()
    through_mig: bool = False

    @property
    def changes(self) -> bool:
        moves = self.added or self.removed or self.draining or self.later
        return bool(self.before != self.after or moves or self.cured)


@dataclass(frozen=True, slots=True)
class Preview:
    """What becomes of the node: every GPU by index, the class of the change, and which resources come and go. Of the
    devices that leave a contract at most `at_a_time` do at a time.
    """

    kind: ChangeClass
    gpus: tuple[GpuPreview, ...]
    registered: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    at_a_time: int = 1

    @property
    def moving(self) -> int:
        """How many devices leave a contract for another one."""
        return sum(
            None not in (gpu.before.contract, gpu.after.contract) and gpu.before.contract != gpu.after.contract
            for gpu in self.gpus
        )

    @property
    def changes(self) -> bool:
        return bool(self.registered or self.retired or any(gpu.changes for gpu in self.gpus))


def preview(desired: Desired | None, node: Node) -> Preview:
    """Rehearse until nothing more happens. `desired` None: what is applied is kept."""
    begin = rehearsal.start(node)
    staying, waiting = rehearsal.settle(desired, begin)
    left, still, drains = staying, waiting, dict[str, frozenset[int]]()
    # Occupied GPUs drain one wave after the other: all of them have to, sooner or later.
    for _ in range(len(begin.applied.gpus) + 1):
        leave = {wait.uuid: wait.numbers for wait in still.waits if wait.reason in _FOR_PODS}
        if not leave:
            break
        drains |= leave
        left, still = rehearsal.settle(desired, rehearsal.without(left, leave))
    obstacles = {wait.uuid: _obstacle(wait, left) for wait in still.waits if wait.reason is WaitReason.DAEMON}
    end = rehearsal.settle(desired, rehearsal.with_host(left))[0] if obstacles else left
    in_turn = {wait.uuid for wait in waiting.waits if wait.reason in {WaitReason.WAVE, WaitReason.LAST}}
    uuids = dict.fromkeys((*(gpu.uuid for gpu in node.gpus), *node.applied.gpus))
    found = [
        replace(
            _gpu(
                uuid,
                desired,
                node,
                staying=staying.applied,
                end=end.applied,
                drains=drains.get(uuid, frozenset()),
                in_turn=uuid in in_turn,
            ),
            obstacle=obstacles.get(uuid, ""),
        )
        for uuid in uuids
    ]
    return Preview(
        kind=change(desired, begin).kind,
        gpus=tuple(sorted(found, key=lambda one: one.gpu.place)),
        registered=tuple(sorted(end.registered - node.resources)),
        retired=tuple(sorted(node.resources - end.registered)),
        at_a_time=desired.most_unavailable if desired is not None else 1,
    )


def _obstacle(wait: Wait, observed: Observed) -> str:
    """Why a GPU's daemon cannot be had, does not become ready, or does not leave."""
    if wait.detail:
        return f"MPS: {wait.detail}"
    uuid, mps = wait.uuid, observed.mps
    contract = observed.applied.gpus[uuid].contract
    if mps.reason is not MpsReason.RUNNING or contract is None:
        return f"the MPS host: {mps.message or mps.reason.value}"
    return f"its MPS daemon: {mps.trouble(uuid, contract)}"


def _gpu(
    uuid: str,
    desired: Desired | None,
    node: Node,
    *,
    staying: Applied,
    end: Applied,
    drains: frozenset[int],
    in_turn: bool,
) -> GpuPreview:
    """`in_turn`: it waits for its turn. Whenever it leaves its contract, what nobody has goes and the rest drains."""
    before = node.applied.gpus.get(uuid, _UNKNOWN)
    stays, last = staying.gpus.get(uuid, _UNKNOWN), end.gpus.get(uuid, _UNKNOWN)
    if in_turn or (drains and before.contract != last.contract):
        stays = replace(stays, numbers=drains)
    want = desired.wants.get(uuid) if desired is not None else None
    gpu = want.gpu if want is not None else next((one for one in node.gpus if one.uuid == uuid), before.gpu)
    after = _terms(last)
    if want is not None and want.contract is not None:
        after = Terms(want.contract, want.count, want.rule.max_shares_per_container)
    was, now, then = _offered(before), _offered(stays), _offered(last)
    listed, still = _shares(before, before.numbers), _shares(stays, stays.numbers)
    draining = _shares(stays, drains)
    held = holdings(before, by_gpu(node.held).get(uuid, ())).own if node.readable else before.numbers
    return GpuPreview(
        gpu=gpu,
        before=_terms(before),
        after=after,
        added=_ids(now - was),
        removed=_ids(listed - still),
        kept=_ids((now & was) - draining),
        draining=_ids(draining),
        later=_ids(then - now),
        holders=tuple(node.holders.get(share, "") for share in before.ids(held)) if drains else (),
        illness=_illness(gpu, last.xids),
        cured=frozenset(before.xids.keys() - last.xids.keys()),
        through_mig=want.rule == THROUGH_MIG if want is not None else gpu.mig_enabled,
    )


def _illness(gpu: Gpu, xids: Iterable[int]) -> str:
    told = (f"{gpu.health.value}: {gpu.message}" if gpu.health is not GpuHealth.OK else "", describe_xids(xids))
    return "; ".join(filter(None, told))


def _terms(entry: AppliedGpu) -> Terms:
    if entry.contract is None:
        return Terms()
    return Terms(entry.contract, share_count(entry), entry.max_shares_per_container)


_Share = tuple[Contract, str]
"""A share is its id under a contract: the same id under another name, or with other limits, is another share."""


def _offered(entry: AppliedGpu) -> frozenset[_Share]:
    """Shares that are not on their way out."""
    return _shares(entry, entry.numbers - entry.fences.keys())


def _shares(entry: AppliedGpu, numbers: Iterable[int]) -> frozenset[_Share]:
    contract = entry.contract
    return frozenset((contract, share) for share in entry.ids(numbers)) if contract is not None else frozenset()


def _ids(keys: Iterable[_Share]) -> tuple[str, ...]:
    return tuple(sorted((share for _, share in keys), key=lambda share: (len(share), share)))
