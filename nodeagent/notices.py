"""What the loop logs beside reloads: conditions and GPUs that have changed, each change once.

Their own rooms log what the kubelet, the disk and the document do.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

from nodeagent.model.config import Violation
from nodeagent.model.health import XidSource, describe_xids
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import Plan
from nodeagent.model.shares import Applied, AppliedGpu
from nodeagent.model.snapshot import ABNORMAL, Condition, Snapshot
from nodeagent.state.observed import Observed
from nodeagent.state.status import Reason

logger = logging.getLogger(__name__)

_TOLD = (
    "InventoryReady",
    "HealthWatched",
    "MpsReady",
    "LabelsSynced",
    "HandOverReady",
    "Stalled",
    "SharedTwice",
    "GpusRenumbered",
)

_ON_THEIR_WAY = (Reason.STARTING, Reason.STOPPING)
"""Reasons of a condition that is not met because what was asked for takes a moment."""

_PROMPT = ("LabelsSynced", "HandOverReady")
"""Conditions that are Pending for a moment with each change, which is no news; how it ends is."""


def conditions(before: Snapshot | None, after: Snapshot) -> None:
    """Conditions that nobody else tells of: their own rooms log what the kubelet, the disk and the document do."""
    for name in _TOLD:
        known = before.condition(name) if before is not None else None
        now = after.condition(name)
        if now is not None and known is not None and (now.status, now.reason) != (known.status, known.reason):
            told = f": {now.message}" if now.message else ""
            logger.log(_level(now), "%s is %s: %s%s", name, now.status, now.reason, told)


def _level(condition: Condition) -> int:
    if condition.type in _PROMPT and condition.reason == Reason.PENDING:
        return logging.DEBUG
    good = condition.status is not (condition.type in ABNORMAL) or condition.reason in _ON_THEIR_WAY
    return logging.INFO if good else logging.WARNING


def obstacles(before: tuple[Violation, ...], after: tuple[Violation, ...]) -> None:
    """What has come between the config in force and these GPUs, or has gone."""
    if after and not before:
        logger.warning("the config in force cannot be applied to these GPUs, what is applied is kept: %s", after[0])
    elif before and not after:
        logger.info("the config in force can be applied to these GPUs again")


def hints(fresh: Iterable[str]) -> None:
    """What is worth a word on the config in force on this node, each once for a document."""
    for hint in fresh:
        logger.warning("config: %s", hint)


def refusals(before: Plan | None, after: Plan, applied: Applied) -> None:
    """GPUs of which a plan is refused, each once as long as it is."""
    known = {one.uuid for one in before.refused} if before is not None else set()
    for one in after.refused:
        if one.uuid not in known:
            entry = applied.gpus.get(one.uuid)
            name = f"{entry.gpu.name} ({one.uuid})" if entry is not None else one.uuid
            logger.error(
                "%s stays as it is: the plan for it breaks an invariant, please report it: %s", name, one.message
            )
    for uuid in sorted(known - {one.uuid for one in after.refused}):
        logger.info("%s: the plan is no longer refused", applied.gpus[uuid].gpu.name if uuid in applied.gpus else uuid)


def health(view: Observed) -> None:
    """GPUs of which the driver says something else than before, a MIG device only where it does not of its GPU."""
    whole = {gpu.uuid: gpu.health for gpu in view.gpus if gpu.mig is None}
    for gpu in view.gpus:
        if gpu.mig is not None and gpu.health is whole.get(gpu.mig.parent):
            continue
        known = view.applied.gpus.get(gpu.uuid)
        if known is not None and known.gpu.health is not gpu.health:
            level = logging.INFO if gpu.health is GpuHealth.OK else logging.ERROR
            told = f": {gpu.message}" if gpu.message else ""
            logger.log(level, "%s (%s) %s%s", gpu.name, gpu.uuid, gpu.health.said(), told)


def verdicts(before: Applied, after: Applied) -> None:
    """Each change of a verdict, of a MIG device only where it is not that of its GPU."""
    for entry in after.ordered() if after is not before else ():
        known = before.gpus.get(entry.gpu.uuid)
        old = known.xids if known is not None else {}
        if entry.xids == old or (entry.gpu.mig is not None and _same_for_all(entry, before, after)):
            continue
        if entry.xids.keys() - old.keys():
            told = describe_xids(entry.xids)
            logger.error("%s (%s): %s: all its shares are unhealthy", entry.gpu.name, entry.gpu.uuid, told)
        elif not entry.xids:
            told = describe_xids(old)
            logger.info("%s (%s) is healthy again: %s is cleared", entry.gpu.name, entry.gpu.uuid, told)


def _same_for_all(entry: AppliedGpu, before: Applied, after: Applied) -> bool:
    old, new = before.gpus.get(entry.gpu.physical), after.gpus.get(entry.gpu.physical)
    return new is not None and new.xids != (old.xids if old is not None else {}) and new.xids == entry.xids


def dropped(before: Mapping[str, XidSource], after: Mapping[str, XidSource]) -> None:
    """XIDs that would make something unhealthy, and are nobody's: the first one of each GPU."""
    for uuid in after.keys() - before.keys():
        source = after[uuid]
        whose = "which this node does not have"
        if source.gpu_instance is not None:
            part = f", compute instance {source.compute_instance}" if source.compute_instance is not None else ""
            whose = f"GPU instance {source.gpu_instance}{part}, which no MIG device has"
        logger.warning(
            "%s of %s: %s; nothing becomes unhealthy by it, and more of its kind are only counted",
            describe_xids([source.xid]),
            uuid,
            whose,
        )
