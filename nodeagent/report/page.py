"""The status page: what a platform engineer wants to know of a node, at a glance, made on the server from one snapshot.

In this order: does the node follow Git; if not, why and what does it wait for; what does each GPU do; what happened.
No script and nothing from elsewhere: it works on a node without a way out, and in `kubectl port-forward`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nodeagent.model.config import mistakes
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.snapshot import (
    ABNORMAL,
    Condition,
    ConfigState,
    DocumentInfo,
    DriftKind,
    Reload,
    ReloadResult,
    Snapshot,
)
from nodeagent.report.markup import Html, fill, items, join, since
from nodeagent.report.page_gpus import gpus
from nodeagent.report.page_style import STYLE
from nodeagent.report.words import Names, count, describe_action, describe_wait, describe_waves

REFRESH_SECONDS = 10

_PROMPT = frozenset({"LabelsSynced", "HandOverReady"})
"""Conditions that are no fault while they are Pending: what is written or looked for with each change."""

_TONES = {
    ReloadResult.ACCEPTED: "ok",
    ReloadResult.UNCHANGED: "plain",
    ReloadResult.REJECTED: "bad",
    ReloadResult.FAILED: "bad",
}

_MARKS = {"ok": "✓", "warn": "!", "bad": "✗"}

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="{}">
<title>{}</title>
<style>{}</style>
</head>
<body>
<main>
{}
</main>
</body>
</html>
"""


def page(snapshot: Snapshot, now: float) -> str:
    """The whole document; `now` in Unix seconds, for ages."""
    mark = "✓" if snapshot.in_sync else "✗"
    sections = (
        _header(snapshot, now),
        _verdict(snapshot),
        _errors(snapshot.config),
        fill('<div class="pair">{}{}</div>', _documents(snapshot.config), _plan(snapshot)),
        gpus(snapshot, now),
        _resources(snapshot, now),
        _drift(snapshot, now),
        _conditions(snapshot.conditions, now),
        _reloads(snapshot.reloads, now),
        _footer(),
    )
    return fill(_PAGE, REFRESH_SECONDS, f"{mark} {snapshot.node} - nodeagent", Html(STYLE), join(sections, "\n"))


def _header(snapshot: Snapshot, now: float) -> Html:
    inventory = snapshot.inventory
    parts = sum(status.gpu.mig is not None for status in snapshot.gpus)
    facts: list[object] = [
        fill("pool <b>{}</b>", snapshot.pool) if snapshot.pool else "no pool",
        count(len(snapshot.gpus) - parts, "GPU"),
        *([count(parts, "MIG device")] if parts else []),
        *([f"driver {inventory.driver_version}"] if inventory.driver_version else []),
        *([f"CUDA {inventory.cuda_version}"] if inventory.cuda_version else []),
        f"nodeagent {snapshot.version}",
        fill("up {}", since(snapshot.started_at, now)),
        fill("seen {}", since(snapshot.at, now, after=" ago")),
    ]
    return fill(
        '<header><h1>{}</h1><div class="facts muted small">{}</div></header>',
        snapshot.node,
        items("<span>{}</span>", ((fact,) for fact in facts)),
    )


def _verdict(snapshot: Snapshot) -> Html:
    tone, mark, title, text = _judge(snapshot)
    return fill(
        '<div class="verdict {0}" role="status"><span class="mark" aria-hidden="true">{1}</span>'
        "<strong>{2}</strong><p>{3}</p></div>",
        tone, mark, title, text,
    )  # fmt: skip


def _judge(snapshot: Snapshot) -> tuple[str, str, str, str]:
    """(tone, mark, title, explanation): the first thing that is worth knowing."""
    config = snapshot.config
    running = f"the node goes on with {_short(config.desired)}" if config.desired else "nothing was ever accepted"
    running += ", which is not settled yet" if config.desired and not snapshot.settled else ""
    told = {condition.type: condition for condition in snapshot.conditions}
    accepted, ready = told.get("ConfigAccepted"), told.get("Ready")
    if config.violations:
        return (
            "bad",
            "✗",
            "Not in sync: the newest document is rejected",
            f"{count(mistakes(config.violations), 'error')}; {running}.",
        )
    if accepted is not None and not accepted.status:
        return (
            "bad",
            "✗",
            "Not in sync: there is no valid document",
            f"{accepted.message or accepted.reason}; {running}.",
        )
    if ready is not None and not ready.status:
        return "bad", "✗", "Not ready", ready.message or str(ready.reason)
    for type_, title in (
        ("Stalled", "Not in sync: a drain takes too long"),
        ("Suspended", "Not in sync: suspended" if not snapshot.in_sync else "In sync, and suspended"),
        ("Draining", "Draining: pods still hold shares that Git no longer wants"),
    ):
        condition = told.get(type_)
        if condition is not None and condition.status:
            return "warn", "…", title, condition.message
    faults = [f"{entry.message or entry.reason}" for entry in snapshot.conditions if _faulty(entry)]
    faults += _unhealthy(snapshot)
    if not snapshot.in_sync:
        return "warn", "…", "Not in sync yet", "; ".join(faults) or "the plan below is being carried out"
    if faults:
        return "warn", "!", "In sync, with a fault", "; ".join(faults)
    return "ok", "✓", "In sync", f"The node is what Git says: {_short(config.applied)}."


