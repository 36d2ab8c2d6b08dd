"""Which document of a directory is a node's, by a label of its Node object.

Pure: what the labels select, which file that is, and how to say that it is not there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Final

from nodeagent.model.node import Selection, SelectionNote

FILE_NAME: Final = "sharing.yaml"
"""The document of a directory where no label selects another one."""

_SUFFIX: Final = ".yaml"
_VALUE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*", re.ASCII)
_NAMED: Final = 10


def select(labels: Mapping[str, str], keys: Sequence[str]) -> Selection:
    """What the first of `keys` selects that is on the Node with a value. An empty value is as good as no label."""
    return next((Selection(key, labels[key]) for key in keys if labels.get(key)), Selection())


def file_name(selection: Selection) -> str | None:
    """The file that is selected; None for a value that names none, such as one that leads out of the directory."""
    if selection.value is None:
        return FILE_NAME
    return selection.value + _SUFFIX if _VALUE.fullmatch(selection.value) else None


def unusable(note: SelectionNote, identity: str, keys: Sequence[str], accepted: str | None) -> str | None:
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
    if note.identity is None and (accepted is None or PurePath(accepted).name != file_name(chosen)):
        return "it does not say for which pool it was made, and the last known good config is of another file, or none"
    return None


def describe(selection: Selection) -> str:
    """Why this file, as a clause."""
    if selection.value is None:
        return "no label of the node selects a config"
    return f"label {selection.key} of the node is {selection.value!r}"


def unknown(selection: Selection, present: Iterable[str]) -> str:
    """Why what is selected cannot be read, where `present` are the names of all files in the directory."""
    name = file_name(selection)
    if name is None:
        return f"{describe(selection)}, which is not the name of a file"
    known = sorted(file for file in present if file.endswith(_SUFFIX) and _VALUE.fullmatch(file))
    if not known:
        return f"{describe(selection)}, and there is no {name}, nor any other *{_SUFFIX}"
    listed, more = ", ".join(known[:_NAMED]), len(known) - _NAMED
    verb = "is" if len(known) == 1 else "are"
    return (
        f"{describe(selection)}, and there is no {name}; there {verb} {listed}{f' and {more} more' if more > 0 else ''}"
    )


def unlisted(selection: Selection, why: str) -> str:
    """The same where it is not known which files there are."""
    name = file_name(selection)
    if name is None:
        return f"{describe(selection)}, which is not the name of a file"
    return f"{describe(selection)}, and there is no {name}; {why}"
