"""Which XIDs make which GPU unhealthy: the policy of the config, applied to what the driver has reported.

A fault is the whole GPU's, or the whole MIG device's, so the verdict is part of the applied contract and all shares
follow from it: neither a reload nor a restart of the agent forgets it. It ends when the policy does not take its XIDs
for critical any more, when the policy says that the GPU has recovered, when a person clears it, and with a reload of
the driver or a reboot, which reset the GPU (DESIGN section 4, `health`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace

from nodeagent.model.health import HealthPolicy, XidSource, XidTally
from nodeagent.model.inventory import Gpu
from nodeagent.model.plan import Diagnose
from nodeagent.model.shares import Applied, AppliedGpu

PLACED_WITHIN = 15.0
"""Seconds within which the driver lists what it has reported an XID of. Later the instances may be somebody else's."""


@dataclass(frozen=True, slots=True)
class Symptoms:
    """What verdicts are made from, beside those that are there. `now` is in monotonic seconds, as are all times.

    `policy` is None while no config is accepted: what is known then stays, and what is new is judged by default. `news`
    are the XIDs that no plan has taken in yet, with when each came last; `kept` are those of them that were `unplaced`
    before, with since when. `cleared` are the uuids of which a person says that they are well. `driver_load` is None
    while it is not known.
    """

    now: float = 0.0
    policy: HealthPolicy | None = None
    news: Mapping[XidSource, float] = field(default_factory=dict)
    cleared: frozenset[str] = frozenset()
    driver_load: str | None = None
    kept: Mapping[XidSource, float] = field(default_factory=dict)

    def placed_by(self, source: XidSource, at: float) -> float:
        """When news that came last at this time is dropped, if it is nobody's by then. What comes again and again is
        not waited for without end.
        """
        return min(at, self.kept.get(source, at)) + PLACED_WITHIN


@dataclass(frozen=True, slots=True)
class Intake:
    """What has become of the XIDs that the driver has `reported`, by how many of each there were.

    `taken` have been judged, but for those that are `kept` for later, with since when. Nobody turned up in time of whom
    the others were: `dropped` counts them by the uuid that was named, and `lost` is the first critical one of each.
    """

    reported: Mapping[XidSource, XidTally] = field(default_factory=dict)
    taken: Mapping[XidSource, XidTally] = field(default_factory=dict)
    kept: Mapping[XidSource, float] = field(default_factory=dict)
    dropped: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, XidSource] = field(default_factory=dict)

    @property
    def news(self) -> dict[XidSource, float]:
        """What has been reported and not been taken in, with when it came last."""
        if self.reported is self.taken:
            return {}
        return {source: tally.last for source, tally in self.reported.items() if tally != self.taken.get(source)}

    def after(self, applied: Applied, symptoms: Symptoms) -> Intake:
        """When the verdicts that follow from these symptoms have become part of what is applied."""
        late = unplaced(applied, symptoms)
        policy = symptoms.policy or HealthPolicy()
        dropped, lost = dict(self.dropped), dict(self.lost)
        for source in sorted(symptoms.news.keys() - late, key=str):
            if not _concerned(source, applied):
                dropped[source.uuid] = dropped.get(source.uuid, 0) + self._fresh(source)
                if policy.is_critical(source.xid):
                    lost.setdefault(source.uuid, source)
        return replace(
            self,
            taken=self._taken(late),
            kept={source: self.kept.get(source, symptoms.news[source]) for source in late},
            dropped=dropped,
            lost=lost,
        )

    def _fresh(self, source: XidSource) -> int:
        """How many there are that have not been taken in. A count that was forgotten in between began anew."""
        count, known = self.reported[source].count, self.taken.get(source)
        return count if known is None or known.count > count else count - known.count

    def _taken(self, late: AbstractSet[XidSource]) -> Mapping[XidSource, XidTally]:
        """What has been taken in by now. Of what is kept for later it is what was taken in before."""
        if not late:
            return self.reported
        now = {source: tally for source, tally in self.reported.items() if source not in late}
        return now | {source: self.taken[source] for source in late & self.taken.keys()}