def _unhealthy(snapshot: Snapshot) -> Iterator[str]:
    """GPUs with which the driver has no quarrel, so that no condition speaks of them: their XIDs do."""
    faulty = {drift.subject for drift in snapshot.drift if drift.kind is DriftKind.HARDWARE}
    for entry in snapshot.applied.ordered():
        if entry.gpu.name in faulty and entry.gpu.health is GpuHealth.OK:
            yield entry.trouble


def _well(condition: Condition) -> bool:
    return condition.status is not (condition.type in ABNORMAL)


def _faulty(condition: Condition) -> bool:
    return not _well(condition) and not (condition.type in _PROMPT and condition.reason == "Pending")


def _short(document: DocumentInfo | None) -> str:
    if document is None:
        return "no document"
    name = f"{document.name}, " if document.name else ""
    revision = f", revision {document.revision}" if document.revision else ""
    return f"{name}blob {document.git_blob[:12]}{revision}"


def _errors(config: ConfigState) -> Html:
    if not config.violations:
        return Html("")
    return fill(
        '<section class="bad" id="errors"><h2>{} in the newest document</h2><ul class="errors">{}</ul></section>',
        count(mistakes(config.violations), "error"),
        items(
            '<li><code>{}:{}:{}</code> {}<br>{} <span class="tag plain">{}</span></li>',
            (
                (
                    violation.file,
                    violation.where.line,
                    violation.where.column,
                    fill("<code>{}</code>", violation.where.path) if violation.where.path else "",
                    violation.message,
                    violation.stage.value,
                )
                for violation in config.violations
            ),
        ),
    )


def _documents(config: ConfigState) -> Html:
    roles: dict[DocumentInfo, list[str]] = {}
    for role, document in (
        ("newest", config.newest),
        ("desired", config.desired),
        ("applied", config.applied),
        ("last known good", config.last_known_good),
    ):
        if document is not None:
            roles.setdefault(document, []).append(role)
    rows = items(
        '<tr><th scope="row">{}</th><td class="nowrap">{}</td><td><code title="{}">{}</code></td><td>{}</td></tr>',
        (
            (
                ", ".join(names),
                document.name or "-",
                f"git blob {document.git_blob}, sha256 {document.sha256}, {document.size} bytes, {document.path}",
                document.git_blob[:12],
                document.revision or "-",
            )
            for document, names in roles.items()
        ),
    )
    return fill(
        '<section id="documents"><h2>Documents</h2><div class="scroll"><table><thead><tr><th>which</th><th>name</th>'
        "<th>git blob</th><th>revision</th></tr></thead><tbody>{}</tbody></table></div>"
        '<p class="small muted">{} · generation {} accepted, {} applied</p>{}{}</section>',
        rows or Html('<tr><td colspan="4">none yet</td></tr>'),
        config.path,
        config.generation,
        config.observed_generation,
        fill("<p>{}</p>", config.problem) if config.problem else "",
        fill('<ul class="small">{}</ul>', items("<li>{}</li>", ((note,) for note in config.notes)))
        if config.notes
        else "",
    )


