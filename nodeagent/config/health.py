"""`spec.health` of our format: which XIDs make a GPU unhealthy, and what may not be said of them together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from nodeagent.documents.quantities import format_duration, parse_duration
from nodeagent.documents.tree import Path, Tree
from nodeagent.model.config import Stage, Violation
from nodeagent.model.health import APPLICATION_XIDS, HealthPolicy, describe_xids

NEVER: Final = "never"

_PATH: Final[Path] = ("spec", "health")
_NEED_A_RESET: Final = frozenset({46, 48, 62, 64, 79, 95, 119, 120})
"""After which a GPU works again only when it, or its node, was reset: "XID Errors" by NVIDIA."""


def parse_health(spec: Mapping[str, Any]) -> HealthPolicy:
    """The policy that a `spec` means, which must fit the schema."""
    health = spec.get("health", {})
    recovery = _recovery(health)
    critical = health.get("criticalXids")
    return HealthPolicy(
        ignored=frozenset(health.get("ignoreXids", APPLICATION_XIDS)),
        critical=None if critical is None else frozenset(critical),
        recover_after=None if recovery is None else parse_duration(recovery["after"]),
        recoverable=frozenset() if recovery is None else frozenset(recovery["xids"]),
    )


def check(tree: Tree) -> tuple[Violation, ...]:
    """What could do nothing in a tree that fits the schema (stage semantic)."""
    spec = cast("dict[str, Any]", tree.value)["spec"]
    return tuple(_contradictions(tree, spec))


def _contradictions(tree: Tree, spec: Mapping[str, Any]) -> Iterator[Violation]:
    health = spec.get("health", {})
    if "ignoreXids" in health and "criticalXids" in health:
        yield _violation(
            tree,
            ("ignoreXids",),
            "expected criticalXids or ignoreXids, got both: beside criticalXids all other XIDs are only counted anyway;"
            " remove one of them",
        )
        return
    recovery, policy = _recovery(health), parse_health(spec)
    for position, xid in enumerate(recovery["xids"] if recovery is not None else ()):
        if not policy.is_critical(xid):
            why = "is ignored" if policy.critical is None else "criticalXids does not name"
            yield _violation(
                tree,
                ("recovery", "xids", position),
                f"expected XIDs that make a GPU unhealthy, got {describe_xids([xid])}, which {why}; remove it",
            )


def notes(spec: Mapping[str, Any]) -> Iterator[str]:
    """What an author may not have meant."""
    health, policy = spec.get("health", {}), parse_health(spec)
    if "ignoreXids" in health and (missing := APPLICATION_XIDS - policy.ignored):
        yield (
            "health.ignoreXids stands instead of the default list, so that a GPU is unhealthy after"
            f" {describe_xids(missing)}, which a program alone can cause"
        )
    if policy.critical == frozenset():
        yield "health.criticalXids is empty: no XID makes a GPU unhealthy, all are only counted"
    if policy.recover_after is not None and (doubtful := policy.recoverable & _NEED_A_RESET):
        yield (
            f"health.recovery: a GPU is offered again {format_duration(policy.recover_after)} after"
            f" {describe_xids(doubtful)}, but usually works again only after a reset or a reboot"
        )


def _recovery(health: Mapping[str, Any]) -> dict[str, Any] | None:
    recovery = health.get("recovery", NEVER)
    return None if recovery == NEVER else recovery


def _violation(tree: Tree, path: Path, message: str) -> Violation:
    return Violation(tree.file, tree.where((*_PATH, *path)), message, Stage.SEMANTIC)
