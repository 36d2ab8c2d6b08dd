"""Finds the sharing configs in what a pipeline has: bare files, ConfigMaps, all that `kubectl kustomize` prints.

What is wrong with a config inside a ConfigMap is told with its place in the outer file, where an editor or a review can
point to it: exactly for block scalars (`|`), whose lines are lines of the file, else with the place inside its text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from nodeagent.config.formats import not_for_us
from nodeagent.config.load import load, load_tree
from nodeagent.config.reading import REVISION_NAME, revision_in
from nodeagent.config.selection import FILE_NAME
from nodeagent.config.v1alpha1 import KIND
from nodeagent.documents.faults import nearest, one_of, show
from nodeagent.documents.strict import Path, Rejected, Tree, dotted, examine, read_all
from nodeagent.documents.tree import brief, shifted
from nodeagent.model.config import Document, Loaded, Stage, Violation, Where

_MOST_KINDS: Final = 20
_SAYS_IT_IS_ONE: Final = re.compile(rf"^kind:\s*[\"']?{KIND}\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a file holds: its configs, good and bad, and what is wrong with the file around them."""

    configs: tuple[Loaded, ...]
    violations: tuple[Violation, ...] = ()

    @property
    def all_violations(self) -> tuple[Violation, ...]:
        """Everything that is wrong, in the order in which it was found. Empty: the file is good."""
        return (*self.violations, *(one for loaded in self.configs for one in loaded.violations))


def load_bundle(data: bytes, file: str) -> Bundle:
    """Every sharing config in `data`. A file without any is wrong: a check that checks nothing helps nobody."""
    try:
        trees = read_all(data, file)
    except Rejected as rejected:
        return Bundle((), rejected.violations)
    if len(trees) <= 1 and (not trees or not _is_manifest(trees[0])):
        return Bundle((load(Document(file, data)),))
    configs: list[Loaded] = []
    violations: list[Violation] = []
    for tree in trees:
        if _is_meant(tree.value):
            configs.append(load_tree(Document(file, data), tree))
            continue
        for path, manifest in _config_maps(tree):
            found = list(_in_config_map(tree, path, manifest, data))
            configs.extend(found)
            if found:
                inside = dotted((*path, "data"))
                violations.extend(one for one in tree.problems if one.where.path.startswith(inside))
    if not configs:
        violations.append(_nothing_in(trees, file))
    return Bundle(tuple(configs), tuple(violations))


def _is_manifest(tree: Tree) -> bool:
    """Whether a document is of Kubernetes, not for the agent itself."""
    value = tree.value
    return isinstance(value, dict) and isinstance(value.get("kind"), str) and not _is_meant(value)


def _is_meant(value: object) -> bool:
    """Whether a document among others is a sharing config: stricter than where a file can be nothing else."""
    if not isinstance(value, dict):
        return False
    kind = value.get("kind")
    if isinstance(kind, str):
        return nearest(kind, [KIND]) is not None
    return "apiVersion" not in value and ("sharing" in value or (value.get("version") == "v1" and "flags" in value))


def _config_maps(tree: Tree) -> Iterator[tuple[Path, dict[str, object]]]:
    """The ConfigMaps of a document: itself, or the items of a List."""
    value = tree.value
    if not isinstance(value, dict):
        return
    items = value.get("items")
    if isinstance(items, list) and str(value.get("kind", "")).endswith("List"):
        candidates: list[tuple[Path, object]] = [(("items", position), item) for position, item in enumerate(items)]
    else:
        candidates = [((), value)]
    for path, candidate in candidates:
        if isinstance(candidate, dict) and candidate.get("kind", "ConfigMap") == "ConfigMap":
            yield path, candidate


def _in_config_map(tree: Tree, path: Path, manifest: dict[str, object], data: bytes) -> Iterator[Loaded]:
    entries = manifest.get("data")
    if not isinstance(entries, dict):
        return
    metadata = manifest.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    revision = entries.get(REVISION_NAME)
    for key, text in entries.items():
        if isinstance(text, str) and (key == FILE_NAME or _holds_config(text)):
            of = brief(name) if isinstance(name, str) and name else "without name"
            label = f"{tree.file} (ConfigMap {of}, {brief(key)})"
            document = Document(label, text.encode(), revision_in(revision) if isinstance(revision, str) else None)
            loaded = load(document)
            place = _Place(tree, (*path, "data", key), text, data)
            yield replace(loaded, violations=tuple(place.outside(one) for one in loaded.violations))


def _holds_config(text: str) -> bool:
    try:
        return _is_meant(examine(text.encode(), "").value)
    except Rejected:
        return _SAYS_IT_IS_ONE.search(text) is not None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a text stands in a file."""

    tree: Tree
    path: Path
    text: str
    data: bytes

    def outside(self, violation: Violation) -> Violation:
        """A violation in the text, as one in the file."""
        start, inner = self.tree.where(self.path), violation.where
        if self.path in self.tree.literals:
            where = Where(inner.path, start.line + inner.line, inner.column + self._indent(start.line))
            message = shifted(violation.message, start.line)
            return replace(violation, file=self.tree.file, where=where, message=message)
        path = f"{inner.path}: " if inner.path else ""
        message = f"in its line {inner.line}, column {inner.column}: {path}{violation.message}"
        return replace(violation, file=self.tree.file, where=start, message=message)

    def _indent(self, header: int) -> int:
        """How far a block scalar is moved to the right; `header` is the line of its `|`, from 1."""
        outer = self.data.decode().split("\n")[header:]
        pairs = zip(self.text.split("\n"), outer, strict=False)
        return next((_spaces(line) - _spaces(inner) for inner, line in pairs if inner.strip()), 0)


def _kind(manifest: dict[str, object]) -> str:
    kind = manifest["kind"]
    return brief(kind) if isinstance(kind, str) else show(kind)


def _spaces(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _nothing_in(trees: list[Tree], file: str) -> Violation:
    manifests = [tree.value for tree in trees if isinstance(tree.value, dict)]
    kinds = dict.fromkeys(_kind(manifest) for manifest in manifests if "kind" in manifest)
    if not kinds:
        return not_for_us(trees[0])
    shown = [*islice(kinds, _MOST_KINDS), *(["others"] if len(kinds) > _MOST_KINDS else [])]
    message = f"expected a sharing config, bare or in a ConfigMap, got {one_of(shown, 'and')} without one"
    return Violation(file, Where(), message, Stage.SCHEMA)