def diagnose(applied: Applied, symptoms: Symptoms) -> tuple[Diagnose, ...]:
    """The verdicts that change. A GPU comes before its MIG devices, which have its faults beside their own."""
    found = []
    whole: dict[str, Mapping[int, float]] = {}
    policy = symptoms.policy or HealthPolicy()
    reported = [(source, at) for source, at in symptoms.news.items() if policy.is_critical(source.xid)]
    for entry in applied.ordered():
        xids = _kept(entry, symptoms)
        if reported or entry.gpu.mig is not None:
            xids = _latest((*xids.items(), *_of(entry, reported), *whole.get(entry.gpu.physical, {}).items()))
        if entry.gpu.mig is None:
            whole[entry.gpu.uuid] = xids
        load = symptoms.driver_load or entry.driver_load if xids else None
        if (xids, load) != (entry.xids, entry.driver_load):
            found.append(Diagnose(entry.gpu.uuid, xids, load))
    return tuple(found)


def unplaced(applied: Applied, symptoms: Symptoms) -> frozenset[XidSource]:
    """News that is kept for later: of what is not known yet, and may be after the driver's next look (an instance, or a
    GPU, that is new), and what could not be noted down of a GPU that is about to be forgotten.
    """
    policy = symptoms.policy or HealthPolicy()
    return frozenset(
        source for source, at in symptoms.news.items() if _is_unplaced(source, at, applied, symptoms, policy)
    )


def _is_unplaced(source: XidSource, at: float, applied: Applied, symptoms: Symptoms, policy: HealthPolicy) -> bool:
    young = symptoms.now < symptoms.placed_by(source, at)
    concerned = _concerned(source, applied)
    if not concerned:
        return young
    if not policy.is_critical(source.xid) or any(source.xid in entry.xids for entry in concerned):
        return False
    return young or any(entry.gpu.mig is None for entry in concerned)


def _concerned(source: XidSource, applied: Applied) -> list[AppliedGpu]:
    return [entry for entry in applied.gpus.values() if _concerns(source, entry)]


def next_recovery(applied: Applied, policy: HealthPolicy | None) -> float | None:
    """When the next GPU is healthy again by itself, in monotonic seconds; None where none will be."""
    sick = [entry.xids for entry in applied.gpus.values() if entry.xids] if policy is not None else []
    ends = (policy.recovers_at(xids) for xids in sick if policy is not None)
    return min((end for end in ends if end is not None), default=None)


def inherited(applied: Applied, uuid: str) -> Gpu | None:
    """The GPU whose fault a MIG device has, so that it cannot be cleared of the MIG device alone."""
    entry = applied.gpus.get(uuid)
    parent = applied.gpus.get(entry.gpu.mig.parent) if entry is not None and entry.gpu.mig is not None else None
    return parent.gpu if parent is not None and parent.xids else None


def _kept(entry: AppliedGpu, symptoms: Symptoms) -> dict[int, float]:
    """What is left of a verdict: all of it as long as the GPU has not recovered."""
    if not entry.xids or _cleared(entry.gpu, symptoms.cleared) or _reloaded(entry, symptoms.driver_load):
        return {}
    if symptoms.policy is None:
        return dict(entry.xids)
    xids = {xid: at for xid, at in entry.xids.items() if symptoms.policy.is_critical(xid)}
    end = symptoms.policy.recovers_at(xids)
    return {} if end is not None and symptoms.now >= end else xids


def _cleared(gpu: Gpu, cleared: AbstractSet[str]) -> bool:
    return gpu.uuid in cleared or gpu.physical in cleared


def _reloaded(entry: AppliedGpu, driver_load: str | None) -> bool:
    return driver_load is not None and entry.driver_load not in {None, driver_load}


def _of(entry: AppliedGpu, reported: Iterable[tuple[XidSource, float]]) -> Iterable[tuple[int, float]]:
    return ((source.xid, at) for source, at in reported if _concerns(source, entry))


def _concerns(source: XidSource, entry: AppliedGpu) -> bool:
    """Whether this was reported of this very GPU, or of the instances that this MIG device is. A GPU without MIG has no
    instances: whatever is said of them, it is the GPU's. Where there is MIG, 0 is an instance as every other: the one
    that is as large as the GPU. One that is reported of an instance which no MIG device has is not the GPU's, whoever
    had it has gone with it; but where a GPU with MIG is offered as if it were whole, whatever fails in it is.
    """
    gpu = entry.gpu
    if source.uuid != gpu.physical:
        return source.uuid == gpu.uuid
    if gpu.mig is None:
        return source.gpu_instance is None or not gpu.mig_enabled or entry.contract is not None
    return source.gpu_instance == gpu.mig.gpu_instance and source.compute_instance in {None, gpu.mig.compute_instance}


def _latest(xids: Iterable[tuple[int, float]]) -> dict[int, float]:
    latest: dict[int, float] = {}
    for xid, at in xids:
        latest[xid] = max(at, latest.get(xid, at))
    return dict(sorted(latest.items()))
