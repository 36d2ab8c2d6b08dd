"""What PromQL expressions speak of: which metrics, which labels, which fixed values.

No parser of PromQL, which promtool and Prometheus are in these tests, but enough to hold names to those that an agent
exports.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

_WORDS = {
    *("and", "or", "unless", "on", "ignoring", "by", "without", "bool", "offset", "group_left", "group_right"),
    *("sum", "min", "max", "avg", "group", "count"),
}
_LABEL_LIST = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"(?<![\w:$])(?P<name>[A-Za-z_:][\w:]*)\s*(?P<matchers>\{[^}]*\})?(?P<call>\s*\()?")
_MATCHER = re.compile(r'(?P<label>\w+)\s*(?P<operator>=~|!~|!=|=)\s*"(?P<value>[^"]*)"')
_LITERAL = re.compile(r'"[^"]*"')
_DURATION = re.compile(r"\[[^\]]*\]|\boffset\s+\w+")


@dataclass(frozen=True, slots=True)
class Selector:
    """One selector: the metric, and for each label that it matches the values that it names."""

    metric: str
    labels: Mapping[str, frozenset[str]] = field(default_factory=dict)


def selectors(expression: str) -> list[Selector]:
    """Give every selector of an expression. Values that are patterns or variables of a dashboard are left out."""
    text = _LABEL_LIST.sub(" ", _DURATION.sub(" ", expression))
    found = []
    for match in _SELECTOR.finditer(_outside_of_literals(text)):
        if match["call"] or match["name"] in _WORDS:
            continue
        start, end = match.span("matchers")
        matchers = text[start:end] if match["matchers"] else ""
        found.append(Selector(match["name"], {one["label"]: _values(one) for one in _MATCHER.finditer(matchers)}))
    return found


def grouped(expression: str) -> set[str]:
    """Give the labels by which an expression aggregates or joins."""
    return {label.strip() for match in _LABEL_LIST.finditer(expression) for label in match[1].split(",")} - {""}


class Exported:
    """What agents export: of each metric the labels, and the values that each label had."""

    def __init__(self, pages: Iterable[str]) -> None:
        self._metrics: dict[str, dict[str, set[str]]] = {}
        for page in pages:
            for family in text_string_to_metric_families(page):
                for sample in family.samples:
                    labels = self._metrics.setdefault(sample.name, {})
                    for label, value in sample.labels.items():
                        labels.setdefault(label, set()).add(value)

    def __contains__(self, metric: str) -> bool:
        return metric in self._metrics

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def labels(self, metric: str) -> set[str]:
        """The labels of a metric."""
        return set(self._metrics[metric])

    def values(self, metric: str, label: str) -> set[str]:
        """The values that a label of a metric had."""
        return self._metrics[metric].get(label, set())

    def all_labels(self) -> set[str]:
        """Every label of any metric."""
        return {label for labels in self._metrics.values() for label in labels}

    def all_values(self, label: str) -> set[str]:
        """The values that a label had with any metric."""
        return {value for labels in self._metrics.values() for value in labels.get(label, ())}


def level(record: str, labels: Iterable[str]) -> set[str] | None:
    """The labels of a recorded series, from its name (`pool_git_blob:…`); None when its level is not made of these."""
    rest, found = record.partition(":")[0], set()
    known = sorted(labels, key=len, reverse=True)
    while rest:
        label = next((one for one in known if rest == one or rest.startswith(f"{one}_")), None)
        if label is None:
            return None
        found.add(label)
        rest = rest[len(label) + 1 :]
    return found


def rules_of(document: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """The rules of a rules file that are of a kind, `alert` or `record`."""
    return [rule for group in document["groups"] for rule in group["rules"] if kind in rule]


def _outside_of_literals(text: str) -> str:
    """The text with the inside of its string literals blanked, so that positions stay."""
    return _LITERAL.sub(lambda match: '"' + " " * (len(match[0]) - 2) + '"', text)


def _values(matcher: re.Match[str]) -> frozenset[str]:
    values = matcher["value"].split("|") if "~" in matcher["operator"] else [matcher["value"]]
    return frozenset(value for value in values if not re.search(r"[$*+]", value))
