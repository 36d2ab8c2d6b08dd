"""Looks for sharing configs in the documents of one file: in ConfigMaps, in Lists of them, in objects that have whole
ones within, such as a policy or a template, and in what is still to be rendered: values of a chart in a HelmRelease or
an Application, patches and literals of kustomize.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from nodeagent.config import configmap, meant
from nodeagent.config.load import bounded, load, load_tree
from nodeagent.config.mounted import Mount, Reference, reference
from nodeagent.config.place import Place
from nodeagent.config.workloads import called
from nodeagent.documents.strict import Path, Rejected, Tree, dotted, read_all
from nodeagent.documents.tree import brief
from nodeagent.model.config import Document, Loaded, Stage, Violation

RENDERED_BY: Final = {
    "HelmRelease": "helm template",
    "HelmChart": "helm template",
    "HelmChartConfig": "helm template",
    "Application": "argocd app manifests",
    "ApplicationSet": "argocd app manifests",
    "Kustomization": "kubectl kustomize",
    "Component": "kubectl kustomize",
}
"""Kinds that others make manifests of, and by what."""

_DEEPEST: Final = 3
"""Texts within texts within texts."""

_MOST: Final = 1000
"""So many configs of one document are judged. An object of Kubernetes has 1 MiB, and nobody has as many pools."""

_MOST_LOOKS: Final = 1000
"""So many texts of one document, which may hold a config, are read to see whether they do."""

_AS_MANY: Final = 10
"""A config that is no text costs as many others: it is cut out of its document."""

_LONGEST_KEY: Final = 253

Manifest = Mapping[str, object]
Mounts = Mapping[Reference, Sequence[Mount]]
"""The agents that have a ConfigMap mounted."""


@dataclass(frozen=True, slots=True)
class Found:
    """A config, where its text stands (None: it is the file), and what it is in: `ConfigMap gpu/sharing, t4.yaml`.
    `owner` is the ConfigMap, and the key in it.
    """

    loaded: Loaded
    place: Place | None = None
    name: str = ""
    owner: tuple[Reference, str] | None = None


@dataclass(frozen=True, slots=True)
class _Layer:
    """A document: of the file, or of a text in one. `lines` are what it was read from, `outer` is where those stand,
    and `name` what it is called.
    """

    tree: Tree
    lines: Sequence[str]
    outer: Place | None = None
    name: str = ""
    depth: int = 0

    def within(self, name: str) -> str:
        return ": ".join(part for part in (self.name, name) if part)

    def at(self, path: Path) -> str:
        return f"{self.name}, {dotted(path)}" if self.name else dotted(path)


class Search:
    """What is found in the documents of a file."""

    def __init__(self, file: str, mounts: Mounts) -> None:
        self.found: list[Found] = []
        self.violations: list[Violation] = []
        self.notes: list[str] = []
        self._file = file
        self._mounts = mounts
        self._lines: list[str] = []
        self._left, self._looks = _MOST, _MOST_LOOKS

    def look(self, tree: Tree, data: bytes) -> None:
        """Look into one document of the file, which is `data`."""
        self._left, self._looks = _MOST, _MOST_LOOKS
        if meant.is_meant(tree.value):
            self.found.append(Found(load_tree(Document(self._file, data), tree)))
        else:
            self._lines = self._lines or data.decode().split("\n")
            self._look_into(_Layer(tree, self._lines))

    def _look_into(self, layer: _Layer) -> None:
        if layer.depth and isinstance(layer.tree.value, list):
            self._values(layer, (), layer.tree.value)
        for path, manifest in objects(layer.tree):
            kind = manifest.get("kind")
            if is_config_map(manifest):
                self._config_map(layer, path, manifest)
            elif layer.depth or kind is None or (isinstance(kind, str) and kind in RENDERED_BY):
                name = layer.within(called(manifest)) if kind is not None else layer.name
                self._values(replace(layer, name=name), path, manifest)
            else:
                self._values(replace(layer, name=layer.within(called(manifest))), path, manifest, texts=False)

    def _values(self, layer: _Layer, root: Path, value: object, *, texts: bool = True) -> None:
        """Look into the values of a document that is not a config itself. Objects in it are what they say they are; of
        `texts` that is certain only where others make manifests of them.
        """
        for path, one in _nodes(root, value):
            if isinstance(one, str):
                if texts:
                    self._text(layer, path, one)
            elif not texts and not _whole(one):
                continue
            elif path != root and isinstance(one, dict) and is_config_map(one):
                self._config_map(layer, path, one)
            elif path != root and meant.is_meant(one) and self._may(layer.tree, layer.outer, path, _AS_MANY):
                self._value(layer, path, one, layer.at(path))

    def _value(self, layer: _Layer, path: Path, value: object, name: str) -> None:
        """A config that is no text, but part of the document. What bytes it will be is not known."""
        tree = layer.tree
        size = len(path)
        inner = Tree(
            value,
            tree.file,
            tuple(_moved(one, path) for one in tree.problems if _below(one, path)),
            values={key[size:]: mark for key, mark in tree.values.items() if key[:size] == path},
            keys={key[size:]: mark for key, mark in tree.keys.items() if key[:size] == path and len(key) > size},
        )
        loaded = load_tree(Document(f"{self._file} ({name})", b""), inner)
        loaded = replace(loaded, violations=tuple(_outside(layer.outer, one) for one in loaded.violations))
        self.found.append(Found(loaded, None, name))

    def _text(self, layer: _Layer, path: Path, text: str) -> None:
        """Look into a text: whether it is a config, or a document with one in it. Kustomize writes `key=text`."""
        if layer.depth >= _DEEPEST or not meant.may_hold(text):
            return
        self._looks -= 1
        if self._looks < 0:
            if self._looks == -1:
                name = layer.within(dotted(path))
                self.notes.append(f"{name}: only {_MOST_LOOKS:,} texts before this one were looked into")
            return
        key, separator, rest = text.partition("=")
        literal = bool(separator) and len(key) <= _LONGEST_KEY and not set(key) & set(" \n:")
        inner, skipped = (rest, len(key) + 1) if literal else (text, 0)
        place = Place(layer.tree, path, inner, layer.lines, skipped, layer.outer)
        name = f"{layer.at(path)}, {brief(key)}" if literal else layer.at(path)
        try:
            trees = read_all(inner.encode(), layer.tree.file)
        except Rejected:
            if meant.says_it_is(inner):
                self._judge(place, inner.encode(), name)
            return
        if len(trees) == 1 and meant.is_meant(trees[0].value):
            self._judge(place, inner.encode(), name)
            return
        lines = inner.split("\n")
        for tree in trees:
            self._look_into(_Layer(tree, lines, place, name, layer.depth + 1))

    def _judge(self, place: Place, data: bytes, name: str) -> None:
        if self._may(place.tree, place.outer, place.path):
            self.found.append(Found(load(Document(f"{self._file} ({name})", data)), place, name))

    def _may(self, tree: Tree, outer: Place | None, path: Path, cost: int = 1) -> bool:
        """Whether one more config of this document is judged. It is an error, once, that the others are not."""
        if self._left >= cost:
            self._left -= cost
            return True
        if self._left >= 0:
            self._left = -1
            message = (
                f"expected at most {_MOST:,} configs in a document, got more; give the others documents of their own"
            )
            wrong = Violation(tree.file, tree.where(path), message, Stage.READ)
            self.violations.append(_outside(outer, wrong))
        return False

    def _config_map(self, layer: _Layer, path: Path, manifest: Manifest) -> None:
        tree, name = layer.tree, layer.within(called(manifest))
        contents = configmap.look_into(manifest, path, name, self._mounts.get(reference(manifest), ()))
        if contents is None:
            self._values(replace(layer, name=name), path, {field: manifest.get(field) for field in configmap.FIELDS})
            return
        inside = tuple(dotted((*path, field)) for field in configmap.FIELDS)
        wrong = [one for one in tree.problems if one.where.path.startswith(inside)]
        wrong += [
            Violation(tree.file, tree.where(fault.path, key=fault.at_key), fault.message, Stage.SCHEMA)
            for fault in contents.faults
        ]
        self.violations += [_outside(layer.outer, one) for one in bounded(tuple(wrong))]
        self.notes += contents.notes
        for one in contents.judged:
            if not self._may(tree, layer.outer, one.path):
                break
            told = one.data.decode("utf-8", "replace")
            place = Place(tree, one.path, told, layer.lines, outer=layer.outer)
            document = Document(f"{self._file} ({name}, {brief(one.key)})", one.data, contents.revision)
            owner = (reference(manifest), one.key)
            self.found.append(Found(load(document), place, f"{name}, {brief(one.key)}", owner))


def objects(tree: Tree) -> Iterator[tuple[Path, Manifest]]:
    """The objects of a document: itself, or the items of a List, which of a list of one kind need not say it."""
    value = tree.value
    if not isinstance(value, dict):
        return
    items, kind = value.get("items"), value.get("kind")
    if not (isinstance(items, list) and isinstance(kind, str) and kind.endswith("List")):
        yield (), value
        return
    for position, item in enumerate(items):
        if isinstance(item, dict):
            alike = kind.removesuffix("List")
            yield ("items", position), item if "kind" in item or not alike else {"kind": alike, **item}


def is_config_map(value: object) -> bool:
    """Whether it is a ConfigMap or a Secret, or a patch of one for agents."""
    if not isinstance(value, dict):
        return False
    kind = value.get("kind")
    if kind is None:
        # A patch, or one whose author forgot it.
        data = value.get("data")
        return isinstance(data, dict) and "sharing.yaml" in data
    return isinstance(kind, str) and kind.lower() in {known.lower() for known in configmap.KINDS}


def _nodes(path: Path, value: object) -> Iterator[tuple[Path, object]]:
    """Every value below one, except what is in a config or a ConfigMap."""
    yield path, value
    if isinstance(value, dict):
        if path and (is_config_map(value) or meant.is_meant(value)):
            return
        for key, one in value.items():
            yield from _nodes((*path, key), one)
    elif isinstance(value, list):
        for position, one in enumerate(value):
            yield from _nodes((*path, position), one)


def _whole(value: object) -> bool:
    """Whether an object within another one is what will be in the cluster, not a part or the name of it."""
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return False
    return isinstance(value.get("metadata"), dict) and isinstance(value.get("apiVersion"), str)


def _outside(outer: Place | None, violation: Violation) -> Violation:
    """A violation in a text that stands at `outer`, as one in the file."""
    return violation if outer is None else outer.outside(violation)


def _below(violation: Violation, path: Path) -> bool:
    return violation.where.path.startswith(dotted(path))


def _moved(violation: Violation, path: Path) -> Violation:
    """A violation with its path from what is at `path`."""
    inner = violation.where.path.removeprefix(dotted(path)).removeprefix(".")
    return replace(violation, where=replace(violation.where, path=inner))
