"""Reads the kubelet's `kubelet_internal_checkpoint`: which container was ever given which id.

PodResources leaves out what plain init containers hold, and everything for a while after a kubelet restart; this file
has both. It is the kubelet's own and no API, so it is only ever read, taken strictly, and believed only to add holders.
Its checksum is over the kubelet's memory layout and cannot be checked here; the kubelet replaces the file in one step.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from nodeagent import refusals
from nodeagent.model.kubelet import CheckpointEntry

LARGEST: Final = 64 << 20
"""Bytes. It has some tens for each id that a pod was given; what is larger is no checkpoint."""


def read(path: Path) -> bytes | str:
    """The file's bytes; why there are none, where it cannot be read, or is larger than a checkpoint can be."""
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except FileNotFoundError:
        return "there is no such file"
    except OSError as error:
        return refusals.words(error, path)
    return data if len(data) <= LARGEST else f"it has more than {LARGEST >> 20} MiB"


def parse(data: bytes) -> frozenset[CheckpointEntry] | None:
    """One entry per pod, container, resource and id; None when the data is not a checkpoint as we know it.

    `DeviceIDs` maps NUMA nodes to lists of ids since Kubernetes 1.20 and is one list before; an empty list may be null.
    """
    try:
        entries = json.loads(data)["Data"]["PodDeviceEntries"]
        return frozenset(
            CheckpointEntry(_text(pod), _text(container), _text(resource), id_)
            for entry in entries or ()
            for pod, container, resource in [(entry["PodUID"], entry["ContainerName"], entry["ResourceName"])]
            for id_ in _ids(entry["DeviceIDs"])
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _ids(found: object) -> list[str]:
    if found is None:
        return []
    if isinstance(found, dict):
        return [id_ for ids in found.values() for id_ in _ids(ids)]
    if isinstance(found, list):
        return [_text(id_) for id_ in found]
    raise TypeError(f"not device ids: {found!r}")


def _text(found: object) -> str:
    if not isinstance(found, str):
        raise TypeError(f"not a text: {found!r}")
    found.encode()  # JSON can carry what UTF-8 cannot, and the kubelet's strings are UTF-8
    return found
