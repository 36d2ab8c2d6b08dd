"""What the kubelet sees of each GPU, as a strip with one character per share.

The list and who holds what are the kubelet's own; that a held share drains is the one thing that only the agent knows.
"""

from __future__ import annotations

from dataclasses import dataclass

from nodeagent.model.shares import ShareState, split_share_id
from nodeagent.model.snapshot import Snapshot
from nodeagent.sim.screen import Screen
from nodeagent.sim.view import KubeletView

LEGEND = "# held by a pod   ~ held, to be given back   . free   x no longer handed out"

_KINDS = (("#", "held", "yellow"), ("~", "draining", "magenta"), (".", "free", "green"), ("x", "leaving", "dim"))
_BAR = 10
_LONGEST_BAR = 20
_RESOURCE = 21


@dataclass(frozen=True, slots=True)
class Strip:
    """The shares of one GPU under one resource, counted; no resource: nothing of the GPU is advertised.

    `whole` is a GPU that is given away as one. `draining` are held shares that Git no longer wants, `leaving` those
    that are on the list and that the kubelet hands out no more.
    """

    index: int
    resource: str | None = None
    whole: bool = False
    held: int = 0
    draining: int = 0
    free: int = 0
    leaving: int = 0

    @property
    def total(self) -> int:
        return sum(self._counts)

    @property
    def _counts(self) -> tuple[int, int, int, int]:
        return self.held, self.draining, self.free, self.leaving

    def bar(self, screen: Screen | None = None) -> str:
        """`####~~` for six shares, `[........]` for a whole GPU; painted where a screen is given."""
        length = _BAR - 2 if self.whole else 1
        bar = ""
        for (sign, _, style), count in zip(_KINDS, self._counts, strict=True):
            part = sign * (count * length)
            bar += part if screen is None else screen.paint(part, style)
        return f"[{bar}]" if self.whole else bar

    def line(self, screen: Screen, *, room: int, resource: bool = True) -> str:
        """`GPU 3  ######....  nvidia.com/gpu.shared  6 held 4 free` in at most `room` columns."""
        head = f"GPU {self.index:<3}"
        if self.resource is None:
            return f"{head}{'-':<{_BAR}}  nothing is advertised"
        fits = self.total <= _LONGEST_BAR
        plain = self.bar() if fits else f"{self.total} shares"
        after = " " * (_BAR - len(plain)) + "  " + (f"{_cut(self.resource):<{_RESOURCE}}  " if resource else "")
        left = room - len(head + plain + after)
        words = ""
        for (_, word, _), count in zip(_KINDS, self._counts, strict=True):
            more = f"{words} {count} {word}".lstrip()
            if count and len(more) <= left:
                words = more
        return f"{head}{self.bar(screen) if fits else plain}{after}{words}"


def strips(kubelet: KubeletView, snapshot: Snapshot) -> tuple[Strip, ...]:
    """What the kubelet has of every GPU of the node, in the order of the GPUs."""
    draining = {
        share.id for gpu in snapshot.gpus for share in gpu.shares if share.held and share.state is ShareState.DRAINING
    }
    found: dict[tuple[str, str, bool], list[int]] = {}
    for resource in kubelet.resources():
        held = kubelet.held(resource)
        for share, healthy in kubelet.devices(resource).items():
            uuid, number = split_share_id(share)
            kind = (1 if share in draining else 0) if share in held else 2 if healthy else 3
            found.setdefault((uuid, resource, number is None), [0, 0, 0, 0])[kind] += 1
    known = sorted((status.gpu.index, status.gpu.uuid) for status in snapshot.gpus)
    return tuple(
        strip
        for index, uuid in known
        for strip in [
            Strip(index, resource, whole, *counts) for (gpu, resource, whole), counts in found.items() if gpu == uuid
        ]
        or [Strip(index)]
    )


def _cut(resource: str) -> str:
    return resource if len(resource) <= _RESOURCE else f"{resource[: _RESOURCE - 3]}..."
