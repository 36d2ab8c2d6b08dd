"""The status page: what a platform engineer wants to know of a node, at a glance, made on the server from one snapshot.

In this order: what is gravest; what each GPU does; what is pending; what is otherwise wrong; which documents, and what
happened. Nothing comes from elsewhere: it works on a node without a way out, and in `kubectl port-forward`. A script of
its own keeps it up to date (`page_script.py`); without that it is whole, and loaded anew every `REFRESH_SECONDS`.
"""

from __future__ import annotations

from collections.abc import Iterable

from nodeagent.model.config import Violation, mistakes
from nodeagent.model.snapshot import ConfigState, Snapshot
from nodeagent.model.words import count
from nodeagent.report.markup import Html, fill, items, join, since
from nodeagent.report.page_gpus import gpus
from nodeagent.report.page_script import SCRIPT, source
from nodeagent.report.page_style import STYLE
from nodeagent.report.page_tables import conditions, documents, drift, reloads, resources
from nodeagent.report.verdict import Verdict, judge, of
from nodeagent.report.words import Names, describe_action, describe_wait, describe_waves

REFRESH_SECONDS = 10

SHOWN_ERRORS = 3
"""Errors of the newest document that are shown before somebody asks."""

POLICY = (
    f"default-src 'none'; script-src {source(SCRIPT)}; style-src {source(STYLE)}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: its one script and its one style, and nothing else."""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="{}"></noscript>
<title>{}</title>
<style id="look">{}</style>
</head>
<body>
<p id="away" role="alert" hidden></p>
<main data-now="{}">
{}
</main>
<footer>{}<noscript>refreshes every {} s</noscript></footer>
<script id="script">{}</script>
</body>
</html>
"""

_LINKS = (("status", "status as JSON"), ("metrics", "metrics"), ("readyz", "readiness"))
"""Relative, so that they lead somewhere behind a proxy, too."""


def page(snapshot: Snapshot, now: float) -> str:
    """The whole document; `now` in Unix seconds, for ages."""
    verdict = judge(of(snapshot))
    sections = (
        _header(snapshot, now),
        _verdict(verdict),
        _errors(snapshot.config),
        gpus(snapshot, now),
        _plan(snapshot),
        drift(snapshot.drift, now),
        resources(snapshot.resources, now),
        conditions(snapshot.conditions, now),
        documents(snapshot.config),
        reloads(snapshot.reloads, now),
    )
    return fill(
        _PAGE,
        REFRESH_SECONDS,
        f"{verdict.mark} {snapshot.node} - nodeagent",
        Html(STYLE),
        f"{now:.3f}",
        join(filter(None, sections), "\n"),
        items('<a href="{}">{}</a>', _LINKS),
        REFRESH_SECONDS,
        Html(SCRIPT),
    )


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


def _verdict(verdict: Verdict) -> Html:
    return fill(
        '<div class="verdict {0}" id="verdict" role="status" aria-atomic="true">'
        '<span class="mark" aria-hidden="true">{1}</span><strong>{2}</strong><p>{3}</p></div>',
        verdict.tone, verdict.mark, verdict.title, verdict.text,
    )  # fmt: skip


def _errors(config: ConfigState) -> Html:
    """The first ones: the GPUs below them shall be seen, too. The others are folded up."""
    first, others = config.violations[:SHOWN_ERRORS], config.violations[SHOWN_ERRORS:]
    if not first:
        return Html("")
    return fill(
        '<section class="bad" id="errors"><h2>{} in the newest document</h2>{}{}</section>',
        count(mistakes(config.violations), "error"),
        _listed(first),
        fill('<details id="errors-more"><summary>{} more</summary>{}</details>', mistakes(others), _listed(others))
        if others
        else "",
    )


def _listed(violations: Iterable[Violation]) -> Html:
    """Errors with their places."""
    return fill(
        '<ul class="errors">{}</ul>',
        items(
            '<li><code>{}:{}:{}</code> {} {} <span class="tag plain">{}</span></li>',
            (
                (
                    violation.file,
                    violation.where.line,
                    violation.where.column,
                    fill("<code>{}</code>", violation.where.path) if violation.where.path else "",
                    violation.message,
                    violation.stage.value,
                )
                for violation in violations
            ),
        ),
    )


def _plan(snapshot: Snapshot) -> Html:
    """What is pending; nothing where nothing is."""
    plan, names = snapshot.plan, Names(snapshot.applied, snapshot.mps)
    if plan.converged:
        return Html("")
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
