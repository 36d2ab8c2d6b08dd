"""Which ConfigMaps and Secrets agents among rendered manifests have as their config, and which key each of them reads.

Pure: manifests may hold anything. What is only known in the cluster counts as not known, and nothing is said of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, Final

from nodeagent.config.selection import file_names, only_one
from nodeagent.config.workloads import AGENT, Process, identity, items, table
from nodeagent.model.node import Selection

USUAL: Final = file_names(Selection())
"""The files of which an agent reads the first where nothing says otherwise."""

_MOST: Final = 100
"""So many mounts of a container, and sources of a volume, are looked at."""

_NAMES: Final = (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), ("secret", "Secret", "name"))
_KINDS: Final = {"configmap": "ConfigMap", "secret": "Secret"}

Reference = tuple[str, str, str]
"""Kind, namespace and name of a ConfigMap or a Secret."""

_Files = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Mount:
    """How an agent has a ConfigMap: the files that it looks for on a node that no label says anything of, and whether
    labels may choose another one. `files`: the files that are there, each with its key; None: each key is one.

    `whole`: it has a directory, so that an only file is read, whatever it is called. `alone`: nothing else is in there.
    `frozen`: by `subPath`, so that it never sees a change. `sure`: what it reads can be known before it runs.
    """

    agent: str = ""
    names: tuple[str, ...] = USUAL
    by_label: bool = False
    whole: bool = True
    frozen: bool = False
    files: _Files | None = None
    alone: bool = True
    sure: bool = True

    def reads(self, keys: frozenset[str]) -> str | None:
        """Which of these keys it reads where no label says anything; None: none, or it is not known which."""
        if not (self.sure and self.names):
            return None
        if self.files is None:
            found = next((name for name in self.names if name in keys), None)
            return _only(keys) if found is None and self.whole and self.alone else found
        there = {file: key for file, key in self.files if key in keys}
        file = next((name for name in self.names if name in there), None)
        file = only_one(there) if file is None and self.whole and self.alone else file
        return None if file is None else there[file]

    def wanted(self) -> str:
        """The key that it reads first; empty where that is another's, or not known."""
        if not (self.sure and self.alone and self.names):
            return ""
        return dict(self.files or ()).get(self.names[0], self.names[0])


@lru_cache(maxsize=8)
def _only(keys: frozenset[str]) -> str | None:
    """Asked once for each agent that has them."""
    return only_one(keys)


def reference(manifest: Mapping[str, object]) -> Reference:
    """What a ConfigMap or a Secret is mounted by."""
    kind = manifest.get("kind")
    known = _KINDS.get(kind.lower(), kind) if isinstance(kind, str) else "ConfigMap"
    return known, *identity(manifest)


def mounted(processes: Iterable[Process]) -> dict[Reference, list[Mount]]:
    """The agents among these that have it as their config, by what they have."""
    found: dict[Reference, list[Mount]] = {}
    for process in processes:
        if process.command == AGENT:
            for (kind, name), mount in _mounts(process):
                found.setdefault((kind, process.namespace, name), []).append(mount)
    return found


@dataclass(frozen=True, slots=True)
class _Source:
    """A ConfigMap or a Secret at a place: its files there, each with its key, or None where each key is a file."""

    kind: str
    name: str
    files: _Files | None
    frozen: bool = False


def _mounts(agent: Process) -> Iterator[tuple[tuple[str, str], Mount]]:
    """What an agent has its config from, and how: mostly one, more where a directory is made of several."""
    config = PurePosixPath(agent.option("--config"))
    if not config.is_absolute():
        return
    whole, sources = _at(agent, config)
    default, speaks, label = (agent.told(flag) for flag in ("--config-default", "--kube-api", "--config-label"))
    by_label = whole and speaks == "on" and label is not None and label != "off"
    sure = not whole or (default is not None and speaks is not None and (label is not None or speaks != "on"))
    names = file_names(Selection(), default or None) if whole else (config.name,)
    for one in sources:
        alone = len(sources) == 1
        mount = Mount(agent.name, names, by_label, whole, one.frozen, one.files, alone, sure)
        yield (one.kind, one.name), mount


def _at(agent: Process, config: PurePosixPath) -> tuple[bool, list[_Source]]:
    """What is at the path of the config, and whether that is a directory."""
    mounts = [one for one in items(agent.container, "volumeMounts")[:_MOST] if "subPathExpr" not in one]
    volumes = {str(one.get("name")): one for one in reversed(items(agent.pod, "volumes"))}
    above = [one for one in mounts if config.is_relative_to(str(one.get("mountPath")))]
    base = max(above, key=lambda one: len(str(one.get("mountPath"))), default={})
    inside = config.relative_to(str(base.get("mountPath"))) if base else PurePosixPath()
    sub_path = str(base.get("subPath") or "")
    place = PurePosixPath(sub_path) / inside
    volume = _sources(volumes.get(str(base.get("name")), {})) if base else []
    sources: list[_Source] = []
    if place.parts and not any(_below(one.files or (), place) for one in volume):
        for one in volume:
            if one.files is None:
                sources.append(_Source(one.kind, one.name, ((config.name, str(place)),), bool(sub_path)))
            elif key := dict(one.files).get(str(place)):
                sources.append(_Source(one.kind, one.name, ((config.name, key),), bool(sub_path)))
        return False, sources
    for one in volume:
        files = one.files if one.files is None else _below(one.files, place)
        sources.append(_Source(one.kind, one.name, files, bool(sub_path)))
    sources += _single(mounts, volumes, config)
    return True, sources


def _single(
    mounts: Sequence[Mapping[str, Any]], volumes: Mapping[str, Mapping[str, Any]], config: PurePosixPath
) -> Iterator[_Source]:
    """Keys that are mounted one by one into the directory of the config."""
    files: dict[tuple[str, str], dict[str, str]] = {}
    for one in mounts:
        path, sub_path = PurePosixPath(str(one.get("mountPath"))), str(one.get("subPath") or "")
        if path.parent != config or not sub_path:
            continue
        for source in _sources(volumes.get(str(one.get("name")), {})):
            key = sub_path if source.files is None else dict(source.files).get(sub_path)
            if key is not None:
                files.setdefault((source.kind, source.name), {})[path.name] = key
    for (kind, name), found in files.items():
        yield _Source(kind, name, tuple(found.items()), frozen=True)


def _below(files: _Files, place: PurePosixPath) -> _Files:
    """The files right in a directory of a volume."""
    return tuple((PurePosixPath(file).name, key) for file, key in files if PurePosixPath(file).parent == place)


def _sources(volume: Mapping[str, Any]) -> list[_Source]:
    """The ConfigMaps and Secrets of a volume."""
    found: list[_Source] = []
    for one in (volume, *items(volume, "projected", "sources")[:_MOST]):
        for field, kind, named in _NAMES:
            if isinstance(called := table(one, field).get(named), str):
                listed = [(str(item.get("path")), str(item.get("key"))) for item in items(one, field, "items")]
                found.append(_Source(kind, called, tuple(listed) or None))
    return found
