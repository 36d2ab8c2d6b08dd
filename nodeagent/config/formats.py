"""Which format a document is meant to be in, also when it is mistyped, so that it is judged as what was meant."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from itertools import islice
from typing import Final

from nodeagent.config.v1alpha1 import API_VERSION, KIND
from nodeagent.documents.faults import nearest, one_of, show
from nodeagent.documents.lookalikes import Odd
from nodeagent.documents.tree import Tree
from nodeagent.model.config import Stage, Violation, Where

_OURS: Final = ("apiVersion", "kind", "metadata", "spec")
_NVIDIAS: Final = ("version", "flags", "sharing")
MOST_KEYS: Final = 100
"""Of a document with more, the others are not looked at for mistyped ones: it is hardly for us."""
_NVIDIAS_BESIDE: Final = ("imex",)
"""Seldom alone, and only as it is written: what is like it may be anything."""


class Format(Enum):
    """A format that the agent reads."""

    V1ALPHA1 = "nodeagent.io/v1alpha1"
    NVIDIA_V1 = "NVIDIA's v1"


def format_of(value: object) -> Format | None:
    """The format that a document is meant to be in; None where it is not meant for the agent."""
    if not isinstance(value, dict):
        return None
    kind = value.get("kind")
    if isinstance(kind, str) and nearest(kind, [KIND]) is None:
        return None
    if _is_nvidias(value):
        return Format.NVIDIA_V1
    meant = {nearest(key, (*_OURS, *_NVIDIAS)) for key in islice(value, MOST_KEYS)}
    if _any_of(_OURS, value) or meant & set(_OURS):
        return Format.V1ALPHA1
    return Format.NVIDIA_V1 if meant & set(_NVIDIAS) else None


def not_for_us(tree: Tree) -> Violation:
    """Says once that a document is something else, instead of calling every key of it unknown."""
    expected = f'a sharing config ("apiVersion: {API_VERSION}") or NVIDIA\'s file ("version: v1")'
    value = tree.value
    if odd := _odd(tree):
        return Violation(tree.file, Where("", odd.line, odd.column), odd.message, Stage.SCHEMA)
    if isinstance(value, dict) and isinstance(value.get("kind"), str):
        hint = "; the agent reads the file inside it" if value["kind"] == "ConfigMap" else ""
        return _violation(tree, ("kind",), f"expected {expected}, got the kind {show(value['kind'])}{hint}")
    if isinstance(value, dict) and value:
        return _violation(tree, (), f"expected {expected}, got an object with {_some(value)}")
    return _violation(tree, (), f"expected {expected}, got {show(value)}")


def _is_nvidias(value: Mapping[str, object]) -> bool:
    """Whether it has keys of NVIDIA's file, and none by which people make a sharing config out of it."""
    if "kind" in value or "nodeagent" in str(value.get("apiVersion")):
        return False
    spec = value.get("spec")
    if "spec" in value and not (isinstance(spec, dict) and _any_of(_NVIDIAS, spec)):
        return False
    return _any_of((*_NVIDIAS, *_NVIDIAS_BESIDE), value) and ("metadata" not in value or "sharing" in value)


def _any_of(keys: tuple[str, ...], value: Mapping[str, object]) -> bool:
    return any(key in value for key in keys)


def _some(value: Mapping[str, object]) -> str:
    names = [show(key) for key in islice(value, 3)]
    return one_of(names if len(value) <= 3 else [*names, "others"], "and")


def _odd(tree: Tree) -> Odd | None:
    """What may have made another document of one that is meant for the agent."""
    value = tree.value
    if not isinstance(value, dict):
        return tree.odd_values.get(())
    return next((tree.odd_keys[key,] for key in islice(value, MOST_KEYS) if (key,) in tree.odd_keys), None)


def _violation(tree: Tree, path: tuple[str, ...], message: str) -> Violation:
    return Violation(tree.file, tree.where(path), message, Stage.SCHEMA)
