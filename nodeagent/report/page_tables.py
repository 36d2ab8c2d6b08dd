"""The tables of the status page: drift, resources, conditions, documents and the last reloads.

Each has a caption and heads with a scope, and scrolls by itself, by keyboard too, where it is wider than the window.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from nodeagent.model.snapshot import (
    ABNORMAL,
    Condition,
    ConfigState,
    DocumentInfo,
    Drift,
    Reload,
    ReloadResult,
    ResourceStatus,
)
from nodeagent.model.words import count
from nodeagent.report.markup import Html, fill, items, since
from nodeagent.report.verdict import is_normal

LONGEST = 400
"""Characters of a message that are shown at once, and the lines: a document may have many mistakes."""

MOST_LINES = 4

_TONES = {
    ReloadResult.ACCEPTED: "ok",
    ReloadResult.UNCHANGED: "plain",
    ReloadResult.REJECTED: "bad",
    ReloadResult.FAILED: "bad",
}


def drift(found: Iterable[Drift], now: float) -> Html:
    """Where the node differs from what is wanted; nothing where it does not."""
    rows = [(one.subject, one.kind.value, one.want, one.have, since(one.since, now)) for one in found]
    if not rows:
        return Html("")
    heads = {"of": "wide", "kind": "", "wanted": "wide", "there is": "wide", "for": ""}
    return _section("drift", "Drift", _table("Where the node differs from what is wanted", heads, rows))


def resources(found: Iterable[ResourceStatus], now: float) -> Html:
    """What the node offers, by resource."""

    def row(status: ResourceStatus) -> Iterator[object]:
        registration = status.registration
        state = registration.state.value if registration else "not yet"
        tone = "ok" if registration and registration.streams else "bad"
        yield status.resource
        yield ", ".join(f"{number:,} {state.value}" for state, number in status.counts.items() if number) or "none"
        yield fill('<span class="tag {}">{}</span> {}', tone, state, registration.message if registration else "")
        yield since(status.draining_since, now) if status.draining_since is not None else ""

    heads = {"resource": "", "shares": "wide", "kubelet": "", "drains for": ""}
    table = _table("Shares by state, and whether the kubelet takes them", heads, [tuple(row(one)) for one in found])
    return _section("resources", "Resources", table or _none("None is served."))


def conditions(found: Iterable[Condition], now: float) -> Html:
    """What is not as it should be; the others are there for those who ask."""
    ordered = tuple(found)
    normal, odd = [one for one in ordered if is_normal(one)], [one for one in ordered if not is_normal(one)]
    some = f"{len(normal)} of {len(ordered)} are as they should be"
    others = fill(
        '<details id="normal"><summary>{}</summary><div>{}</div></details>',
        some if odd else f"All {len(normal)} are as they should be",
        _conditions("As they should be", normal, now),
    )
    content = fill("{}{}", _conditions("Not as they should be", odd, now), others if normal else "")
    return _section("conditions", "Conditions", content or _none("None is known yet."))


def _conditions(caption: str, found: Iterable[Condition], now: float) -> Html:
    """A mark only beside what is not as it should be: one beside a condition that is false would be read as true."""

    def row(condition: Condition) -> Iterator[object]:
        tone, mark = "plain", Html("")
        if not is_normal(condition):
            tone, sign = ("warn", "!") if condition.type in ABNORMAL else ("bad", "✗")
            mark = fill('<span aria-hidden="true">{} </span>', sign)
        yield condition.type
        yield fill('<span class="tag {}">{}{}</span>', tone, mark, "true" if condition.status else "false")
        yield condition.reason
        yield _folded(condition.message)
        yield since(condition.since, now)

    heads = {"condition": "", "is": "", "reason": "", "message": "wide", "for": ""}
    every = tuple(found)
    return _table(
        caption, heads, [tuple(row(condition)) for condition in every], [f"condition-{one.type}" for one in every]
    )


def documents(config: ConfigState) -> Html:
    """Which documents there are, which are in force, and what a reader should know of them."""
    roles: dict[DocumentInfo, list[str]] = {}
    for role, document in (
        ("newest", config.newest),
        ("accepted", config.desired),
        ("applied", config.applied),
        ("last known good", config.last_known_good),
    ):
        if document is not None:
            roles.setdefault(document, []).append(role)
    rows = [
        (
            ", ".join(names),
            document.name or "-",
            fill(
                '<details id="document-{}"><summary><code>{}</code></summary>{}</details>',
                names[0].replace(" ", "-"),
                document.git_blob[:12],
                f"git blob {document.git_blob}, sha256 {document.sha256}, {document.size} bytes, {document.path}",
            ),
            document.revision or "-",
        )
        for document, names in roles.items()
    ]
    caption = f"{config.path} · generation {config.generation} accepted, {config.observed_generation} applied"
    heads = {"which": "", "name": "", "git blob": "wide", "revision": "wide"}
    parts = (
        _table(caption, heads, rows) or _none(f"None yet: {config.path}"),
        fill("<p>{}</p>", config.problem) if config.problem else "",
        fill('<ul class="small">{}</ul>', items("<li>{}</li>", ((note,) for note in config.notes)))
        if config.notes
        else "",
    )
    return _section("documents", "Documents", fill("{}{}{}", *parts))


def reloads(found: Iterable[Reload], now: float) -> Html:
    """What became of the last documents."""
    every = tuple(found)
    # When they were moves with the wall clock; for how long each took does not.
    ids = [
        f"reload-{reload.duration * 1e9:.0f}-{reload.document.git_blob[:12] if reload.document else ''}"
        for reload in every
    ]
    rows = [
        (
            since(reload.at, now, after=" ago"),
            fill('<span class="tag {}">{}</span>', _TONES[reload.result], reload.result.value),
            reload.change.value if reload.change is not None else "-",
            fill("<code>{}</code>", reload.document.git_blob[:12]) if reload.document is not None else "-",
            _folded(reload.message),
            f"{reload.duration * 1000:,.0f} ms",
        )
        for reload in every
    ]
    heads = {"when": "", "result": "", "change": "", "git blob": "", "what": "wide", "took": "num nowrap"}
    return _section("reloads", "Last reloads", _table("The newest first", heads, rows, ids) or _none("None yet."))


def _folded(text: str) -> object:
    """A text of which only the beginning is shown until somebody asks, if it is long."""
    first = text.partition("\n")[0]
    if len(text) <= LONGEST and text.count("\n") < MOST_LINES:
        return text
    short = first if len(first) <= LONGEST else f"{first[:LONGEST]}…"
    lines = text.count("\n")
    more = f" ({count(lines, 'line')} more)" if lines else ""
    return fill("<details><summary>{}{}</summary>{}</details>", short, more, text)


def _section(id_: str, title: str, content: Html) -> Html:
    return fill('<section id="{}"><h2>{}</h2>{}</section>', id_, title, content)


def _none(text: str) -> Html:
    return fill('<p class="muted">{}</p>', text)


def _table(
    caption: str, heads: Mapping[str, str], rows: Sequence[Sequence[object]], ids: Sequence[str] | None = None
) -> Html:
    """A table; nothing without rows. `heads` are the columns, each with the class of its cells. On a phone, where there
    is no room for columns, each cell says which one it is of. `ids` are those of the rows, so that the script knows
    them again when others come.
    """
    if not rows:
        return Html("")
    label, *others = heads
    cells = [f'<th scope="row" class="{heads[label]}">{{}}</th>']
    cells += [f'<td class="{heads[head]}" data-label="{head}">{{}}</td>' for head in others]
    return fill(
        '<div class="scroll" role="region" tabindex="0" aria-label="{}"><table><caption>{}</caption>'
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>",
        caption,
        caption,
        items('<th scope="col" class="{}">{}</th>', ((class_, head) for head, class_ in heads.items())),
        items(
            f"<tr{{}}>{''.join(cells)}</tr>",
            ((fill(' id="{}"', ids[at]) if ids else Html(""), *row) for at, row in enumerate(rows)),
        ),
    )
