"""The GPUs on the status page: each with a strip of its shares, a cell per share as long as they can be told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from nodeagent.model.inventory import GpuHealth
from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import GpuStatus, ShareStatus
from nodeagent.report.markup import Html, fill, items, join
from nodeagent.report.words import count

MAX_CELLS = 64
"""A GPU with more shares gets one bar with a part per state: 40,000 cells help nobody, and take seconds to draw."""

_MEANING = {
    ShareState.FREE: "free",
    ShareState.HELD: "held by a pod",
    ShareState.DRAINING: "draining: held, no longer wanted",
    ShareState.FENCED: "fenced: free, on its way out",
    ShareState.UNHEALTHY: "unhealthy",
}


def gpus(statuses: Sequence[GpuStatus]) -> Html:
    """The section of all GPUs, with a legend."""
    if not statuses:
        return Html('<section id="gpus"><h2>GPUs</h2><p class="muted">None is known yet.</p></section>')
    legend = items('<span><i class="share {}"></i>{}</span>', ((state.value, text) for state, text in _MEANING.items()))
    return fill(
        '<section id="gpus"><h2>GPUs</h2><div class="legend">{}</div><div class="gpus">{}</div></section>',
        legend,
        join(_gpu(status) for status in statuses),
    )


def _gpu(status: GpuStatus) -> Html:
    gpu = status.gpu
    well = gpu.health is GpuHealth.OK
    counts: Counter[ShareState] = Counter()
    cells: list[ShareStatus] = []
    for share in status.shares:
        counts[share.state] += 1
        if len(cells) <= MAX_CELLS:
            cells.append(share)
    told = ", ".join(f"{counts[state]:,} {state.value}" for state in ShareState if counts[state])
    strip = _cells(cells, told) if len(cells) <= MAX_CELLS else _bar(counts, told)
    return fill(
        '<article class="gpu{}"><h3>GPU {} <span class="muted small">{}, {} GiB</span></h3>{}{}{}'
        '<p class="small muted">{}</p>{}</article>',
        "" if well else " bad",
        gpu.index,
        gpu.model,
        f"{gpu.memory / 2**30:.0f}",
        fill('<p><span class="tag bad">{}</span> {}</p>', gpu.health.value, gpu.message) if not well else "",
        fill("<p>{}</p>", _contract(status)),
        strip,
        " · ".join(filter(None, (told, f"rule {status.rule}" if status.rule is not None else ""))),
        _differs(status, sum(counts.values())),
    )


def _contract(status: GpuStatus) -> Html:
    contract = status.contract
    if contract is not None:
        return fill("{} <code>{}</code>", contract.mode.value, contract.resource)
    withheld = status.wanted is None and status.rule is not None
    return fill('<span class="muted">{}</span>', "withheld" if withheld else "not advertised")


def _cells(shares: Iterable[ShareStatus], told: str) -> Html:
    if not told:
        return Html("")
    cells = items(
        '<i class="share {}" title="{}"></i>',
        (
            (share.state.value, f"{share.id}: {share.state.value}" + (f", {share.holder}" if share.holder else ""))
            for share in shares
        ),
    )
    return fill('<div class="strip" role="img" aria-label="{}">{}</div>', told, cells)


def _bar(counts: Counter[ShareState], told: str) -> Html:
    parts = items(
        '<i class="share {}" style="flex-grow:{}" title="{}"></i>',
        ((state.value, counts[state], f"{counts[state]:,} {state.value}") for state in ShareState if counts[state]),
    )
    return fill('<div class="bar" role="img" aria-label="{}">{}</div>', told, parts)


def _differs(status: GpuStatus, shares: int) -> Html:
    """What Git wants, where that is not what is there."""
    same = status.wanted == status.contract and (status.wanted is None or status.wanted_shares == shares)
    if same or status.rule is None:
        return Html("")
    wanted = "nothing" if status.wanted is None else f"{count(status.wanted_shares, 'share')}, {status.wanted}"
    return fill('<p class="small"><span class="tag warn">Git wants</span> {}</p>', wanted)
