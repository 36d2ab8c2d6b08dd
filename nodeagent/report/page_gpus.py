"""The GPUs on the status page: a card each, with its shares, or with its MIG devices and theirs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nodeagent.model.shares import ShareState
from nodeagent.model.snapshot import GpuStatus, Snapshot
from nodeagent.report.markup import Html, fill, items, join
from nodeagent.report.page_daemons import daemon_line, standing
from nodeagent.report.page_facts import Faults, contract, differs, rule
from nodeagent.report.page_shares import MAX_CELLS, Shares, bar, holders, legend, told


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
    return fill(
        '<section id="gpus"><h2>GPUs</h2>{}<div class="gpus">{}</div></section>',
        legend(),
        join(_card(status, parts.get(status.gpu.uuid, ()), snapshot, faults) for status in cards),
    )


def _card(status: GpuStatus, parts: Sequence[GpuStatus], snapshot: Snapshot, faults: Faults) -> Html:
    gpu, shares = status.gpu, Shares(status.shares)
    daemon = standing(status, snapshot.mps)
    bad = any(faults.any_of(one.gpu) for one in (status, *parts)) or (daemon is not None and daemon.tone == "bad")
    facts = " · ".join(filter(None, (told(shares.counts), rule(status))))
    return fill(
        '<article class="gpu{}"><h3>{} <span class="muted small">{}, {} GiB{}</span></h3>'
        "{}<p>{}</p>{}{}{}{}{}{}{}</article>",
        " bad" if bad else "",
        gpu.name,
        gpu.model if gpu.mig is None else f"{gpu.mig.profile} of {gpu.model}",
        f"{gpu.memory / 2**30:.0f}",
        f", index {gpu.driver_index} for the driver" if gpu.renumbered else "",
        faults.told(gpu),
        contract(status),
        daemon_line(daemon) if daemon is not None else "",
        shares.strip(),
        fill('<p class="small muted">{}</p>', facts) if facts else "",
        holders(shares.pods),
        differs(status, shares.total),
        join(_alike(group, faults) for group in _groups(parts)),
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


def _alike(group: Sequence[GpuStatus], faults: Faults) -> Html:
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
        join(faults.told(status.gpu) for status in group),
        strip,
        " · ".join(filter(None, (told(counts), rule(first)))),
        holders(pods),
        differs(first, shares[0][1].total),
    )
