"""How a container gets its devices: the kubelet's own order of steps, with its windows left open.

The set of what is available is taken first; then the plugin is asked for its preference and for the allocation,
without a lock and without a deadline, while lists come in; only then is each id looked up again. An id that has
vanished by then kills the real kubelet. `Hooks` let a test stand in these windows.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from nodeagent.sim.checkpoint import Entry
from nodeagent.sim.devices import Devices
from nodeagent.sim.plugins import PluginClient, PluginError
from nodeagent.sim.pods import Grant, Pod, Requests

Hook = Callable[[], Awaitable[None]]


class Refusal(Exception):
    """Why the device manager allocates nothing; the message is its own."""


class Vanished(Exception):
    """Ids that were allocated and are no longer on the list of their resource."""

    def __init__(self, resource: str, ids: frozenset[str]) -> None:
        super().__init__(resource, ids)
        self.resource = resource
        self.ids = ids


@dataclass(slots=True)
class Hooks:
    """Awaited, where set, after the available set is taken (`before_preferred`) and after the ids are chosen
    (`before_allocate`).
    """

    before_preferred: Hook | None = None
    before_allocate: Hook | None = None


class Allocator:
    """Allocates to the containers of one pod, init containers first: what they had, the later ones use again."""

    def __init__(self, books: Devices, pod: Pod, hooks: Hooks, *, pods_known: bool = True) -> None:
        self._books = books
        self._pod = pod
        self._hooks = hooks
        self._pods_known = pods_known
        self._reusable: dict[str, set[str]] = {}

    async def allocate_pod(self) -> bool:
        """Allocate to every container; whether the books changed. Raises Refusal, PluginError, Vanished."""
        changed = False
        for container, requests in self._pod.init_containers.items():
            changed |= await self._allocate(container, requests)
            for entry in self._books.of_container(self._pod.uid, container):
                self._reusable.setdefault(entry.resource, set()).update(entry.ids)
        for container, requests in self._pod.containers.items():
            changed |= await self._allocate(container, requests)
            for entry in self._books.of_container(self._pod.uid, container):
                self._reusable.get(entry.resource, set()).difference_update(entry.ids)
        return changed

    async def _allocate(self, container: str, requests: Requests) -> bool:
        changed = False
        for resource, count in requests.items():
            if not self._books.is_plugin_resource(resource):
                continue
            ids = await self._choose(container, resource, count)
            if ids:
                await self._ask(container, resource, ids)
                changed = True
        return changed

    async def _choose(self, container: str, resource: str, count: int) -> set[str]:
        """Ids to allocate now; none when the container has its ids already."""
        books = self._books
        existing = books.ids_of(self._pod.uid, container, resource)
        if existing is not None and len(existing) != count:
            raise Refusal(
                f'pod "{self._pod.uid}" container "{container}" changed request for resource "{resource}" '
                f"from {len(existing)} to {count}"
            )
        if not self._pods_known and container in self._pod.running:
            return set()  # a kubelet that starts anew lets running containers be
        self._require_healthy(resource, existing)
        if existing is not None or count == 0:
            return set()
        chosen = set(sorted(self._reusable.get(resource, ()))[:count])
        books.take(resource, chosen)
        missing = count - len(chosen)
        if missing:
            available = books.free(resource)
            if len(available) < missing:
                raise Refusal(
                    f"requested number of devices unavailable for {resource}. "
                    f"Requested: {missing}, Available: {len(available)}"
                )
            preferred = await self._prefer(resource, available, chosen, count)
            ordered = [*(id_ for id_ in preferred if id_ in available), *sorted(available.difference(preferred))]
            rest = list(dict.fromkeys(ordered))[:missing]
            books.take(resource, rest)
            chosen.update(rest)
        return chosen

    def _require_healthy(self, resource: str, existing: frozenset[str] | None) -> None:
        healthy = self._books.healthy.get(resource)
        if healthy is None:
            raise Refusal(f"cannot allocate unregistered device {resource}")
        if not healthy:
            raise Refusal(f"no healthy devices present; cannot allocate unhealthy devices {resource}")
        if existing is not None and not existing <= healthy:
            raise Refusal(
                f"previously allocated devices are no longer healthy; cannot allocate unhealthy devices {resource}"
            )

    async def _prefer(self, resource: str, available: set[str], chosen: set[str], count: int) -> list[str]:
        if self._hooks.before_preferred is not None:
            await self._hooks.before_preferred()
        endpoint = self._books.endpoints.get(resource)
        if endpoint is None:
            raise Refusal(f"endpoint not found in cache for a registered resource: {resource}")
        if endpoint.options is None or not endpoint.options.get_preferred_allocation_available:
            return []
        return await self._client(resource).prefer(sorted(available | chosen), sorted(chosen), count)

    async def _ask(self, container: str, resource: str, ids: set[str]) -> None:
        """Allocate chosen ids, and enter them into the books."""
        if self._hooks.before_allocate is not None:
            await self._hooks.before_allocate()
        response = await self._client(resource).allocate(sorted(ids))
        vanished = ids - self._books.nodes.get(resource, {}).keys()
        if vanished:
            raise Vanished(resource, frozenset(vanished))
        by_node = self._books.by_node(resource, ids)
        self._books.insert(Entry(self._pod.uid, container, resource, by_node, response.SerializeToString()))
        self._pod.grants.setdefault(container, {})[resource] = Grant(
            tuple(sorted(ids)),
            dict(response.envs),
            {mount.container_path: mount.host_path for mount in response.mounts},
        )

    def _client(self, resource: str) -> PluginClient:
        endpoint = self._books.endpoints.get(resource)
        if endpoint is None:
            raise Refusal(f"unknown Device Plugin {resource}")
        if endpoint.client is None or endpoint.stopped_at is not None:
            raise PluginError(f"endpoint {resource} has been stopped")
        return endpoint.client


async def start_container(books: Devices, pod: Pod, container: str, requests: Requests) -> bool:
    """What the device manager does when a container starts, again or for the first time: the old answer serves.

    False when nothing is in the books for a resource that it asks for, so that it must be allocated anew. Raises
    Refusal, PluginError.
    """
    complete = True
    for resource, count in requests.items():
        if not books.is_plugin_resource(resource) or count == 0:
            continue
        endpoint = books.endpoints.get(resource)
        if endpoint is None:
            raise Refusal(f"endpoint not found in cache for a registered resource: {resource}")
        ids = books.ids_of(pod.uid, container, resource)
        if ids is None:
            complete = False
        elif endpoint.client is not None and endpoint.options is not None and endpoint.options.pre_start_required:
            await endpoint.client.pre_start(sorted(ids))
    return complete
