"""What `validate` finds in one file: sharing configs, bare or in ConfigMaps, simulation files, or nothing for us."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from nodeagent.config.bundle import load_bundle
from nodeagent.config.formats import format_of
from nodeagent.devices import simulation_file
from nodeagent.documents.faults import nearest
from nodeagent.documents.strict import Rejected, Tree, read_all
from nodeagent.model.config import Loaded, Stage, Violation, Where

STDIN: Final = "-"
STDIN_NAME: Final = "stdin"

_SIMULATED: Final = "SimulatedNode"
_SUFFIXES: Final = frozenset({".yaml", ".yml"})
_NODE: Final = "node"
"""The uuids of a simulated node depend on its name, whether it is valid does not."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file, or one place where files were looked for.

    `problem` tells why it could not be read, `skipped` why it was passed over; it is valid if it has neither, nor
    violations.
    """

    file: str
    configs: tuple[Loaded, ...] = ()
    simulated_gpus: int | None = None
    violations: tuple[Violation, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str | None = None
    problem: str | None = None

    @property
    def valid(self) -> bool:
        return self.problem is None and self.skipped is None and not self.violations


def check_paths(paths: Sequence[str], stdin: bytes | None) -> Iterator[Checked]:
    """Every file that the paths name, those in directories recursively; `stdin` is what `-` stands for."""
    for path in paths:
        if path == STDIN:
            yield check_bytes(stdin or b"", STDIN_NAME)
        elif Path(path).is_dir():
            yield from _check_directory(Path(path))
        else:
            yield _check_file(Path(path))


def check_bytes(data: bytes, file: str, *, named: bool = True) -> Checked:
    """What `data` holds. A file that was not named itself, but found in a directory, may hold nothing for us."""
    try:
        trees = read_all(data, file)
    except Rejected as rejected:
        return Checked(file, violations=rejected.violations)
    if any(_is_simulation(tree) for tree in trees):
        return _check_simulation(data, file)
    if not named and (passed_over := _not_for_us(trees)) is not None:
        return Checked(file, skipped=passed_over)
    bundle = load_bundle(data, file)
    if not bundle.configs and not named:
        return Checked(file, skipped=f"no sharing config in {_kinds(trees)}")
    notes = tuple(note for loaded in bundle.configs if loaded.config is not None for note in loaded.config.notes)
    return Checked(file, bundle.configs, violations=(*bundle.all_violations, *_not_alone(trees)), notes=notes)


def with_violations(checked: Checked, violations: Sequence[Violation], notes: Sequence[str]) -> Checked:
    """The same file with what a look at its GPUs has found besides."""
    return replace(
        checked, violations=(*checked.violations, *violations), notes=tuple(dict.fromkeys((*checked.notes, *notes)))
    )


def _check_directory(directory: Path) -> Iterator[Checked]:
    checked_any = False
    files, closed = _files_in(directory)
    yield from closed
    for path in files:
        checked = _check_file(path, named=False)
        checked_any |= checked.skipped is None
        yield checked
    if not checked_any and not closed:
        message = "expected a sharing config in this directory, got no file with one"
        yield Checked(str(directory), violations=(Violation(str(directory), Where(), message, Stage.READ),))


def _files_in(directory: Path) -> tuple[list[Path], list[Checked]]:
    """YAML files, and directories that cannot be looked into.

    Hidden ones are left out, since a mounted ConfigMap has each of its files there once more.
    """
    closed: list[Checked] = []
    files: list[Path] = []
    for folder, folders, names in os.walk(directory, onerror=lambda error: closed.append(_unreadable(error))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = (Path(folder, name) for name in names if not name.startswith("."))
        files.extend(path for path in paths if path.suffix in _SUFFIXES and path.is_file())
    return sorted(files), closed


def _unreadable(error: OSError) -> Checked:
    file = str(error.filename)
    return Checked(file, problem=f"cannot read {file}: {(error.strerror or str(error)).lower()}")


def _check_file(path: Path, *, named: bool = True) -> Checked:
    try:
        data = path.read_bytes()
    except OSError as error:
        error.filename = path
        return _unreadable(error)
    return check_bytes(data, str(path), named=named)


def _is_simulation(tree: Tree) -> bool:
    kind = tree.value.get("kind") if isinstance(tree.value, dict) else None
    return isinstance(kind, str) and nearest(kind, [_SIMULATED]) is not None


def _check_simulation(data: bytes, file: str) -> Checked:
    try:
        node = simulation_file.parse(data, file, _NODE)
    except Rejected as rejected:
        return Checked(file, violations=rejected.violations)
    return Checked(file, simulated_gpus=sum(gpu.mig is None for gpu in node.gpus))


def _not_for_us(trees: Sequence[Tree]) -> str | None:
    """Why a file holds nothing that could be meant for the agent, None where it may."""
    if not trees:
        return "empty"
    if len(trees) == 1 and _kind(trees[0]) is None and format_of(trees[0].value) is None:
        return "no sharing config"
    return None


def _not_alone(trees: Sequence[Tree]) -> Iterator[Violation]:
    """The agent takes a file with one document: what it would refuse must not pass here."""
    if len(trees) > 1:
        for tree in trees:
            if format_of(tree.value) is not None:
                message = (
                    f"expected a sharing config alone in its file, got {len(trees)} documents, and the agent reads one;"
                    " give it a file of its own, or put it into a ConfigMap"
                )
                yield Violation(tree.file, tree.where(()), message, Stage.PARSE)


def _kinds(trees: Sequence[Tree]) -> str:
    kinds = dict.fromkeys(kind for tree in trees if (kind := _kind(tree)) is not None)
    return ", ".join(kinds) or "it"


def _kind(tree: Tree) -> str | None:
    kind = tree.value.get("kind") if isinstance(tree.value, dict) else None
    return kind if isinstance(kind, str) else None
