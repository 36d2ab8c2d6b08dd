"""The device manager's checkpoint, in the kubelet's own format: the only place where init containers and finished
pods show.

`{"Data": {"PodDeviceEntries": [...] | null, "RegisteredDevices": {resource: [id, ...]}}, "Checksum": n}`, ids by NUMA
node ("-1" for none). The checksum is a 32-bit number as in the real file, but of another kind: the real one hashes a
dump of Go structures.
"""

from __future__ import annotations

import base64
import binascii
import json
import tempfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Entry:
    """What one container was given of one resource: ids by NUMA node (-1: none), and the plugin's serialised answer."""

    pod_uid: str
    container: str
    resource: str
    ids_by_node: Mapping[int, tuple[str, ...]]
    response: bytes

    @property
    def ids(self) -> frozenset[str]:
        return frozenset(id_ for ids in self.ids_by_node.values() for id_ in ids)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything that a kubelet takes over from the one before it: allocations, and the names of registered
    resources.
    """

    entries: tuple[Entry, ...] = ()
    resources: frozenset[str] = frozenset()


def write(path: Path, entries: Iterable[Entry], registered: Mapping[str, Iterable[str]]) -> None:
    """Replace the checkpoint in one step. `registered` are the healthy ids of each resource. Raises OSError."""
    pods = [
        {
            "PodUID": entry.pod_uid,
            "ContainerName": entry.container,
            "ResourceName": entry.resource,
            "DeviceIDs": {str(node): list(ids) for node, ids in entry.ids_by_node.items()},
            "AllocResp": base64.b64encode(entry.response).decode(),
        }
        for entry in entries
    ]
    data = json.dumps(
        {"PodDeviceEntries": pods or None, "RegisteredDevices": {name: list(ids) for name, ids in registered.items()}},
        separators=(",", ":"),
    )
    text = f'{{"Data":{data},"Checksum":{zlib.crc32(data.encode())}}}'
    with tempfile.NamedTemporaryFile("w", prefix=".", dir=path.parent, delete=False) as file:
        file.write(text)
    Path(file.name).rename(path)


def read(path: Path) -> Checkpoint:
    """The checkpoint, an empty one where there is no file. Raises ValueError for a corrupt one, OSError."""
    try:
        data = json.loads(path.read_bytes())["Data"]
        return Checkpoint(
            tuple(
                Entry(
                    pod_uid=entry["PodUID"],
                    container=entry["ContainerName"],
                    resource=entry["ResourceName"],
                    ids_by_node={int(node): tuple(ids) for node, ids in entry["DeviceIDs"].items()},
                    response=base64.b64decode(entry["AllocResp"], validate=True),
                )
                for entry in data["PodDeviceEntries"] or ()
            ),
            frozenset(data["RegisteredDevices"]),
        )
    except FileNotFoundError:
        return Checkpoint()
    except (KeyError, TypeError, AttributeError, binascii.Error, ValueError) as error:
        raise ValueError(f"cannot read checkpoint {path}: {error!r}") from error
