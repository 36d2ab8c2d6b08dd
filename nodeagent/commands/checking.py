"""What `validate` finds in one file: sharing configs, bare or in ConfigMaps, simulation files, or nothing for us."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from nodeagent.commands import folder
from nodeagent.config import meant
from nodeagent.config.bundle import Bundle, bundle_of
from nodeagent.config.formats import format_of
from nodeagent.config.load import bounded, load
from nodeagent.config.search import Found
from nodeagent.config.selection import FILE_NAME
from nodeagent.devices import simulation_file
from nodeagent.documents.faults import nearest
from nodeagent.documents.strict import Rejected, Tree, read_all
from nodeagent.model.config import Document, Loaded, Stage, Violation, Where

STDIN: Final = "-"
STDIN_NAME: Final = "stdin"

_SIMULATED: Final = "SimulatedNode"
_NODE: Final = "node"
"""The uuids of a simulated node depend on its name, whether it is valid does not."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One file, or one place where files were looked for.

    `problem` tells why it could not be read, `skipped` why it was passed over; it is valid if it has neither, nor
    violations.
    """

    file: str
    bundle: Bundle = field(default_factory=Bundle)
    simulated_gpus: int | None = None
    violations: tuple[Violation, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str | None = None
    problem: str | None = None
    vacant: bool = False
    """Nobody has named it, and nothing is in it that could be another one's."""

    @property
    def configs(self) -> tuple[Loaded, ...]:
        return tuple(one.loaded for one in self.bundle.found)

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
        return Checked(file, violations=bounded(rejected.violations))
    if any(_is_simulation(tree) for tree in trees):
        return _check_simulation(data, file)
    if not named and not trees:
        return Checked(file, skipped="empty", vacant=True)
    bundle = bundle_of(trees, data, file, named=named)
    if bundle.nothing and not named:
        return Checked(file, skipped=_nothing_for_us(trees), vacant=not any(_is_something(tree) for tree in trees))
    violations = (*bundle.all_violations, *_not_alone(trees))
    return Checked(file, bundle, violations=violations, notes=tuple(_notes(bundle)))


def _notes(bundle: Bundle) -> Iterator[str]:
    """What its author should know: of each config once, though it may be there for agents and for a Job."""
    yield from bundle.notes
    apart = bundle.apart
    for one in apart:
        if one.loaded.config is not None:
            yield from (said(one, note, several=len(apart) > 1) for note in one.loaded.config.notes)


def said(found: Found, note: str, *, several: bool) -> str:
    """A note on a config, with which it is where a file has `several`."""
    return f"{found.name}: {note}" if several and found.name else note


def with_violations(checked: Checked, violations: Sequence[Violation], notes: Sequence[str]) -> Checked:
    """The same file with what a look at its GPUs has found besides."""
    return replace(
        checked, violations=(*checked.violations, *violations), notes=tuple(dict.fromkeys((*checked.notes, *notes)))
    )


def _check_directory(directory: Path) -> Iterator[Checked]:
    """Every file in a directory that could hold a config. What is passed over could never be read by an agent: a file
    that has the name that agents read, or stands empty beside configs, is not.
    """
    checked: list[tuple[Path, Checked]] = []
    place = folder.look(directory)
    closed = [Checked(file, problem=problem) for file, problem in place.closed]
    skipped = [Checked(file, skipped=why) for file, why in place.skipped]
    for path in place.files:
        one = _check_file(path, named=path in place.read)
        if path in place.passed and not one.bundle.found and one.skipped != "empty":
            one = Checked(str(path), skipped="no sharing config")
        checked.append((path, one))
    beside = {path.parent for path, one in checked if one.bundle.found or one.violations}
    yield from closed
    for path, one in checked:
        yield _emptied(path) if one.vacant and folder.may_be_read(path, beside) else one
    yield from skipped
    for path in place.empty:
        if path.parent in beside:
            yield Checked(
                str(path), skipped=f"empty; as a key of a ConfigMap, a label of a node could choose {path.name}"
            )
    if all(one.skipped is not None for _, one in checked) and not closed:
        message = "expected a sharing config in this directory, got no file with one"
        yield Checked(str(directory), violations=(Violation(str(directory), Where(), message, Stage.READ),))


def _emptied(path: Path) -> Checked:
    """A file without a config where agents could read one."""
    loaded = load(Document(str(path), path.read_bytes()))
    hint = "; it stands beside configs, where a label of a node could choose it: remove it, or write a config"
    violations = tuple(replace(one, message=f"{one.message}{hint}") for one in loaded.violations)
    return Checked(str(path), violations=violations)


def _check_file(path: Path, *, named: bool = True) -> Checked:
    try:
        data = path.read_bytes()
    except OSError as error:
        return Checked(str(path), problem=folder.unreadable(path, error))
    checked = check_bytes(data, str(path), named=named)
    if checked.bundle.found and folder.is_misspelt(path):
        note = f"agents read {FILE_NAME}: in a ConfigMap of this file the key has to be that ({FILE_NAME}={path.name})"
        return replace(checked, notes=(*checked.notes, note))
    return checked


def _is_something(tree: Tree) -> bool:
    """Whether a document could be of others: objects, or a list of them, such as patches."""
    value = tree.value
    if isinstance(value, list):
        return any(isinstance(one, dict | list) for one in value)
    return isinstance(value, dict) and bool(value)


def _is_simulation(tree: Tree) -> bool:
    kind = tree.value.get("kind") if isinstance(tree.value, dict) else None
    return isinstance(kind, str) and nearest(kind, [_SIMULATED]) is not None


def _check_simulation(data: bytes, file: str) -> Checked:
    try:
        node = simulation_file.parse(data, file, _NODE)
    except Rejected as rejected:
        return Checked(file, violations=rejected.violations)
    return Checked(file, simulated_gpus=sum(gpu.mig is None for gpu in node.gpus))


def _nothing_for_us(trees: Sequence[Tree]) -> str:
    """Why a file holds nothing that could be meant for the agent."""
    kinds = dict.fromkeys(kind for tree in trees if (kind := _kind(tree)) is not None)
    return f"no sharing config in {', '.join(kinds)}" if kinds else "no sharing config"


def _not_alone(trees: Sequence[Tree]) -> Iterator[Violation]:
    """The agent takes a file with one document: what it would refuse must not pass here. It is one mistake, however
    many documents there are.
    """
    ours = [tree for tree in trees if format_of(tree.value) is not None and not meant.foreign(tree.value)]
    if len(trees) > 1 and ours:
        message = (
            f"expected a sharing config alone in its file, got {len(trees)} documents, and the agent reads one;"
            " give it a file of its own, or put it into a ConfigMap"
        )
        tree = ours[1] if ours[0] is trees[0] and len(ours) > 1 else ours[0]
        yield Violation(tree.file, tree.where(()), message, Stage.PARSE)


def _kind(tree: Tree) -> str | None:
    kind = tree.value.get("kind") if isinstance(tree.value, dict) else None
    return kind if isinstance(kind, str) else None
