"""Which files of a directory `validate` looks at, and which of them an agent could come to read."""

from __future__ import annotations

import base64
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nodeagent.config.configmap import look_into
from nodeagent.config.mounted import USUAL
from nodeagent.config.selection import FILE_NAME, REVISION_NAME, readable
from nodeagent.config.workloads import items
from nodeagent.documents.strict import LARGEST, Rejected, read_all

SUFFIXES: Final = frozenset({".yaml", ".yml"})

_OTHERS: Final = frozenset({"kustomization.yaml", "kustomization.yml", "values.yaml", "Chart.yaml", "Chart.lock"})
"""Files that stand beside configs and are read by others."""

_KUSTOMIZATIONS: Final = frozenset({"kustomization.yaml", "kustomization.yml", "Kustomization"})

_MOUNTED: Final = "..data"
"""Through this link the kubelet mounts a ConfigMap."""


@dataclass(frozen=True, slots=True)
class Folder:
    """What is in a directory and below it: files to look at, those of them that agents are to `read`, and those that
    are `passed` over unless they say otherwise, since they are keys that no agent reads; files without an ending that
    are `empty`; what cannot be opened, and what is skipped and why.
    """

    files: tuple[Path, ...]
    read: frozenset[Path]
    passed: frozenset[Path]
    empty: tuple[Path, ...]
    closed: tuple[tuple[str, str], ...]
    skipped: tuple[tuple[str, str], ...]


def look(directory: Path) -> Folder:
    """Hidden files are left out, since a mounted ConfigMap has each of its files there once more. Of such a mount every
    file is looked at, since every key may be read; elsewhere those that are YAML by their names.
    """
    read: set[Path] = set()
    passed: set[Path] = set()
    empty: list[Path] = []
    closed: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    files: list[Path] = []

    def cannot(error: OSError) -> None:
        closed.append((str(error.filename), unreadable(Path(error.filename), error)))

    for folder, folders, names in os.walk(directory, onerror=cannot):
        mounted = _MOUNTED in folders
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [path for path in (Path(folder, name) for name in folders) if path.is_symlink()]
        skipped += [(str(path), "a link to a directory, which is not followed") for path in links]
        paths = [Path(folder, name) for name in sorted(names) if not name.startswith(".")]
        if mounted and (keys := _keys({path.name: path for path in paths})) is not None:
            read |= keys
            passed |= set(paths) - keys
        for path in paths:
            if path.name in _KUSTOMIZATIONS:
                read |= _generated(path)
            if path.name == FILE_NAME or (mounted and path.suffix == Path(FILE_NAME).suffix and readable(path.name)):
                read.add(path)
            if mounted or path.suffix in SUFFIXES:
                if path.name == FILE_NAME and path.exists() and not path.is_file():
                    closed.append((str(path), f"cannot read {path}: not a regular file"))
                else:
                    _sort(path, files, skipped, mounted=mounted)
            elif path.stem.lower() == Path(FILE_NAME).stem:
                skipped.append((str(path), f"agents read {FILE_NAME}, and only *.yaml and *.yml are looked at"))
            elif not path.suffix and readable(path.name) and path.is_file() and is_vacant(_text(path)):
                empty.append(path)
    there = dict.fromkeys(sorted([*files, *(path for path in read if path.is_file())]))
    return Folder(
        tuple(there),
        frozenset(read),
        frozenset(passed - read),
        tuple(path for path in empty if path not in read),
        tuple(closed),
        tuple(skipped),
    )


def _text(path: Path) -> bytes | None:
    """What is in a file; None where it cannot be read, or is too long to be a config."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except OSError:
        return None
    return data if len(data) <= LARGEST else None


def is_vacant(data: bytes | None) -> bool:
    """Whether there is nothing in a file but white space and comments."""
    return data is not None and all(
        not (line := raw.strip()) or line.startswith(b"#") or line == b"---" for raw in data.splitlines()
    )


def _keys(files: Mapping[str, Path]) -> set[Path] | None:
    """Those of the files of a ConfigMap, by their keys, that agents could read; None where it is not for agents."""
    data = {key: base64.b64encode(text).decode() for key, path in files.items() if (text := _text(path)) is not None}
    contents = look_into({"kind": "ConfigMap", "binaryData": data}, (), "", ())
    return None if contents is None else {files[one.key] for one in contents.judged}


def _generated(kustomization: Path) -> set[Path]:
    """The files of which a kustomization makes a ConfigMap for agents."""
    try:
        trees = read_all(kustomization.read_bytes(), str(kustomization))
    except (OSError, Rejected):
        return set()
    found: set[Path] = set()
    for tree in trees:
        for generator in items(tree.value, "configMapGenerator"):
            listed = generator.get("files")
            pairs = [str(one).partition("=") for one in listed] if isinstance(listed, list) else []
            files = {(key if equals else Path(key).name): path if equals else key for key, equals, path in pairs}
            there = {
                key: Path(os.path.normpath(kustomization.parent / path))
                for key, path in files.items()
                if (kustomization.parent / path).is_file()
            }
            found |= _keys(there) or set()
            found |= {path for key, path in there.items() if key in USUAL and is_vacant(_text(path))}
    return found


def _sort(path: Path, files: list[Path], skipped: list[tuple[str, str]], *, mounted: bool) -> None:
    if mounted and path.name == REVISION_NAME:
        return
    if path.is_file() or (path.is_symlink() and not path.exists()):
        files.append(path)
    else:
        skipped.append((str(path), "not a regular file"))


def may_be_read(path: Path, beside: Collection[Path]) -> bool:
    """Whether an agent could come to read an empty file: it stands `beside` configs, and its name is no other's."""
    return path.parent in beside and readable(path.name) and path.name not in _OTHERS


def is_misspelt(path: Path) -> bool:
    """Whether a file has nearly the name that agents read."""
    same = path.stem.lower() == Path(FILE_NAME).stem and path.suffix.lower() in SUFFIXES
    return same and path.name != FILE_NAME


def unreadable(path: Path, error: OSError) -> str:
    """Why a file or a directory cannot be read."""
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"cannot read {path}: a link to {path.readlink()}, which leads nowhere from here"
    return f"cannot read {path}: {(error.strerror or str(error)).lower()}"
