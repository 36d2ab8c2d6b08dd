"""The GPUs on the status page: a card each, with its shares, or with its MIG devices and theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import GpuStatus, Snapshot
from nodeagent.report.markup import Html, fill, items, join
from nodeagent.report.page_daemons import daemon_line, standing
from nodeagent.report.page_facts import Faults, contract, differs, rule
from nodeagent.report.page_shares import MAX_CELLS, Shares, bar, holders, legend, told

MOST_OPEN = 8
"""GPUs up to which the pods on each are shown at once: with more of them the cards have to be low."""


def gpus(snapshot: Snapshot, now: float) -> Html:
    """The section of all GPUs, with a legend; `now` in Unix seconds, for ages."""
    if not snapshot.gpus:
        return Html('<section id="gpus"><h2>GPUs</h2><p class="muted">None is known yet.</p></section>')
    faults = Faults(snapshot, now)
    parts: dict[str, list[GpuStatus]] = {status.gpu.uuid: [] for status in snapshot.gpus if status.gpu.mig is None}
    cards = []
    for status in snapshot.gpus:
        if status.gpu.mig is not None and status.gpu.mig.parent in parts:
            parts[status.gpu.mig.parent].append(status)
        else:
            # A MIG device whose GPU is not known must not vanish with it.
            cards.append(status)
    kinds = {_kind(status) for status in cards}
    alike = f"{kinds.pop()}{' each' if len(cards) > 1 else ''}" if len(kinds) == 1 else ""
    look = _Look(snapshot, faults, kinds=not alike, pods=len(cards) <= MOST_OPEN)
    return fill(
        '<section id="gpus"><div class="heading"><h2>GPUs <span class="muted small">{}</span></h2>{}</div>'
        '<div class="gpus">{}</div></section>',
        alike,
        legend(),
        join(_card(status, parts.get(status.gpu.uuid, ()), look) for status in cards),
    )


class _Look(NamedTuple):
    """How the cards of a node look: whether each names its model, and whether those who have shares of it are shown
    before somebody asks.
    """

    snapshot: Snapshot
    faults: Faults
    kinds: bool
    pods: bool


def _kind(status: GpuStatus) -> str:
    gpu = status.gpu
    return f"{gpu.model if gpu.mig is None else f'{gpu.mig.profile} of {gpu.model}'}, {gpu.memory / 2**30:.0f} GiB"


def _card(status: GpuStatus, parts: Sequence[GpuStatus], look: _Look) -> Html:
    gpu, shares, faults = status.gpu, Shares(status.shares), look.faults
    daemon = standing(status, look.snapshot.mps)
    bad = any(faults.any_of(one.gpu) for one in (status, *parts)) or (daemon is not None and daemon.tone == "bad")
    facts = " · ".join(filter(None, (told(shares.counts), rule(status))))
    about = (_kind(status) if look.kinds else "", f"index {gpu.driver_index} for the driver" if gpu.renumbered else "")
    return fill(
        '<article class="gpu{}" id="gpu-{}"><h3>{} <span class="muted small">{}</span></h3>'
        "{}<p>{}</p>{}{}{}{}{}{}{}</article>",
        " bad" if bad else "",
        gpu.uuid,
        gpu.name,
        ", ".join(filter(None, about)),
        faults.told(gpu),
        contract(status),
        daemon_line(daemon) if daemon is not None else "",
        shares.strip(),
        fill('<p class="small muted">{}</p>', facts) if facts else "",
        holders(shares.pods, gpu.uuid, shown=look.pods),
        differs(status, shares.total),
        join(_alike(group, look) for group in _groups(parts)),
        faults.counted(gpu),
    )


def _groups(parts: Sequence[GpuStatus]) -> list[list[GpuStatus]]:
    """MIG devices of which all but their shares' states can be said together."""
    groups: dict[tuple[object, ...], list[GpuStatus]] = {}
    for status in parts:
        profile = status.gpu.mig.profile if status.gpu.mig is not None else ""
        terms = (status.contract, status.wanted, status.wanted_shares, status.rule)
        groups.setdefault((profile, *terms, len(status.shares)), []).append(status)
    return list(groups.values())


def _alike(group: Sequence[GpuStatus], look: _Look) -> Html:
    first = group[0]
    profile = first.gpu.mig.profile if first.gpu.mig is not None else ""
    shares = [(status, Shares(status.shares)) for status in group]
    counts: Counter[ShareState] = Counter()
    pods: Counter[str] = Counter()
    for _, found in shares:
        counts.update(found.counts)
        pods.update(found.pods)
    if counts.total() <= MAX_CELLS:
        strips = items(
            '<div class="part"><span class="small muted" title="{}">{}</span>{}</div>',
            ((status.gpu.uuid, status.gpu.label, found.strip()) for status, found in shares),
        )
        strip = fill('<div class="parts">{}</div>', strips)
    else:
        strip = bar(counts)
    return fill(
        '<div class="mig"><p><b>{}</b> {}</p>{}{}<p class="small muted">{}</p>{}{}</div>',
        f"{len(group)} x {profile}" if len(group) > 1 else profile,
        contract(first),
        join(look.faults.told(status.gpu) for status in group),
        strip,
        " · ".join(filter(None, (told(counts), rule(first)))),
        holders(pods, first.gpu.uuid, shown=look.pods),
        differs(first, shares[0][1].total),
    )
