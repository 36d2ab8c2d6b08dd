"""HTML that cannot be forgotten to be escaped: what is not `Html` already becomes text."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from nodeagent.model.printable import legible
from nodeagent.report.times import ago, rfc3339


class Html(str):
    """Text that is markup already."""

    __slots__ = ()


def fill(template: str, *values: object) -> Html:
    """The template (written by us, so trusted) with each `{}` replaced; a value that is not `Html` is escaped, and
    nothing in it hides.
    """
    return Html(
        template.format(*(value if isinstance(value, Html) else escape(legible(str(value))) for value in values))
    )


def join(parts: Iterable[Html], separator: str = "") -> Html:
    """The parts one after the other; the separator is markup."""
    return Html(separator.join(parts))


def items(template: str, rows: Iterable[tuple[object, ...]]) -> Html:
    """The template filled once per row."""
    return join(fill(template, *row) for row in rows)


def since(at: float, now: float, *, after: str = "") -> Html:
    """An age with the exact time behind it; both in Unix seconds. The script of the page keeps the age up to date."""
    told = '<span class="nowrap"><time datetime="{0}" title="{0}">{1}</time>{2}</span>'
    return fill(told, rfc3339(at), ago(now - at), after)
