"""What the kubelet sees of each GPU, as a strip with one character per share.

The list and who holds what are the kubelet's own; that a held share drains, why one is Unhealthy, and how a daemon is,
only the agent knows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import ShareState, split_share_id
from nodeagent.model.snapshot import GpuStatus, Snapshot
from nodeagent.sim.screen import Screen
from nodeagent.sim.view import KubeletView

LEGEND = (
    "# held by a pod   ~ held, to be given back   . free",
    "x no longer handed out, it leaves            ! not handed out, it is unhealthy",
)

_KINDS = (
    ("#", "held", "yellow"),
    ("~", "draining", "magenta"),
    (".", "free", "green"),
    ("x", "leaving", "dim"),
    ("!", "unhealthy", "red"),
)
_HEAD = 6
_BAR = 10
_LONGEST_BAR = 20
_RESOURCE = 22
_LONGEST_RESOURCE = 29
"""`nvidia.com/mig-1g.10gb.shared`: the words after such a long one begin further to the right."""


@dataclass(frozen=True, slots=True)
class Strip:
    """The shares of one GPU or MIG device under one resource, counted; no resource: nothing of it is advertised.

    `label` is `3` for a GPU, `3:7` for a MIG device of it. `whole` is one that is given away as one. `draining` are
    held shares that Git no longer wants, `leaving` and `unhealthy` free ones on the list that the kubelet hands out no
    more. `mps` is the state of its MPS daemon, if it has one; `fault` why the device itself cannot be relied on.
    `parts` is how many MIG devices a GPU has that can be used through them only. `unsure`: the kubelet has a share as
    Unhealthy, and the agent, which says why when it has summed up its turn, is milliseconds behind it, or ahead.
    """

    label: str
    resource: str | None = None
    whole: bool = False
    held: int = 0
    draining: int = 0
    free: int = 0
    leaving: int = 0
    unhealthy: int = 0
    mps: str = ""
    fault: str = ""
    parts: int | None = None
    unsure: bool = False

    @property
    def total(self) -> int:
        return sum(self._counts)

    @property
    def _counts(self) -> tuple[int, ...]:
        return self.held, self.draining, self.free, self.leaving, self.unhealthy

    @property
    def _notes(self) -> str:
        return "".join((f", {self.fault}" if self.fault else "", f", mps {self.mps}" if self.mps else ""))

    @property
    def name(self) -> str:
        """`GPU 3`, or the label of a MIG device."""
        return self.label if ":" in self.label else f"GPU {self.label}"

    def bar(self, screen: Screen | None = None) -> str:
        """`####~~` for six shares, `[........]` for a whole GPU; painted where a screen is given."""
        length = _BAR - 2 if self.whole else 1
        bar = ""
        for (sign, _, style), count in zip(_KINDS, self._counts, strict=True):
            part = sign * (count * length)
            bar += part if screen is None else screen.paint(part, style)
        return f"[{bar}]" if self.whole else bar

    def line(self, screen: Screen, *, room: int, resource: bool = True) -> str:
        """`GPU 3  ######....  nvidia.com/gpu.shared  6 held 4 free` in at most `room` columns; with `, mps ready` where
        there is a daemon, and `, XID 79` where there is a fault.
        """
        head = f"{self.name:<{_HEAD}} "
        if self.resource is None:
            return f"{head}{'-':<{_BAR}}  {self._nothing()}{self._notes}"
        fits = self.total <= _LONGEST_BAR
        plain = self.bar() if fits else f"{self.total} shares"
        gap = " " * (_BAR - len(plain)) + "  "
        name = f"{_cut(self.resource)}  " if resource else ""
        left = room - len(head + plain + gap + name)
        words = ""
        for (_, word, _), count in zip(_KINDS, self._counts, strict=True):
            more = f"{words} {count} {word}".lstrip()
            if count and len(more) <= left:
                words = more
        if words and len(words + self._notes) <= left:
            words += self._notes
        # The words are in a column as long as they fit there.
        wide = name.ljust(min(_RESOURCE + 2, len(name) + left - len(words))) if resource else ""
        return f"{head}{self.bar(screen) if fits else plain}{gap}{wide}{words}"

    def _nothing(self) -> str:
        if self.parts is None:
            return "nothing is advertised"
        return "nothing but its MIG devices is advertised" if self.parts else "nothing is advertised, no MIG devices"


def strips(kubelet: KubeletView, snapshot: Snapshot) -> tuple[Strip, ...]:
    """What the kubelet has of every GPU of the node, in the order of the GPUs, each followed by its MIG devices."""
    draining = {
        share.id for gpu in snapshot.gpus for share in gpu.shares if share.held and share.state is ShareState.DRAINING
    }
    why = _why(snapshot)
    found: dict[str, dict[tuple[str, bool], _Counts]] = {}
    for resource in kubelet.resources():
        held = kubelet.held(resource)
        for share, healthy in kubelet.devices(resource).items():
            uuid, number = split_share_id(share)
            counts = found.setdefault(uuid, {}).setdefault((resource, number is None), _Counts())
            if share in held:
                kind = "draining" if share in draining else "held"
            else:
                kind = "free" if healthy else why.get(share, "leaving")
            counts.kinds[kind] += 1
            counts.unsure |= not healthy and share not in why
    return tuple(strip for status in snapshot.gpus for strip in _strips(status, snapshot, found.get(status.gpu.uuid)))


@dataclass(slots=True)
class _Counts:
    kinds: Counter[str] = field(default_factory=Counter)
    unsure: bool = False


def _strips(status: GpuStatus, snapshot: Snapshot, found: Mapping[tuple[str, bool], _Counts] | None) -> Iterator[Strip]:
    gpu = status.gpu
    bare = Strip(
        gpu.label, mps=status.daemon.state.value if status.daemon is not None else "", fault=_fault(gpu.uuid, snapshot)
    )
    for (resource, whole), counts in (found or {}).items():
        kinds = counts.kinds
        yield replace(
            bare,
            resource=resource,
            whole=whole,
            held=kinds["held"],
            draining=kinds["draining"],
            free=kinds["free"],
            leaving=kinds["leaving"],
            unhealthy=kinds["unhealthy"],
            unsure=counts.unsure,
        )
    if not found:
        parts = sum(other.gpu.mig is not None and other.gpu.physical == gpu.uuid for other in snapshot.gpus)
        yield replace(bare, parts=parts if gpu.mig_enabled else None)


def _why(snapshot: Snapshot) -> dict[str, str]:
    """Why shares are Unhealthy, of those of which the agent has said so."""
    why = {}
    for status in snapshot.gpus:
        well = snapshot.applied.gpus[status.gpu.uuid].healthy
        for share in status.shares:
            if share.fenced or not well:
                why[share.id] = "leaving" if share.fenced else "unhealthy"
    return why


def _fault(uuid: str, snapshot: Snapshot) -> str:
    entry = snapshot.applied.gpus[uuid]
    if entry.gpu.health is not GpuHealth.OK:
        return str(entry.gpu.health.value) if uuid in snapshot.inventory.by_uuid() else "gone"
    return ", ".join(f"XID {xid}" for xid in sorted(entry.xids))


def _cut(resource: str) -> str:
    return resource if len(resource) <= _LONGEST_RESOURCE else f"{resource[: _LONGEST_RESOURCE - 3]}..."
