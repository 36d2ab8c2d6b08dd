"""Shares on the status page: a cell for each as long as they can be told apart, one bar for more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import ShareStatus
from nodeagent.model.words import count
from nodeagent.report.markup import Html, fill, items

MAX_CELLS = 64
"""A GPU with more shares gets one bar with a part per state: 40,000 cells help nobody, and take seconds to draw."""

MAX_PODS = 12
"""Pods of one GPU that are named."""

_MEANING = {
    ShareState.FREE: "free",
    ShareState.HELD: "held by a pod",
    ShareState.DRAINING: "draining: held, no longer wanted",
    ShareState.FENCED: "fenced: free, on its way out",
    ShareState.UNHEALTHY: "unhealthy",
}


class Shares:
    """The shares of one GPU or MIG device, looked at once: many of them are made while one looks."""

    def __init__(self, shares: Iterable[ShareStatus]) -> None:
        self.counts: Counter[ShareState] = Counter()
        self.pods: Counter[str] = Counter()
        self._first: list[ShareStatus] = []
        for share in shares:
            self.counts[share.state] += 1
            if share.holder is not None:
                self.pods[share.holder.rpartition("/")[0]] += 1
            if len(self._first) < MAX_CELLS:
                self._first.append(share)

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()

    def strip(self) -> Html:
        """A cell for each, or a bar of all; nothing where there are none."""
        if not self.total:
            return Html("")
        return cells(self._first, told(self.counts)) if self.total <= MAX_CELLS else bar(self.counts)


def legend() -> Html:
    """What the looks of a share mean."""
    looks = items('<span><i class="share {}"></i>{}</span>', ((state.value, text) for state, text in _MEANING.items()))
    return fill('<div class="legend">{}</div>', looks)


def told(counts: Counter[ShareState]) -> str:
    """`5 free, 2 held`."""
    return ", ".join(f"{counts[state]:,} {state.value}" for state in ShareState if counts[state])


def holders(pods: Counter[str], id_: str, *, shown: bool) -> Html:
    """The pods that have shares, with how many each has; nothing where none is named. `id_` tells these details from
    others of the page, `shown` is whether they are open at first.
    """
    if not pods:
        return Html("")
    named = [f"{pod} x{number}" if number > 1 else pod for pod, number in list(pods.items())[:MAX_PODS]]
    more = [f"{len(pods) - MAX_PODS:,} pods more"] if len(pods) > MAX_PODS else []
    return fill(
        '<details class="small" id="{}"{}><summary>held by {}</summary>{}</details>',
        f"pods-{id_}",
        Html(" open" if shown else ""),
        count(pods, "pod"),
        ", ".join(named + more),
    )


def cells(shares: Iterable[ShareStatus], label: str) -> Html:
    """A cell for each share, in which its id and its holder can be read."""
    found = items(
        '<i class="share {}" title="{}"></i>',
        (
            (share.state.value, f"{share.id}: {share.state.value}" + (f", {share.holder}" if share.holder else ""))
            for share in shares
        ),
    )
    return fill('<div class="strip" role="img" aria-label="{}">{}</div>', label, found)


def bar(counts: Counter[ShareState]) -> Html:
    """One bar with a part per state, as wide as its part of all. Their widths are attributes, which no policy forbids
    as it forbids a style of their own.
    """
    parts = items(
        '<svg class="share {}" width="{}%"></svg>',
        ((state.value, f"{100 * counts[state] / counts.total():.2f}") for state in ShareState if counts[state]),
    )
    return fill('<div class="bar" role="img" aria-label="{}">{}</div>', told(counts), parts)
