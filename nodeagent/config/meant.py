"""Whether something among others is meant for the agent: documents of a stream, keys of a ConfigMap, values of a chart.

Stricter than where a file can be nothing else, since other software has configs too.
"""

from __future__ import annotations

import re
from typing import Final

from nodeagent.config.formats import MOST_KEYS, format_of
from nodeagent.config.v1alpha1 import API_VERSION, KIND
from nodeagent.documents.faults import nearest
from nodeagent.documents.strict import Rejected, Tree, examine

_GROUP: Final = API_VERSION.partition("/")[0] + "/"
_NVIDIAS: Final = ("flags", "sharing", "version", "resources", "imex")
_MODES: Final = ("timeSlicing", "mps")
_SAYS: Final = re.compile(
    rf"^\s*[\"']?(?:kind[\"']?:\s*[\"']?{KIND}\b|apiVersion[\"']?:\s*[\"']?{re.escape(_GROUP)})", re.MULTILINE
)
_MAY_SAY: Final = re.compile(
    rf"{KIND}|{re.escape(_GROUP)}|\bversion[\"']?:\s*[\"']?v1\b|\bsharing[\"']?:", re.IGNORECASE
)


def is_meant(value: object) -> bool:
    """Whether a document among others is a sharing config or NVIDIA's file, also a mistyped one."""
    if not isinstance(value, dict):
        return False
    kind, version = value.get("kind"), value.get("apiVersion")
    if isinstance(kind, str):
        return nearest(kind, [KIND]) is not None
    if isinstance(version, str):
        return version.startswith(_GROUP)
    if "apiVersion" in value or "kind" in value:
        return False
    sharing = value.get("sharing")
    if isinstance(sharing, dict) and any(nearest(str(key), _MODES) for key in sharing):
        return True
    if value.get("version") != "v1" or len(value) > MOST_KEYS:
        return False
    speaks = any(nearest(str(key), _NVIDIAS[:2]) for key in value)
    return speaks and all(nearest(str(key), _NVIDIAS) for key in value)


def says_it_is(text: str) -> bool:
    """Whether a text that is no YAML says of itself that it was to be a sharing config."""
    return _SAYS.search(text) is not None


def may_hold(text: str) -> bool:
    """Whether it is worth while to look for a config in a text."""
    return _MAY_SAY.search(text) is not None


def examined(text: bytes, file: str) -> Tree | None:
    """The one document in a text; None where it is no YAML."""
    try:
        return examine(text, file)
    except Rejected:
        return None


def nearly(tree: Tree) -> bool:
    """Whether a document beside configs is one as well, however mistyped."""
    return format_of(tree.value) is not None


def likely(tree: Tree) -> bool:
    """Whether a file that nobody has named is one: others have files with a `version` too, or patches with a `spec`."""
    value = tree.value
    if is_meant(value):
        return True
    if not isinstance(value, dict) or not nearly(tree) or foreign(value):
        return False
    if "apiVersion" in value or "kind" in value:
        return True
    spec = value.get("spec")
    if isinstance(spec, dict):
        return any(nearest(str(key), ["rules"]) for key in spec)
    return value.get("version") == "v1" or any(key in value for key in _NVIDIAS[:2])


def foreign(value: object) -> bool:
    """Whether a document says that it is of another API."""
    version = value.get("apiVersion") if isinstance(value, dict) else None
    return isinstance(version, str) and nearest(version, [API_VERSION]) is None
