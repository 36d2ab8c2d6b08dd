"""Nodes and events as an API server keeps them: versions, who wrote which label, and what changed since when.

As far as this project asks for it: server-side apply of a Node's labels and annotations, JSON patches of its taints,
merge patches of events. After https://kubernetes.io/docs/reference/using-api/server-side-apply/.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]
Key = tuple[str, str]
"""`("labels", "nvidia.com/gpu.count")`."""

_KINDS = ("labels", "annotations")


class Refused(Exception):
    """An answer that is a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "reason": reason, "code": code,
        }  # fmt: skip


@dataclass(slots=True)
class _Node:
    """`owners` are the keys that each (manager, operation) has written."""

    uid: str
    version: int
    labels: dict[str, str]
    annotations: dict[str, str]
    taints: list[Json]
    owners: dict[tuple[str, str], set[Key]] = field(default_factory=dict)

    def values(self, kind: str) -> dict[str, str]:
        return self.labels if kind == "labels" else self.annotations


@dataclass(slots=True)
class Objects:
    """All nodes and events. `on_change` is called with (type, name of the node, the node as JSON)."""

    on_change: Callable[[str, str, Json], None] = lambda *_: None
    events: dict[str, Json] = field(default_factory=dict)
    version: int = 100
    _nodes: dict[str, _Node] = field(default_factory=dict)
    _born: int = 0

    def add_node(self, name: str, labels: Mapping[str, str] | None = None, taints: Iterable[Json] = ()) -> None:
        """A Node that its kubelet has just registered."""
        self._born += 1
        node = _Node(f"uid-{name}-{self._born}", 0, dict(labels or {}), {}, copy.deepcopy(list(taints)))
        node.owners["kubelet", "Update"] = {("labels", key) for key in node.labels}
        self._nodes[name] = node
        self._changed("ADDED", name)

    def delete_node(self, name: str) -> None:
        """The Node is gone; its kubelet may register it anew."""
        self._changed("DELETED", name)
        del self._nodes[name]

    def label(self, name: str, values: Mapping[str, str | None], manager: str = "kubectl-label") -> None:
        """Somebody sets labels, None takes one away: whoever wrote another value before does not own it any more."""
        node = self._node(name)
        for key, value in values.items():
            if node.labels.get(key) == value:
                continue
            for keys in node.owners.values():
                keys.discard(("labels", key))
            if value is None:
                del node.labels[key]
            else:
                node.labels[key] = value
                node.owners.setdefault((manager, "Update"), set()).add(("labels", key))
        self._changed("MODIFIED", name)

    def annotate(self, name: str, values: Mapping[str, str]) -> None:
        """Somebody sets annotations."""
        node = self._node(name)
        node.annotations.update(values)
        node.owners.setdefault(("kubectl-annotate", "Update"), set()).update(("annotations", key) for key in values)
        self._changed("MODIFIED", name)

    def labels(self, name: str) -> dict[str, str]:
        return dict(self._node(name).labels)

    def annotations(self, name: str) -> dict[str, str]:
        return dict(self._node(name).annotations)

    def taints(self, name: str) -> list[Json]:
        return copy.deepcopy(self._node(name).taints)

    def names(self) -> list[str]:
        return sorted(self._nodes)

    def heartbeat(self, name: str) -> None:
        """Its kubelet writes the Node's status: nothing that is looked at here."""
        self._changed("MODIFIED", name)

    def get(self, name: str) -> Json:
        """The Node as JSON."""
        node = self._node(name)
        managed = [
            {
                "manager": manager, "operation": operation, "apiVersion": "v1", "fieldsType": "FieldsV1",
                "time": "2026-01-01T00:00:00Z", "fieldsV1": {"f:metadata": _fields(keys)},
            }
            for (manager, operation), keys in node.owners.items()
            if keys
        ]  # fmt: skip
        return {
            "kind": "Node",
            "apiVersion": "v1",
            "metadata": {
                "name": name,
                "uid": node.uid,
                "resourceVersion": str(node.version),
                "labels": dict(node.labels),
                "annotations": dict(node.annotations),
                "managedFields": managed,
            },
            "spec": {"taints": copy.deepcopy(node.taints)} if node.taints else {},
            "status": {
                "nodeInfo": {},
                "images": [{"names": [f"registry.example/{n}"], "sizeBytes": n} for n in range(50)],
            },
        }

    def apply(self, name: str, body: Json, manager: str, *, force: bool) -> Json:
        """Server-side apply of labels and annotations. Of a Node that is not there it would be a create, which the role
        of the agent does not allow.
        """
        if name not in self._nodes:
            raise Refused(
                403, "Forbidden", f'nodes "{name}" is forbidden: cannot create resource "nodes" in API group ""'
            )
        node = self._node(name)
        before = (dict(node.labels), dict(node.annotations), {who: set(keys) for who, keys in node.owners.items()})
        wanted: dict[Key, str] = {
            (kind, key): value
            for kind in _KINDS
            for key, value in (body.get("metadata", {}).get(kind) or {}).items()
        }  # fmt: skip
        us = (manager, "Apply")
        others = {who: keys for who, keys in node.owners.items() if who != us}
        conflicts = {
            entry: who[0]
            for entry, value in wanted.items()
            for who, keys in others.items()
            if entry in keys and node.values(entry[0]).get(entry[1]) != value
        }
        if conflicts and not force:
            named = ", ".join(
                f'conflict with "{who}": .metadata.{kind}.{key}' for (kind, key), who in conflicts.items()
            )
            raise Refused(409, "Conflict", f"Apply failed with {len(conflicts)} conflicts: {named}")
        for entry in conflicts:
            for keys in others.values():
                keys.discard(entry)
        for kind, key in node.owners.get(us, set()) - wanted.keys():
            if not any((kind, key) in keys for keys in others.values()):
                node.values(kind).pop(key, None)
        for (kind, key), value in wanted.items():
            node.values(kind)[key] = value
        node.owners[us] = set(wanted)
        if not wanted:
            del node.owners[us]
        if before != (node.labels, node.annotations, node.owners):
            self._changed("MODIFIED", name)
        return self.get(name)

    def patch_taints(self, name: str, steps: list[Json]) -> Json:
        """A JSON patch of what is below /spec/taints, all of it or nothing."""
        node = self._node(name)
        taints = copy.deepcopy(node.taints)
        for step in steps:
            root, spec, kind, index, *rest = step["path"].split("/")
            assert (root, spec, kind) == ("", "spec", "taints"), step
            there = int(index) < len(taints)
            if step["op"] == "test" and there and taints[int(index)].get(rest[0]) == step["value"]:
                continue
            if step["op"] == "remove" and there and not rest:
                del taints[int(index)]
                continue
            raise Refused(422, "Invalid", f"the server rejected our request due to an error in our request: {step}")
        node.taints = taints
        self._changed("MODIFIED", name)
        return self.get(name)

    def create_event(self, body: Json) -> Json:
        name = body["metadata"]["name"]
        if name in self.events:
            raise Refused(409, "AlreadyExists", f'events "{name}" already exists')
        assert body["involvedObject"]["kind"] == "Node", body
        self.events[name] = body
        return body

    def patch_event(self, name: str, body: Json) -> Json:
        """A merge patch of fields that are no objects."""
        if name not in self.events:
            raise Refused(404, "NotFound", f'events "{name}" not found')
        self.events[name].update(body)
        return self.events[name]

    def _node(self, name: str) -> _Node:
        try:
            return self._nodes[name]
        except KeyError:
            raise Refused(404, "NotFound", f'nodes "{name}" not found') from None

    def _changed(self, change: str, name: str) -> None:
        self.version += 1
        self._nodes[name].version = self.version
        self.on_change(change, name, self.get(name))


def _fields(keys: set[Key]) -> Json:
    found: Json = {}
    for kind, key in sorted(keys):
        found.setdefault(f"f:{kind}", {})[f"f:{key}"] = {}
    return found
