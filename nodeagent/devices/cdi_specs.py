"""Which CDI specifications a host has: the kinds, the names of devices, and the device nodes of GPUs that they bring.

Files are chosen as the container runtimes' library does: `.json` and `.yaml`, right in the directory. One that cannot
be read is told and skipped, as there, and so is a device that two files of one directory have: see
https://github.com/cncf-tags/container-device-interface, pkg/cdi/cache.go.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.documents.strict import Rejected, examine

LARGEST: Final = 1 << 20
"""Bytes of one specification. That of eight GPUs has some 30,000."""

MOST: Final = 64
"""Specifications in one directory."""

_SUFFIXES: Final = (".json", ".yaml")

_GPU_NODE: Final = re.compile(r".*/nvidia([0-9]{1,9})", re.ASCII)

Minors = Mapping[str, frozenset[int]]
"""Devices by name, each with the minors of the GPUs whose device nodes it brings, as far as it says so."""
Kinds = Mapping[str, Minors]
_Seen = tuple[int, int, int, int]
_UNSEEN: Final[_Seen] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class _Spec:
    """One file, as it was when it was read: kind and names of devices, or why there are none."""

    seen: _Seen
    kind: str = ""
    devices: Minors = field(default_factory=dict)
    problem: str = ""


@dataclass(slots=True)
class SpecReader:
    """Reads the specifications of some directories, each again only when it has changed. For one thread at a time."""

    directories: tuple[Path, ...]
    _known: dict[Path, _Spec] = field(default_factory=dict)

    def read(self) -> tuple[Kinds, list[str]]:
        """The devices by kind, and what could not be read. A directory that is not there has none."""
        found: dict[Path, _Spec] = {}
        problems: list[str] = []
        for directory in self.directories:
            try:
                names = sorted(name for name in os.listdir(directory) if name.endswith(_SUFFIXES))  # noqa: PTH208
            except FileNotFoundError:
                continue
            except OSError as error:
                problems.append(_cannot(directory, error))
                continue
            if len(names) > MOST:
                problems.append(f"cannot read all of {directory}: expected at most {MOST} files, got {len(names)}")
            for name in names[:MOST]:
                path = directory / name
                spec = self._spec(path)
                if spec is not None:
                    found[path] = spec
        self._known = found
        problems += [spec.problem for spec in found.values() if spec.problem]
        kinds, conflicts = _merged(found)
        return kinds, problems + conflicts

    def _spec(self, path: Path) -> _Spec | None:
        """None where it has gone meanwhile, or is no file."""
        seen = _UNSEEN
        try:
            about = path.stat()
            seen = about.st_dev, about.st_ino, about.st_mtime_ns, about.st_size
            known = self._known.get(path)
            if known is not None and known.seen == seen:
                return known
            if stat.S_ISDIR(about.st_mode):
                return None
            if not stat.S_ISREG(about.st_mode):
                raise ValueError("it is not a file")  # noqa: TRY301 - one of several reasons
            return _Spec(seen, *_parse(path, _bytes(path)))
        except FileNotFoundError:
            return None
        except OSError as error:
            # Not remembered: what mends it may leave the file as it is.
            return _Spec(_UNSEEN, problem=_cannot(path, error))
        except ValueError as error:
            return _Spec(seen, problem=f"cannot read {path}: {error}")


def _bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"expected at most {LARGEST:,} bytes, got more")
    return data


def _parse(path: Path, data: bytes) -> tuple[str, Minors]:
    """Kind and devices. Raises ValueError."""
    tree = _json(data) if path.suffix == ".json" else _yaml(path, data)
    members = tree if isinstance(tree, dict) else {}
    match members.get("cdiVersion"), members.get("kind"), members.get("devices"):
        case str(), str(kind), list(devices):
            named = [device for device in devices if isinstance(device, dict) and isinstance(device.get("name"), str)]
            return kind, {device["name"]: _minors(device) for device in named}
    raise ValueError("expected a CDI specification, with cdiVersion, kind and devices, got something else")


def _minors(device: Mapping[str, object]) -> frozenset[int]:
    edits = device.get("containerEdits")
    nodes = edits.get("deviceNodes") if isinstance(edits, dict) else None
    paths = (
        node.get("hostPath") or node.get("path")
        for node in (nodes if isinstance(nodes, list) else ())
        if isinstance(node, dict)
    )
    found = (_GPU_NODE.fullmatch(path) for path in paths if isinstance(path, str))
    return frozenset(int(one[1]) for one in found if one is not None)


def _json(data: bytes) -> object:
    try:
        tree: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"expected JSON, got something else: {error}") from None
    return tree


def _yaml(path: Path, data: bytes) -> object:
    try:
        return examine(data, path.name).value
    except Rejected as rejected:
        first = rejected.violations[0]
        raise ValueError(f"line {first.where.line}: {first.message}") from None


def _merged(specs: Mapping[Path, _Spec]) -> tuple[Kinds, list[str]]:
    """The devices by kind, without those of which one directory has two, and what is to be said of these."""
    found: dict[str, dict[str, frozenset[int]]] = {}
    places: dict[tuple[Path, str, str], list[Path]] = {}
    for path, spec in specs.items():
        if not spec.problem:
            # A directory has priority over those before it.
            found.setdefault(spec.kind, {}).update(spec.devices)
            for device in spec.devices:
                places.setdefault((path.parent, spec.kind, device), []).append(path)
    twice: dict[tuple[Path, ...], list[str]] = {}
    for (_, kind, device), paths in places.items():
        if len(paths) > 1:
            found[kind].pop(device, None)
            twice.setdefault(tuple(paths), []).append(f"{kind}={device}")
    conflicts = [_conflict(paths, names) for paths, names in twice.items()]
    return found, conflicts


def _conflict(paths: Sequence[Path], names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{' and '.join(map(str, paths))} all have {min(names)}{more}: no container runtime uses any of them"


def _cannot(path: Path, error: OSError) -> str:
    said = refusals.words(error, path)
    return f"cannot read {path}: {said[:1].lower()}{said[1:]}"
