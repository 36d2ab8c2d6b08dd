"""What a pipeline has at hand, judged: a bare file, ConfigMaps, all that `kubectl kustomize` prints, values of a chart.

Everything that an agent could read is judged, and what is passed over is noted: what passes here is what agents accept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nodeagent.config import meant, rendered, workloads
from nodeagent.config.formats import not_for_us
from nodeagent.config.load import bounded, load, load_tree
from nodeagent.config.mounted import mounted
from nodeagent.config.search import RENDERED_BY, Found, Search, is_config_map, objects
from nodeagent.config.selection import FILE_NAME
from nodeagent.documents.faults import one_of, show
from nodeagent.documents.strict import Rejected, Tree, read_all
from nodeagent.documents.tree import brief
from nodeagent.model.config import Document, Loaded, Stage, Violation, Where

_MOST_KINDS: Final = 20
_WHOLE: Final = (1 << 20, 10_000)
"""Up to so many bytes and values a document that was read as one of a stream is as one that was read alone."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """What a file holds: its configs, good and bad, and what is wrong with the file around them.

    `nothing` is what to say of a file without any config where it should have one. `several`: it has to be said which
    of its configs is meant.
    """

    found: tuple[Found, ...] = ()
    violations: tuple[Violation, ...] = ()
    notes: tuple[str, ...] = ()
    nothing: tuple[Violation, ...] = ()
    several: bool = False

    @property
    def configs(self) -> tuple[Loaded, ...]:
        """Its configs, with their violations as such of the file."""
        return tuple(
            replace(one.loaded, violations=tuple(self.outside(one, violation) for violation in one.loaded.violations))
            for one in self.found
        )

    @property
    def apart(self) -> tuple[Found, ...]:
        """Its configs, each text once: a Job that checks them first has the same again."""
        texts: dict[object, Found] = {}
        for one in self.found:
            texts.setdefault(one.loaded.document.data or one.name, one)
        return tuple(texts.values())

    def outside(self, found: Found, violation: Violation) -> Violation:
        """A violation in one of the configs, as one in the file."""
        name = found.name if self.several else ""
        if found.place is None:
            return replace(violation, inside=name)
        return found.place.outside(violation, name)

    @property
    def all_violations(self) -> tuple[Violation, ...]:
        """Everything that is wrong, in the order of the file. Empty: the file is good."""
        wrong = (*self.violations, *self.nothing, *(one for loaded in self.configs for one in loaded.violations))
        return tuple(sorted(wrong, key=lambda one: (one.where.line, one.where.column)))


def load_bundle(data: bytes, file: str) -> Bundle:
    """Every sharing config in `data`. A file without any is wrong: a check that checks nothing helps nobody."""
    try:
        trees = read_all(data, file)
    except Rejected as rejected:
        return Bundle(violations=bounded(rejected.violations))
    return bundle_of(trees, data, file)


def bundle_of(trees: Sequence[Tree], data: bytes, file: str, *, named: bool = True) -> Bundle:
    """The same where the documents of `data` have been read already. A file that nobody has `named` may be anything."""
    alone = len(trees) == 1 and not _is_manifest(trees[0])
    if alone and (_is_bare(trees[0]) if named else meant.likely(trees[0])):
        return Bundle((Found(_bare(data, file, trees[0])),))
    manifests = tuple(manifest for tree in trees for _, manifest in objects(tree))
    ours = workloads.processes(manifests)
    mounts = mounted(ours)
    search = Search(file, mounts)
    for tree in trees:
        search.look(tree, data)
    if search.found or search.violations:
        notes = tuple(dict.fromkeys((*search.notes, *rendered.notes(manifests, search.found, ours, mounts))))
        several = len({one.name for one in search.found}) > 1
        return Bundle(tuple(search.found), tuple(search.violations), notes, (), several)
    if alone or not trees:
        return Bundle(nothing=load(Document(file, data)).violations)
    return Bundle(nothing=(_nothing_in(trees, file),))


def _is_bare(tree: Tree) -> bool:
    return meant.nearly(tree) and not meant.foreign(tree.value) and not is_config_map(tree.value)


def _bare(data: bytes, file: str, tree: Tree) -> Loaded:
    """The one config of a file. What was read in a stream is not read again, where that could make no difference."""
    size, values = _WHOLE
    document = Document(file, data)
    same = len(data) <= size and len(tree.values) <= values and b"\n---" not in data and b"\n..." not in data
    return load_tree(document, tree) if same else load(document)


def _is_manifest(tree: Tree) -> bool:
    """Whether a document is of Kubernetes, not for the agent itself."""
    value = tree.value
    return isinstance(value, dict) and isinstance(value.get("kind"), str) and not meant.is_meant(value)


def _kind(manifest: Mapping[str, object]) -> str:
    kind = manifest["kind"]
    return brief(kind) if isinstance(kind, str) else show(kind)


def _nothing_in(trees: Sequence[Tree], file: str) -> Violation:
    """What to say of manifests without a config, and how to take out what has to be rendered first."""
    manifests = [tree.value for tree in trees if isinstance(tree.value, dict)]
    kinds = list(dict.fromkeys(_kind(manifest) for manifest in manifests if "kind" in manifest))
    if not kinds:
        return not_for_us(trees[0])
    shown = [*kinds[:_MOST_KINDS], *(["others"] if len(kinds) > _MOST_KINDS else [])]
    message = f"expected a sharing config, bare or in a ConfigMap, got {one_of(shown, 'and')} without one"
    if renderer := next((RENDERED_BY[kind] for kind in kinds if kind in RENDERED_BY), None):
        message += f"; if one comes in when it is rendered, check that: `{renderer} ... | nodeagent validate -`"
    elif "ConfigMap" in kinds:
        message += f"; an agent reads the key {FILE_NAME}, or another one that a label of its node chooses"
    first = next(tree for tree in trees if isinstance(tree.value, dict) and "kind" in tree.value)
    return Violation(file, first.where(("kind",), key=True) if len(trees) > 1 else Where(), message, Stage.SCHEMA)
