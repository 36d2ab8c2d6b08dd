"""The device manager's books: which ids there are, which are healthy, and who was given which. No I/O, no waiting.

Free is healthy minus allocated, by id. What a finished pod held stays in the books until somebody asks (a List, an
admission), as in the kubelet.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from nodeagent.kubelet.proto import deviceplugin_pb2 as api
from nodeagent.sim.checkpoint import Checkpoint, Entry
from nodeagent.sim.plugins import PluginClient

NO_NODE = -1
"""NUMA node of a device that tells none."""


@dataclass(slots=True)
class Endpoint:
    """Whom to ask about a resource. `client` is None when it is only known from the checkpoint; `stopped_at` in
    monotonic seconds.
    """

    client: PluginClient | None
    options: api.DevicePluginOptions | None
    stopped_at: float | None = None


@dataclass(slots=True, eq=False)
class Devices:
    """One kubelet's books; a kubelet that starts begins new ones from the checkpoint.

    `healthy` and `unhealthy` have the same keys: the resources that count as device plugin resources. `nodes` maps
    the ids of the last list of a resource to their NUMA nodes. `version` grows whenever what is allocatable may have
    changed.
    """

    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    healthy: dict[str, set[str]] = field(default_factory=dict)
    unhealthy: dict[str, set[str]] = field(default_factory=dict)
    nodes: dict[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    entries: dict[tuple[str, str, str], Entry] = field(default_factory=dict)
    allocated: dict[str, set[str]] = field(default_factory=dict)
    version: int = 0

    def restore(self, checkpoint: Checkpoint, now: float) -> None:
        """Take over a checkpoint: allocations as they were; resources without a device until their plugin registers
        again.
        """
        self.entries = {(entry.pod_uid, entry.container, entry.resource): entry for entry in checkpoint.entries}
        self.recount()
        for resource in checkpoint.resources:
            self.healthy[resource] = set()
            self.unhealthy[resource] = set()
            self.endpoints[resource] = Endpoint(None, None, stopped_at=now)
        self.version += 1

    def connected(self, client: PluginClient, options: api.DevicePluginOptions) -> None:
        """The newest registration is whom Allocate goes to from now on."""
        self.endpoints[client.resource] = Endpoint(client, options)

    def disconnected(self, resource: str, now: float) -> None:
        """No device of the resource is healthy any more, whoever else may still serve it; capacity stays for the
        grace.
        """
        endpoint = self.endpoints.get(resource)
        if endpoint is None:
            return
        self.unhealthy[resource] = self.unhealthy.get(resource, set()) | self.healthy.get(resource, set())
        self.healthy[resource] = set()
        endpoint.stopped_at = now
        self.version += 1

    def replace(self, resource: str, states: Mapping[str, bool], nodes: Mapping[str, tuple[int, ...]]) -> None:
        """A ListAndWatch message: the whole list of its resource, whatever was there before."""
        self.healthy[resource] = {id_ for id_, healthy in states.items() if healthy}
        self.unhealthy[resource] = {id_ for id_, healthy in states.items() if not healthy}
        self.nodes[resource] = nodes
        self.version += 1

    def forget_expired(self, now: float, grace: float) -> bool:
        """Forget resources whose plugin has been gone for longer than the grace; True when there was one."""
        expired = [
            name
            for name in self.healthy
            if (endpoint := self.endpoints.get(name)) is None
            or (endpoint.stopped_at is not None and now - endpoint.stopped_at > grace)
        ]
        for resource in expired:
            self.endpoints.pop(resource, None)
            self.healthy.pop(resource)
            self.unhealthy.pop(resource, None)
            self.version += 1
        return bool(expired)

    def capacity(self, resource: str) -> int:
        return len(self.healthy.get(resource, ())) + len(self.unhealthy.get(resource, ()))

    def is_plugin_resource(self, resource: str) -> bool:
        """Whether a request for it concerns the device manager at all: else the pod is admitted without a device."""
        return resource in self.healthy or resource in self.allocated

    def free(self, resource: str) -> set[str]:
        return self.healthy.get(resource, set()) - self.allocated.get(resource, set())

    def take(self, resource: str, ids: Iterable[str]) -> None:
        """Keep ids from being given to anybody else while their plugin is asked."""
        self.allocated.setdefault(resource, set()).update(ids)

    def insert(self, entry: Entry) -> None:
        self.entries[(entry.pod_uid, entry.container, entry.resource)] = entry

    def ids_of(self, pod_uid: str, container: str, resource: str) -> frozenset[str] | None:
        entry = self.entries.get((pod_uid, container, resource))
        return None if entry is None else entry.ids

    def of_container(self, pod_uid: str, container: str) -> Iterator[Entry]:
        return (entry for (uid, name, _), entry in self.entries.items() if (uid, name) == (pod_uid, container))

    def held(self, resource: str, pod_uids: Iterable[str]) -> frozenset[str]:
        """Ids of a resource in the books for any of these pods."""
        wanted = frozenset(pod_uids)
        return frozenset(
            id_
            for (uid, _, name), entry in self.entries.items()
            if name == resource and uid in wanted
            for id_ in entry.ids
        )

    def recount(self) -> None:
        """Allocated is what the entries say, and nothing else."""
        self.allocated = {}
        for (_, _, resource), entry in self.entries.items():
            self.take(resource, entry.ids)

    def forget_pods_except(self, active: Iterable[str]) -> None:
        """Free what pods hold that are not active any more."""
        keep = frozenset(active)
        stale = [key for key in self.entries if key[0] not in keep]
        if stale:
            for key in stale:
                del self.entries[key]
            self.recount()

    def by_node(self, resource: str, ids: Iterable[str]) -> dict[int, tuple[str, ...]]:
        """Ids by NUMA node, an id once under each of its nodes. Raises KeyError for an id that is not on the list."""
        known = self.nodes[resource]
        result: dict[int, list[str]] = {}
        for id_ in sorted(ids):
            for node in known[id_] or (NO_NODE,):
                result.setdefault(node, []).append(id_)
        return {node: tuple(members) for node, members in result.items()}
