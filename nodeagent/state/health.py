"""Which XIDs make which GPU unhealthy: the policy of the config, applied to what the driver has reported.

A fault is the whole GPU's, or the whole MIG device's, so the verdict is part of the applied contract and all shares
follow from it: neither a reload nor a restart of the agent forgets it. It ends when the policy does not take its XIDs
for critical any more, when the policy says that the GPU has recovered, when a person clears it, and with a reload of
the driver or a reboot, which reset the GPU (DESIGN section 4, `health`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from nodeagent.model.health import HealthPolicy, XidSource, XidTally
from nodeagent.model.inventory import Gpu
from nodeagent.model.plan import Diagnose
from nodeagent.model.shares import Applied, AppliedGpu

PLACED_WITHIN = 15.0
"""Seconds within which the driver lists what it has reported an XID of. Later the instances may be somebody else's."""


@dataclass(frozen=True, slots=True)
class Symptoms:
    """What verdicts are made from, beside those that are there. `wall` is now, in Unix seconds.

    `policy` is None while no config is accepted: what is known then stays, and what is new is judged by default. `news`
    are the XIDs that no plan has taken in yet, with when each came last (Unix seconds). `cleared` are the uuids of
    which a person says that they are well. `driver_load` is None while it is not known.
    """

    wall: float = 0.0
    policy: HealthPolicy | None = None
    news: Mapping[XidSource, float] = field(default_factory=dict)
    cleared: frozenset[str] = frozenset()
    driver_load: str | None = None

    def past(self, at: float) -> float:
        """A moment that is not to come: a clock that was set back must not keep a GPU from recovering."""
        return min(at, self.wall) if self.wall else at


def news(tallies: Mapping[XidSource, XidTally], taken: Mapping[XidSource, XidTally]) -> dict[XidSource, float]:
    """What has been reported and not been taken in, with when it came last."""
    if tallies is taken:
        return {}
    return {source: tally.last for source, tally in tallies.items() if tally != taken.get(source)}


def diagnose(applied: Applied, symptoms: Symptoms) -> tuple[Diagnose, ...]:
    """The verdicts that change. A GPU comes before its MIG devices, which have its faults beside their own."""
    found = []
    whole: dict[str, Mapping[int, float]] = {}
    policy = symptoms.policy or HealthPolicy()
    reported = [(source, symptoms.past(at)) for source, at in symptoms.news.items() if policy.is_critical(source.xid)]
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
    young = symptoms.wall - at < PLACED_WITHIN
    concerned = [entry for entry in applied.gpus.values() if _concerns(source, entry)]
    if not concerned:
        return young
    if not policy.is_critical(source.xid) or any(source.xid in entry.xids for entry in concerned):
        return False
    return young or source.gpu_instance is None


def next_recovery(applied: Applied, policy: HealthPolicy | None) -> float | None:
    """When the next GPU is healthy again by itself, in Unix seconds; None where none will be."""
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
    xids = {xid: symptoms.past(at) for xid, at in entry.xids.items()}
    if symptoms.policy is None:
        return xids
    xids = {xid: at for xid, at in xids.items() if symptoms.policy.is_critical(xid)}
    end = symptoms.policy.recovers_at(xids)
    return {} if end is not None and symptoms.wall >= end else xids


def _cleared(gpu: Gpu, cleared: AbstractSet[str]) -> bool:
    return gpu.uuid in cleared or gpu.physical in cleared


def _reloaded(entry: AppliedGpu, driver_load: str | None) -> bool:
    return driver_load is not None and entry.driver_load not in {None, driver_load}


def _of(entry: AppliedGpu, reported: Iterable[tuple[XidSource, float]]) -> Iterable[tuple[int, float]]:
    return ((source.xid, at) for source, at in reported if _concerns(source, entry))


def _concerns(source: XidSource, entry: AppliedGpu) -> bool:
    """Whether this was reported of this very GPU, or of the instances that this MIG device is. One that is reported of
    an instance which no MIG device has is not the GPU's, whoever had it has gone with it; but where a GPU with MIG is
    offered as if it were whole, whatever fails in it is.
    """
    gpu = entry.gpu
    if source.uuid != gpu.physical:
        return False
    if gpu.mig is None:
        return source.gpu_instance is None or (gpu.mig_enabled and entry.contract is not None)
    return source.gpu_instance == gpu.mig.gpu_instance and source.compute_instance in {None, gpu.mig.compute_instance}


def _latest(xids: Iterable[tuple[int, float]]) -> dict[int, float]:
    latest: dict[int, float] = {}
    for xid, at in xids:
        latest[xid] = max(at, latest.get(xid, at))
    return dict(sorted(latest.items()))
