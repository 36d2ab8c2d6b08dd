"""GPUs and resources as the reports show them: what each share is, who has it, and how many there are of each state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import overload

from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import Holder, PodResourcesStatus, RegistrationStatus
from nodeagent.model.mps import MpsStatus
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.shares import Applied, AppliedGpu, ShareState
from nodeagent.model.snapshot import GpuStatus, ResourceStatus, ShareStatus
from nodeagent.state.desired import Desired
from nodeagent.state.observed import by_gpu, holdings, pods_of


class _Shares(Sequence[ShareStatus]):
    """The shares of one GPU, worked out when somebody looks: a summary is made twice a second while something
    drains.
    """

    def __init__(
        self,
        entry: AppliedGpu,
        own: frozenset[int],
        draining: frozenset[int],
        holders: Iterable[Holder],
    ) -> None:
        self._entry = entry
        self._own = own
        self._draining = draining
        self._holders = holders

    def __len__(self) -> int:
        return len(self._entry.numbers)

    def __iter__(self) -> Iterator[ShareStatus]:
        entry = self._entry
        resource = entry.contract.resource if entry.contract is not None else ""
        pods = pods_of(self._holders, resource, entry.gpu.uuid)
        for number, share in zip(sorted(entry.numbers), entry.ids(entry.numbers), strict=True):
            yield ShareStatus(
                number,
                share,
                self.state(number),
                pods.get(share),
                held=number in self._own,
                fenced=number in entry.fences,
            )

    @overload
    def __getitem__(self, index: int) -> ShareStatus: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShareStatus]: ...
    def __getitem__(self, index: int | slice) -> ShareStatus | Sequence[ShareStatus]:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as every list: compared by content

    def state(self, number: int) -> ShareState:
        if not self._entry.healthy:
            return ShareState.UNHEALTHY
        if number in self._draining:
            return ShareState.DRAINING
        if number in self._own:
            return ShareState.HELD
        return ShareState.FENCED if number in self._entry.fences else ShareState.FREE

    def counts(self) -> Counter[ShareState]:
        """Shares by state, without making one `ShareStatus`."""
        entry = self._entry
        if not entry.healthy:
            return Counter({ShareState.UNHEALTHY: len(entry.numbers)})
        draining = self._draining & entry.numbers
        kept = (self._own & entry.numbers) - draining
        fenced = entry.fences.keys() - kept - draining
        return Counter(
            {
                ShareState.DRAINING: len(draining),
                ShareState.HELD: len(kept),
                ShareState.FENCED: len(fenced),
                ShareState.FREE: len(entry.numbers) - len(draining) - len(kept) - len(fenced),
            }
        )


def gpu_statuses(
    applied: Applied,
    desired: Desired | None,
    plan: Plan,
    held: Iterable[ShareKey],
    *,
    pods: PodResourcesStatus,
    mps: MpsStatus,
) -> tuple[GpuStatus, ...]:
    """Every GPU of the node, by index."""
    keys = by_gpu(held)
    holders = pods.listing.holders if pods.listing is not None else ()
    draining: dict[str, frozenset[int]] = {}
    for wait in plan.waits:
        if wait.reason is WaitReason.PODS:
            draining[wait.uuid] = draining.get(wait.uuid, frozenset()) | wait.numbers
    found = []
    for entry in applied.ordered():
        uuid = entry.gpu.uuid
        want = desired.wants.get(uuid) if desired is not None else None
        found.append(
            GpuStatus(
                gpu=entry.gpu,
                rule=want.rule.name if want is not None else None,
                wanted=want.contract if want is not None else None,
                wanted_shares=want.count if want is not None else 0,
                contract=entry.contract,
                shares=_Shares(
                    entry, holdings(entry, keys.get(uuid, ())).own, draining.get(uuid, frozenset()), holders
                ),
                daemon=mps.daemons.get(uuid),
            )
        )
    return tuple(found)


def resource_statuses(
    gpus: Iterable[GpuStatus],
    registrations: Iterable[RegistrationStatus],
    draining: Mapping[str, float],
) -> tuple[ResourceStatus, ...]:
    """Every resource that is served or advertised, by name. `draining` is since when each GPU drains."""
    statuses = {status.resource: status for status in registrations}
    counts: dict[str, Counter[ShareState]] = {resource: Counter() for resource in statuses}
    since: dict[str, float] = {}
    for status in gpus:
        if status.contract is None or not isinstance(status.shares, _Shares):
            continue
        resource = status.contract.resource
        counts.setdefault(resource, Counter()).update(status.shares.counts())
        if status.gpu.uuid in draining:
            since[resource] = min(since.get(resource, float("inf")), draining[status.gpu.uuid])
    return tuple(
        ResourceStatus(
            resource,
            {state: counts[resource][state] for state in ShareState},
            statuses.get(resource),
            since.get(resource),
        )
        for resource in sorted(counts)
    )


def draining_since(plan: Plan, before: Mapping[str, float], now: float) -> dict[str, float]:
    """Since when each GPU drains, by uuid, in the unit of `now`. A drain that cannot be seen for a while stays as old
    as it is.
    """
    seen = {wait.uuid: before.get(wait.uuid, now) for wait in plan.waits if wait.reason is WaitReason.PODS}
    unseen = {wait.uuid for wait in plan.waits if wait.reason is WaitReason.POD_RESOURCES}
    return seen | {uuid: since for uuid, since in before.items() if uuid in unseen}
