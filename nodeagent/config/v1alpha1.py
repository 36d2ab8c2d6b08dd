"""Our own format, `nodeagent.io/v1alpha1`: from a tree that fits the schema to the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from nodeagent.config import health
from nodeagent.config.sited import Sited
from nodeagent.documents.quantities import parse_duration, parse_quantity
from nodeagent.documents.tree import Tree
from nodeagent.model.config import (
    DEFAULT_RESOURCE,
    DEFAULT_TRANSITION_TIMEOUT,
    MIG_RESOURCES,
    Contract,
    Match,
    MaxUnavailable,
    Mode,
    MpsTerms,
    Placement,
    Rule,
    SharingConfig,
)

API_VERSION: Final = "nodeagent.io/v1alpha1"
KIND: Final = "SharingConfig"
SCHEMA: Final = "sharing-config-v1alpha1"

_MODES: Final[Mapping[str, Mode]] = {
    "exclusive": Mode.EXCLUSIVE,
    "timeSlicing": Mode.TIME_SLICED,
    "mps": Mode.MPS,
    "withheld": Mode.WITHHELD,
}


def parse(tree: Tree) -> tuple[SharingConfig, tuple[Sited, ...]]:
    """The config that a tree means, and its rules with their places. The tree must fit the schema."""
    root = cast("dict[str, Any]", tree.value)
    spec = root["spec"]
    transition = spec.get("transition", {})
    timeout = transition.get("timeout")
    sited = tuple(_rule(tree, position, rule) for position, rule in enumerate(spec["rules"]))
    config = SharingConfig(
        name=root["metadata"]["name"],
        rules=tuple(one.rule for one in sited),
        suspend=spec.get("suspend", False),
        transition_timeout=DEFAULT_TRANSITION_TIMEOUT if timeout is None else parse_duration(timeout),
        max_unavailable=_max_unavailable(transition.get("maxUnavailable")),
        health=health.parse_health(spec),
        notes=(*_notes(sited), *health.notes(spec)),
    )
    return config, sited


def _max_unavailable(value: int | str | None) -> MaxUnavailable:
    if value is None:
        return MaxUnavailable()
    if isinstance(value, str):
        return MaxUnavailable(percent=int(value.removesuffix("%")))
    return MaxUnavailable(number=int(value))


def _rule(tree: Tree, position: int, rule: dict[str, Any]) -> Sited:
    path = ("spec", "rules", position)
    key = next(key for key in _MODES if key in rule)
    mode, body = _MODES[key], rule[key]
    withheld = mode is Mode.WITHHELD
    under_mps = mode is Mode.MPS
    match = _match(rule.get("match", {}))
    by_default = MIG_RESOURCES if match.mig_only else DEFAULT_RESOURCE
    return Sited(
        Rule(
            name=rule["name"],
            match=match,
            contract=None if withheld else Contract(rule.get("resource", by_default), mode),
            replicas=0 if withheld else body.get("replicas", 1),
            max_shares_per_container=rule.get("maxSharesPerContainer", 1 if under_mps else None),
            mps=_mps(body) if under_mps else None,
            placement=Placement(rule.get("placement", Placement.DISTRIBUTED.value)),
            where=tree.where(path),
        ),
        tree,
        path,
        {"replicas": (key, "replicas"), "uuids": ("match", "uuids")},
    )


def _mps(body: dict[str, Any]) -> MpsTerms:
    memory = body.get("memoryPerReplica")
    return MpsTerms(
        memory=None if memory is None else parse_quantity(memory),
        threads=body.get("threadPercentage"),
        oversubscribe=body.get("oversubscribe", False),
    )


def _match(match: dict[str, Any]) -> Match:
    return Match(
        indices=frozenset(match["indices"]) if "indices" in match else None,
        uuids=frozenset(match["uuids"]) if "uuids" in match else None,
        models=tuple(match["models"]) if "models" in match else None,
        min_memory=parse_quantity(match["minMemory"]) if "minMemory" in match else None,
        mig=tuple(match["mig"]) if "mig" in match else None,
    )


def _notes(rules: tuple[Sited, ...]) -> Iterator[str]:
    for rule in (sited.rule for sited in rules):
        if rule.mode is Mode.TIME_SLICED and rule.replicas == 1:
            yield (
                f'rule "{rule.name}" makes one time-sliced share of a GPU: "exclusive: {{}}" is the usual way to say'
                " that"
            )
        if rule.mode is Mode.MPS and (rule.max_shares_per_container or 0) > rule.replicas:
            yield (
                f'rule "{rule.name}" allows a container {rule.max_shares_per_container} shares, but a GPU has'
                f" {rule.replicas}, and under MPS all shares of a container are of one GPU"
            )