def _plan(snapshot: Snapshot) -> Html:
    plan, names = snapshot.plan, Names(snapshot.applied, snapshot.mps)
    if plan.converged:
        return Html('<section id="plan"><h2>Plan</h2><p class="muted">Nothing to do.</p></section>')
    refused = (f"{names.gpu(one.uuid)} stays as it is, please report it: {one.message}" for one in plan.refused)
    under_way = [share for gpu in snapshot.gpus if gpu.gpu.uuid in plan.waves.under_way for share in gpu.shares]
    waves = describe_waves(plan.waves, [share.holder for share in under_way if share.holder])
    waits = (describe_wait(wait, names) for wait in plan.waits)
    pending = [text for text in (*refused, waves, *waits) if text]
    return fill(
        '<section id="plan"><h2>Plan</h2>{}{}</section>',
        fill("<ol>{}</ol>", items("<li>{}</li>", ((describe_action(action, names),) for action in plan.actions)))
        if plan.actions
        else "",
        fill("<ul>{}</ul>", items("<li>{}</li>", ((text,) for text in pending))) if pending else "",
    )


def _table(id_: str, title: str, heads: Iterable[str], rows: Html, *, empty: str) -> Html:
    if not rows:
        return fill('<section id="{}"><h2>{}</h2><p class="muted">{}</p></section>', id_, title, empty)
    return fill(
        '<section id="{}"><h2>{}</h2><div class="scroll"><table><thead><tr>{}</tr></thead>'
        "<tbody>{}</tbody></table></div></section>",
        id_,
        title,
        items("<th>{}</th>", ((head,) for head in heads)),
        rows,
    )


def _drift(snapshot: Snapshot, now: float) -> Html:
    if not snapshot.drift:
        return Html("")
    rows = items(
        '<tr><td>{}</td><td class="wide">{}</td><td class="wide">{}</td><td class="wide">{}</td><td>{}</td></tr>',
        (
            (drift.kind.value, drift.subject, drift.want, drift.have, since(drift.since, now))
            for drift in snapshot.drift
        ),
    )
    return _table("drift", "Drift", ("kind", "of", "wanted", "there is", "for"), rows, empty="")


def _conditions(conditions: Iterable[Condition], now: float) -> Html:
    def row(condition: Condition) -> Iterator[object]:
        well = _well(condition)
        tone = "ok" if well else "warn" if condition.type in ABNORMAL else "bad"
        yield condition.type
        yield fill('<span class="tag {}">{} {}</span>', tone, _MARKS[tone], condition.reason)
        yield condition.message
        yield since(condition.since, now)

    rows = items(
        '<tr><th scope="row">{}</th><td>{}</td><td class="wide">{}</td><td>{}</td></tr>',
        # What is wrong comes first; the order within is the program's.
        (tuple(row(condition)) for condition in sorted(conditions, key=_well)),
    )
    return _table("conditions", "Conditions", ("condition", "state", "", "for"), rows, empty="none yet")


def _resources(snapshot: Snapshot, now: float) -> Html:
    def row(position: int) -> Iterator[object]:
        status = snapshot.resources[position]
        registration = status.registration
        state = registration.state.value if registration else "not yet"
        yield status.resource
        yield ", ".join(f"{number:,} {state.value}" for state, number in status.counts.items() if number) or "none"
        yield fill('<span class="tag {}">{}</span>', "ok" if registration and registration.streams else "bad", state)
        yield registration.message if registration else ""
        yield since(status.draining_since, now) if status.draining_since is not None else ""

    rows = items(
        '<tr><th scope="row">{}</th><td class="wide">{}</td><td>{} {}</td><td>{}</td></tr>',
        (tuple(row(position)) for position in range(len(snapshot.resources))),
    )
    return _table("resources", "Resources", ("resource", "shares", "kubelet", "drains for"), rows, empty="none served")


def _reloads(reloads: Iterable[Reload], now: float) -> Html:
    rows = items(
        '<tr><td>{}</td><td><span class="tag {}">{}</span></td><td>{}</td><td><code>{}</code></td>'
        '<td class="wide">{}</td><td class="num nowrap">{} ms</td></tr>',
        (
            (
                since(reload.at, now, after=" ago"),
                _TONES[reload.result],
                reload.result.value,
                reload.change.value if reload.change is not None else "-",
                reload.document.git_blob[:12] if reload.document is not None else "-",
                reload.message,
                f"{reload.duration * 1000:,.0f}",
            )
            for reload in reloads
        ),
    )
    heads = ("when", "result", "change", "git blob", "what", "took")
    return _table("reloads", "Last reloads", heads, rows, empty="none yet")


def _footer() -> Html:
    links = items(
        '<a href="{}">{}</a>', (("/status", "status as JSON"), ("/metrics", "metrics"), ("/readyz", "readiness"))
    )
    return fill("<footer>{}<span>refreshes every {} s</span></footer>", links, REFRESH_SECONDS)
