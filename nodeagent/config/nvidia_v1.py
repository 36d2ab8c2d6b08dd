"""NVIDIA's `version: v1` file: what it means here, with the resource names and ids that NVIDIA's plugin would give.

`devices` and `rename`, which NVIDIA's plugin parses and ignores, work; a note tells the author of the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from nodeagent.config.sited import Sited
from nodeagent.documents.tree import Path, Tree, dotted
from nodeagent.model.config import DEFAULT_RESOURCE, Contract, Match, Mode, Rule, SharingConfig, Stage, Violation

SCHEMA: Final = "nvidia-v1"

_RESOURCES: Final[Path] = ("sharing", "timeSlicing", "resources")
_KEYS: Final[Mapping[str, Path]] = {"resource": ("rename",)}
_EXCLUSIVE: Final = Contract(DEFAULT_RESOURCE, Mode.EXCLUSIVE)


def check(tree: Tree) -> tuple[Violation, ...]:
    """What is wrong with a tree that fits the schema, before it can be told in rules (stage semantic)."""
    resources = _time_slicing(tree).get("resources", [])
    return tuple(
        Violation(
            tree.file,
            tree.where((*_RESOURCES, position, "name")),
            f'expected each resource once, got "{resource["name"]}" again (first in line'
            f" {tree.where((*_RESOURCES, 0)).line})",
            Stage.SEMANTIC,
        )
        for position, resource in enumerate(resources)
        if position > 0
    )


def parse(tree: Tree) -> tuple[SharingConfig, tuple[Sited, ...]]:
    """The config that a tree means, and its rules with their places. The tree must fit the schema and pass `check`."""
    sharing = _time_slicing(tree)
    if sharing:
        sited = tuple(_rules(tree, sharing))
    else:
        sited = (Sited(Rule("whole-gpus", Match(), _EXCLUSIVE, 1, where=tree.where(())), tree, ()),)
    config = SharingConfig(name="", rules=tuple(one.rule for one in sited), notes=tuple(_notes(tree, sharing)))
    return config, sited


def _time_slicing(tree: Tree) -> dict[str, Any]:
    root = cast("dict[str, Any]", tree.value)
    found: dict[str, Any] = root.get("sharing", {}).get("timeSlicing", {})
    return found


def _rules(tree: Tree, sharing: dict[str, Any]) -> Iterator[Sited]:
    """One rule, or two where `devices` lists both indices and UUIDs: criteria of one rule must hold together."""
    resource = sharing["resources"][0]
    path = (*_RESOURCES, 0)
    shared = f"{DEFAULT_RESOURCE}.shared" if sharing.get("renameByDefault", False) else DEFAULT_RESOURCE
    matches = _matches(resource.get("devices", "all"))
    for name, match in matches.items():
        yield Sited(
            Rule(
                name=name if len(matches) > 1 else "time-slicing",
                match=match,
                contract=Contract(resource.get("rename", shared), Mode.TIME_SLICED),
                replicas=resource["replicas"],
                max_shares_per_container=1 if sharing.get("failRequestsGreaterThanOne", False) else None,
                where=tree.where(path),
            ),
            tree,
            path,
            _KEYS,
        )


def _matches(devices: object) -> dict[str, Match]:
    if devices == "all":
        return {"time-slicing": Match()}
    if isinstance(devices, int):
        return {"time-slicing": Match(indices=frozenset(range(devices)))}
    listed = cast("list[int | str]", devices)
    uuids = frozenset(item for item in listed if isinstance(item, str) and item.startswith("GPU-"))
    indices = frozenset(int(item) for item in listed if item not in uuids)
    matches = {
        "time-slicing-by-index": Match(indices=indices) if indices else None,
        "time-slicing-by-uuid": Match(uuids=uuids) if uuids else None,
    }
    return {name: match for name, match in matches.items() if match is not None}


def _notes(tree: Tree, sharing: dict[str, Any]) -> Iterator[str]:
    flags = cast("dict[str, Any]", tree.value).get("flags", {})
    if flags.get("failOnInitError", False):
        yield (
            f"{_place(tree, ('flags', 'failOnInitError'))}: NVIDIA's plugin would exit without a driver; this agent"
            " stays up, is not ready and says why, and picks the GPUs up when they appear"
        )
    for resource in sharing.get("resources", ()):
        if resource.get("devices", "all") != "all":
            yield (
                f"{_place(tree, (*_RESOURCES, 0, 'devices'))}: only these GPUs are shared; NVIDIA's plugin would ignore"
                " this and share them all"
            )
        would_be = f"{DEFAULT_RESOURCE}.shared" if sharing.get("renameByDefault", False) else DEFAULT_RESOURCE
        if resource.get("rename", would_be) != would_be:
            yield (
                f"{_place(tree, (*_RESOURCES, 0, 'rename'))}: the shares are called {resource['rename']}; NVIDIA's"
                f" plugin would ignore this and call them {would_be}"
            )


def _place(tree: Tree, path: Path) -> str:
    return f"line {tree.where(path).line}, {dotted(path)}"
