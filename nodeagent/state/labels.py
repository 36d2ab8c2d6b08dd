"""What the Node says of itself, from what is applied: never from what is wished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nodeagent.model.config import Mode
from nodeagent.model.inventory import InventoryReason
from nodeagent.model.node import NodeReport
from nodeagent.model.shares import AppliedGpu
from nodeagent.model.snapshot import ConfigState, DocumentInfo, Snapshot
from nodeagent.state.gpu_labels import gpu_labels, present, value, vgpu_labels

POOL: Final = "nodeagent.io/pool"
STATE: Final = "nodeagent.io/config.state"
APPLIED: Final = "nodeagent.io/config.blob"
ACCEPTED: Final = "nodeagent.io/config.accepted-blob"
SETTLED: Final = "nodeagent.io/config.settled"
REJECTED: Final = "nodeagent.io/config.rejected-blob"
GPUS: Final = "nodeagent.io/gpus"
MODEL: Final = "nodeagent.io/model"
TIMESTAMP: Final = "nvidia.com/gfd.timestamp"
ERROR: Final = "nodeagent.io/config.error"
"""An annotation."""

BLOB: Final = 12
"""Characters of a git blob id in a label."""

MAX_ERROR: Final = 1000
"""Characters of the annotation: all annotations of an object share 256 KiB with everybody else's."""

_MAX_NAME: Final = 63


def report(snapshot: Snapshot) -> NodeReport | None:
    """Labels and annotations of the Node; None while the driver has not been asked or the mount has not been read: what
    the agent before this one said is then as good.
    """
    config = snapshot.config
    if snapshot.inventory.reason is InventoryReason.PENDING or (config.newest is None and config.problem is None):
        return None
    error = _error(snapshot.config)
    return NodeReport(
        labels=labels(snapshot),
        annotations={ERROR: error} if error else {},
        settled=snapshot.config.applied is not None,
    )


def labels(snapshot: Snapshot) -> dict[str, str]:
    """NVIDIA's and ours, by key."""
    found = gpu_labels(snapshot.applied, snapshot.inventory, snapshot.terms, snapshot.machine)
    found |= vgpu_labels(snapshot.inventory.vgpu)
    if snapshot.terms.timestamp:
        found[TIMESTAMP] = str(snapshot.timestamp)
    if pool := value(snapshot.pool or ""):
        found[POOL] = pool
    found |= _of_modes([entry for entry in present(snapshot.applied) if entry.gpu.mig is None])
    found |= _of_config(snapshot)
    return dict(sorted(found.items()))


def _of_modes(whole: Sequence[AppliedGpu]) -> dict[str, str]:
    """How many GPUs there are, how many of each mode that is there, and of each model where there are several."""
    found = {f"{GPUS}.total": str(len(whole))}
    modes, models = [_mode(entry) for entry in whole], [value(entry.gpu.model) for entry in whole]
    found |= {f"{GPUS}.{mode}": str(modes.count(mode)) for mode in set(modes)}
    if len(set(models)) > 1:
        room = _MAX_NAME - len(MODEL.partition("/")[2]) - 1
        found |= {f"{MODEL}.{model[:room].rstrip('-_.')}": str(models.count(model)) for model in set(models)}
    return found


def _mode(entry: AppliedGpu) -> str:
    if entry.contract is not None:
        return entry.contract.mode.value
    return "mig" if entry.gpu.mig_enabled else Mode.WITHHELD.value


def _of_config(snapshot: Snapshot) -> dict[str, str]:
    config = snapshot.config
    blobs = {
        # A GPU of which nothing can be planned may be anything but what the document says.
        APPLIED: None if snapshot.plan.refused else config.applied,
        ACCEPTED: config.desired,
        REJECTED: config.newest if config.violations else None,
    }
    found = {key: _blob(document) for key, document in blobs.items() if document is not None}
    # By itself, since the state names the gravest thing only: a fault or a wrong newer document would hide a drain.
    found[SETTLED] = "true" if snapshot.settled else "false"
    if state := _state(snapshot):
        found[STATE] = state
    return found


def _state(snapshot: Snapshot) -> str:
    """The gravest that holds; empty while no document was ever seen."""
    config = snapshot.config
    if config.violations:
        return "rejected"
    if config.desired is None:
        return ""
    ill = any(not entry.healthy for entry in snapshot.applied.gpus.values())
    if config.problem or config.obstacles or ill or snapshot.plan.refused:
        return "degraded"
    if config.suspended:
        return "suspended"
    return "applied" if config.observed_generation == config.generation else "draining"


def _blob(document: DocumentInfo) -> str:
    return document.git_blob[:BLOB]


def _error(config: ConfigState) -> str:
    """Why the newest document is not applied, a line for each mistake."""
    wrong = config.violations or config.obstacles
    text = "\n".join(map(str, wrong)) if wrong else config.problem or ""
    return text if len(text) <= MAX_ERROR else f"{text[: MAX_ERROR - 1]}…"
