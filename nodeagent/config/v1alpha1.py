"""Our own format, `nodeagent.io/v1alpha1`: from a tree that fits the schema to the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

from nodeagent.config.sited import Sited
from nodeagent.documents.quantities import parse_duration, parse_quantity
from nodeagent.documents.tree import Tree
from nodeagent.model.config import (
    DEFAULT_RESOURCE,
    DEFAULT_TRANSITION_TIMEOUT,
    Contract,
    Match,
    Mode,
    Rule,
    SharingConfig,
)

API_VERSION: Final = "nodeagent.io/v1alpha1"
KIND: Final = "SharingConfig"
SCHEMA: Final = "sharing-config-v1alpha1"

_REPLICAS: Final[Mapping[str, tuple[str, ...]]] = {"replicas": ("timeSlicing", "replicas")}


def parse(tree: Tree) -> tuple[SharingConfig, tuple[Sited, ...]]:
    """The config that a tree means, and its rules with their places. The tree must fit the schema."""
    root = cast("dict[str, Any]", tree.value)
    spec = root["spec"]
    timeout = spec.get("transition", {}).get("timeout")
    sited = tuple(_rule(tree, position, rule) for position, rule in enumerate(spec["rules"]))
    config = SharingConfig(
        name=root["metadata"]["name"],
        rules=tuple(one.rule for one in sited),
        suspend=spec.get("suspend", False),
        transition_timeout=DEFAULT_TRANSITION_TIMEOUT if timeout is None else parse_duration(timeout),
        notes=tuple(_notes(sited)),
    )
    return config, sited


def _rule(tree: Tree, position: int, rule: dict[str, Any]) -> Sited:
    path = ("spec", "rules", position)
    if "withheld" in rule:
        contract, replicas = None, 0
    elif "timeSlicing" in rule:
        contract, replicas = Contract(rule["resource"], Mode.TIME_SLICED), rule["timeSlicing"]["replicas"]
    else:
        contract, replicas = Contract(rule.get("resource", DEFAULT_RESOURCE), Mode.EXCLUSIVE), 1
    return Sited(
        Rule(
            name=rule["name"],
            match=_match(rule.get("match", {})),
            contract=contract,
            replicas=replicas,
            max_shares_per_container=rule.get("maxSharesPerContainer"),
            where=tree.where(path),
        ),
        tree,
        path,
        _REPLICAS,
    )


def _match(match: dict[str, Any]) -> Match:
    return Match(
        indices=frozenset(match["indices"]) if "indices" in match else None,
        uuids=frozenset(match["uuids"]) if "uuids" in match else None,
        models=tuple(match["models"]) if "models" in match else None,
        min_memory=parse_quantity(match["minMemory"]) if "minMemory" in match else None,
    )


def _notes(rules: tuple[Sited, ...]) -> list[str]:
    return [
        f'rule "{sited.rule.name}" makes one time-sliced share of a GPU: "exclusive: {{}}" is the usual way to say that'
        for sited in rules
        if sited.rule.mode is Mode.TIME_SLICED and sited.rule.replicas == 1
    ]
