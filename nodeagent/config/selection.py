"""Which document of a directory is a node's, by a label of its Node object.

Pure: what the labels select, which file that is, and how to say that it is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from nodeagent.documents.faults import nearest
from nodeagent.model.node import Selection, SelectionNote

FILE_NAME: Final = "sharing.yaml"
"""The document of a directory where no label selects another one."""

REVISION_NAME: Final = "revision"
"""What a pipeline notes beside the documents. No document is called so."""

_SUFFIX: Final = ".yaml"
_NVIDIAS_DEFAULT: Final = "default"
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", re.ASCII)
_VALUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_NAMED: Final = 10
_COMPARED: Final = 200
_LONGEST: Final = 80


def readable(key: str) -> bool:
    """Whether an agent could read the file of this name, a key of a ConfigMap: `sharing.yaml`, `<label value>.yaml`, or
    `<label value>` alone, as NVIDIA's config-manager has it (plugin 0.20, cmd/config-manager).
    """
    if key in {FILE_NAME, REVISION_NAME}:
        return key == FILE_NAME
    return any(_LABEL.fullmatch(name) for name in (key, key.removesuffix(_SUFFIX)))


def select(labels: Mapping[str, str], keys: Sequence[str]) -> Selection:
    """What the first of `keys` selects that is on the Node with a value. An empty value is as good as no label."""
    found = next((Selection(key, labels[key]) for key in keys if labels.get(key)), None)
    return found or Selection(note=", ".join(f"{key} {'is empty' if key in labels else 'is not set'}" for key in keys))


def file_name(selection: Selection, default: str | None = None) -> str | None:
    """The file that is selected, by the name that it should have; None for a value that names none, such as one that
    leads out of the directory.
    """
    return next(iter(file_names(selection, default)), None)


def file_names(selection: Selection, default: str | None = None) -> tuple[str, ...]:
    """The names by which the selected file is looked for, in this order. `default` is that of the file for a node that
    no label says anything of, with or without its ending.

    A ConfigMap that was made for NVIDIA's config-manager has keys without one (plugin 0.20, cmd/config-manager); where
    nothing says otherwise its key for all nodes is `default`.
    """
    if selection.value is not None:
        return _named(selection.value)
    if default is not None:
        return (default, f"{default}{_SUFFIX}") if default.endswith(_SUFFIX) else _named(default)
    return (FILE_NAME, *_named(_NVIDIAS_DEFAULT))


def _named(value: str) -> tuple[str, ...]:
    if not _VALUE.fullmatch(value):
        return ()
    return (value + _SUFFIX,) if value == REVISION_NAME else (value + _SUFFIX, value)


def only_one(present: Iterable[str]) -> str | None:
    """The file that every node reads which no label and no option says anything of, since there is no other."""
    known = [name for name in present if readable(name)]
    return known[0] if len(known) == 1 else None


def unusable(
    note: SelectionNote, identity: str, keys: Sequence[str], accepted: str | None, default: str | None = None
) -> str | None:
    """Why what an earlier agent noted down says nothing of the node that this one is on, as a clause; None where it
    does. `identity` and `keys` are those of this agent, `accepted` the path of the document that one with this identity
    accepted last: a note that does not say for whom it was made is believed where that document bears it out.
    """
    chosen = note.selection
    if note.identity is not None and note.identity != identity:
        return f"it was made for {note.identity!r}, and this agent is {identity!r}"
    if note.keys is not None and note.keys != tuple(keys):
        return f"it was made by the labels {', '.join(note.keys)}, and this agent goes by {', '.join(keys)}"
    if chosen.key is not None and chosen.key not in keys:
        return f"it was made by the label {chosen.key}, and this agent goes by {', '.join(keys)}"
    if note.identity is None and (accepted is None or PurePath(accepted).name not in file_names(chosen, default)):
        return "it does not say for which pool it was made, and the last known good config is of another file, or none"
    return None


def describe(selection: Selection) -> str:
    """Why this file, as a clause."""
    if selection.value is None:
        return f"no label of the node selects a config{f' ({selection.note})' if selection.note else ''}"
    return f"label {selection.key} of the node is {selection.value!r}"


def unknown(selection: Selection, present: Iterable[str], default: str | None = None) -> str:
    """Why what is selected cannot be read: what was looked for, what there is instead, where `present` are the names of
    all files in the directory, and which of those was probably meant.
    """
    names = file_names(selection, default)
    why = f"and there is no {names[0]}" if names else "which is not the name of a file"
    known = sorted(name for name in present if _VALUE.fullmatch(name) and name != REVISION_NAME)
    if not known:
        return f"{describe(selection)}, {why}, nor any other *{_SUFFIX}"
    told = f"{describe(selection)}, {why}; there {'is' if len(known) == 1 else 'are'} {_listed(known)}"
    meant = _meant(selection.value, known) if selection.value is not None else None
    if meant is not None:
        return f"{told}; did you mean {meant}?"
    return f"{told}; --config-default says which is read then" if selection.value is None and default is None else told


def _meant(value: str, names: Sequence[str]) -> str | None:
    """The file that was probably meant by the value of a label."""
    by_stem = {each.removesuffix(_SUFFIX).removesuffix(".yml"): each for each in names[:_COMPARED]}
    stem = nearest(value.removesuffix(_SUFFIX).removesuffix(".yml"), by_stem)
    return by_stem[stem] if stem is not None else None


def _listed(names: Sequence[str]) -> str:
    shown = [name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…" for name in names[:_NAMED]]
    listed, more = ", ".join(shown), len(names) - _NAMED
    return f"{listed} and {more} more" if more > 0 else listed


def unlisted(selection: Selection, why: str, default: str | None = None) -> str:
    """The same where it is not known which files there are."""
    names = file_names(selection, default)
    if not names:
        return f"{describe(selection)}, which is not the name of a file"
    return f"{describe(selection)}, and there is no {names[0]}; {why}"
