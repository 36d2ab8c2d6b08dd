"""What the status page tells alike of GPUs and of MIG devices: what each is offered as, what Git wants instead, what is
wrong with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodeagent.model.config import THROUGH_MIG
from nodeagent.model.health import describe_xids
from nodeagent.model.inventory import Gpu, GpuHealth
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import GpuStatus, Snapshot
from nodeagent.model.words import count
from nodeagent.report.markup import Html, fill, items, join, since


def contract(status: GpuStatus) -> Html:
    """Mode, resource and limits of its shares, or why there are none."""
    found = status.contract
    if found is not None:
        limits = fill('<br><span class="small">{}</span>', found.limits) if found.limits is not None else ""
        return fill("{} <code>{}</code>{}", found.mode.value, found.resource, limits)
    if status.rule == THROUGH_MIG.name:
        text = "used through its MIG devices" if status.gpu.mig is None else "part of a whole GPU"
    else:
        text = "withheld" if status.wanted is None and status.rule is not None else "not advertised"
    return fill('<span class="muted">{}</span>', text)


def rule(status: GpuStatus) -> str:
    """Which rule of the document decides, empty where none does."""
    return "" if status.rule in {None, THROUGH_MIG.name} else f"rule {status.rule}"


def differs(status: GpuStatus, shares: int) -> Html:
    """What Git wants, where that is not what is there."""
    same = status.wanted == status.contract and (status.wanted is None or status.wanted_shares == shares)
    if same or status.rule is None:
        return Html("")
    if status.wanted is not None:
        also = "" if status.wanted == status.contract else f", {status.wanted}"
        wanted = f"{count(status.wanted_shares, 'share')}{also}"
    else:
        wanted = "its MIG devices" if status.rule == THROUGH_MIG.name and status.gpu.mig is None else "nothing"
    return fill('<p class="small"><span class="tag warn">Git wants</span> {}</p>', wanted)


class Faults:
    """What is wrong with the GPUs of a node. A MIG device has the faults of its GPU, which are told there."""

    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self._applied: Applied = snapshot.applied
        self._counted = _by_gpu(snapshot)
        self._now = now
        self._lost = {status.gpu.uuid for status in snapshot.gpus if status.gpu.health is not GpuHealth.OK}

    def any_of(self, gpu: Gpu) -> bool:
        """Whether there is anything wrong with it alone."""
        return self._broken(gpu) or bool(self._own_xids(gpu))

    def told(self, gpu: Gpu) -> Html:
        """A line for each thing that is wrong, with a badge."""
        name = "" if gpu.mig is None else f"{gpu.label} "
        lines = []
        if self._broken(gpu):
            lines.append(fill('<p>{}<span class="tag bad">{}</span> {}</p>', name, gpu.health.value, gpu.message))
        if xids := self._own_xids(gpu):
            told = join(self._aged(xids), "<br>")
            lines.append(
                fill(
                    '<p>{}<span class="tag bad">unhealthy</span> {}</p><p class="small muted">mend it, then:'
                    " <code>nodeagent clear-health {}</code></p>",
                    name, told, gpu.uuid,
                )
            )  # fmt: skip
        return join(lines)

    def counted(self, gpu: Gpu) -> Html:
        """In small print the XIDs that were reported of a GPU and its MIG devices and stand against none of them."""
        return items(
            '<p class="small muted">{}: {}, last {}</p>',
            (
                (describe_xids([xid]), count(number, "time"), self._ago(at))
                for xid, (number, at) in sorted(self._counted.get(gpu.uuid, {}).items())
            ),
        )

    def _broken(self, gpu: Gpu) -> bool:
        inherited = gpu.mig is not None and gpu.mig.parent in self._lost
        return gpu.health is not GpuHealth.OK and not inherited

    def _own_xids(self, gpu: Gpu) -> Mapping[int, float]:
        entry = self._applied.gpus.get(gpu.uuid)
        parent = self._applied.gpus.get(gpu.mig.parent) if gpu.mig is not None else None
        inherited = parent.xids if parent is not None else {}
        return {xid: at for xid, at in entry.xids.items() if xid not in inherited} if entry is not None else {}

    def _aged(self, xids: Mapping[int, float]) -> Iterator[Html]:
        for xid, at in sorted(xids.items()):
            yield fill("{}, {}", describe_xids([xid]), self._ago(at))

    def _ago(self, at: float) -> Html:
        return since(at, self._now, after=" ago")


def _by_gpu(snapshot: Snapshot) -> dict[str, dict[int, tuple[int, float]]]:
    """How often each XID that stands against nothing came, and when last, by GPU."""
    standing = {(entry.gpu.physical, xid) for entry in snapshot.applied.gpus.values() for xid in entry.xids}
    found: dict[str, dict[int, tuple[int, float]]] = {}
    for source, tally in snapshot.xids.tallies.items():
        if (source.uuid, source.xid) not in standing:
            number, at = found.setdefault(source.uuid, {}).get(source.xid, (0, 0.0))
            found[source.uuid][source.xid] = (number + tally.count, max(at, tally.last))
    return found
