"""The Kubernetes API, as far as this project asks it: one Node, lists of Nodes, and events. The only speaker to it.

Labels and annotations are written by server-side apply, which is the API server's own bookkeeping of who wrote what:
an apply says all that we want to have written, and what we had written before and do not say any more is removed, but
never what somebody else wrote. See https://kubernetes.io/docs/reference/using-api/server-side-apply/.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, TypeVar, cast

import httpx2
import msgspec
from lightkube import AsyncClient, ConfigError, KubeConfig, SingleConfig
from lightkube.config.client_adapter import verify_cluster
from lightkube.config.models import User
from lightkube.core.resource import ApiInfo, GlobalResource, ResourceDef
from lightkube.models.core_v1 import EventSource, ObjectReference
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Event
from lightkube.types import PatchType

from nodeagent import clocks
from nodeagent.model.node import NodeEvent, NodeObject
from nodeagent.node import api_transport
from nodeagent.node.api_problem import ApiProblem, Trouble, explained
from nodeagent.node.api_transport import Transport, WatchEnded

MANAGER: Final = "nodeagent"
"""Our field manager, and the component that events come from."""

EVENT_NAMESPACE: Final = "default"
"""Where events about Nodes are: the API server takes them nowhere else."""

_PAGE: Final = 500

T = TypeVar("T")


class _Managed(msgspec.Struct):
    manager: str = ""
    operation: str = ""
    fieldsV1: dict[str, dict[str, object]] | None = None  # noqa: N815 - the API's name


class _Meta(msgspec.Struct, omit_defaults=True):
    name: str
    uid: str = ""
    resourceVersion: str = ""  # noqa: N815 - the API's name
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    managedFields: list[_Managed] | None = None  # noqa: N815 - the API's name


class _Taint(msgspec.Struct):
    key: str


class _Spec(msgspec.Struct):
    taints: list[_Taint] | None = None


class _Node(GlobalResource, msgspec.Struct, omit_defaults=True):
    """Of a Node only what is asked for here: lightkube's own model refuses one that lacks anything else."""

    apiVersion: str | None = None  # noqa: N815 - the API's name
    kind: str | None = None
    metadata: _Meta | None = None
    spec: _Spec | None = None
    _api_info = ApiInfo(resource=ResourceDef("", "v1", "Node"), plural="nodes", verbs=["list", "watch", "patch"])


class Seen(NamedTuple):
    """When an event happened first and last (monotonic seconds), and how many times."""

    first: float
    last: float
    times: int


class ApiClient:
    """One connection to one API server, by `kubeconfig`, else the service account of the pod, else `$KUBECONFIG`. All
    methods raise ApiProblem, the constructor too. Belongs to one event loop; `close` it.
    """

    def __init__(self, kubeconfig: Path | None = None) -> None:
        what = "cannot reach the Kubernetes API"
        try:
            with explained(what):
                config = _config(kubeconfig)
                verify = verify_cluster(config.cluster, config.user or User(), config.abs_file)
                self._transport = Transport(verify=verify)
                timeout = httpx2.Timeout(api_transport.DEADLINE)
                self._client = AsyncClient(config, timeout=timeout, field_manager=MANAGER, transport=self._transport)
        except ApiProblem as problem:
            raise ApiProblem(str(problem), Trouble.UNREACHABLE) from problem  # nobody has been asked
        except Exception as error:  # what a kubeconfig can be, nobody has counted
            raise ApiProblem(f"{what}: {error!r}", Trouble.UNREACHABLE) from error

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def nodes(self, selector: str) -> list[NodeObject]:
        """All Nodes with these labels, `selector` as of `kubectl get -l`."""

        async def listed() -> list[NodeObject]:
            # lightkube makes the selector of pairs; a key that only has to exist goes in as it is.
            return [_node(entry) async for entry in self._client.list(_Node, labels={selector: None}, chunk_size=_PAGE)]

        return await _asked(f"cannot list nodes with {selector}", listed())

    async def watch(self, name: str, seconds: int, opened: Callable[[], None]) -> AsyncGenerator[NodeObject | None]:
        """One Node as it is now and each state after that, None when it has been deleted, until the API server ends the
        watch: after `seconds`, if nothing goes wrong. One that has died without a word is a problem a little later.
        `opened` is called when the API server has agreed to it. A Node that is not there is only awaited.

        There is no version to go on from: that of an object is that of its last change, which the API server may have
        forgotten when nothing has changed for long. See "Get State and Start at Most Recent" in
        https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-watch.
        """
        answer = self._client.watch(_Node, fields={"metadata.name": name}, server_timeout=seconds)
        end = asyncio.get_running_loop().time() + seconds + api_transport.DEADLINE
        self._transport.watch = opened
        with explained(f"cannot watch the node {name}"):
            async with aclosing(cast("AsyncGenerator[tuple[str, _Node]]", answer)) as changes:
                while True:
                    try:
                        # Not around the yield: it would interrupt whoever does something with what came.
                        async with asyncio.timeout_at(end):
                            change, node = await anext(changes)
                    except (WatchEnded, StopAsyncIteration):
                        return
                    yield None if change == "DELETED" else _node(node)

    async def apply(self, name: str, labels: Mapping[str, str], annotations: Mapping[str, str]) -> NodeObject:
        """Have the Node say this, which is all that the agent wants it to say."""
        wanted = _Node(metadata=_Meta(name=name, labels=dict(labels) or None, annotations=dict(annotations) or None))
        return _node(await _asked(f"cannot label the node {name}", self._client.apply(wanted, force=True)))

    async def remove_taint(self, node: NodeObject, key: str) -> NodeObject:
        """Take all taints with this key away, of a Node as it was seen: where its taints have changed meanwhile nothing
        is done, and it is a CONFLICT.
        """
        steps: list[dict[str, str]] = []
        for index in reversed([number for number, taint in enumerate(node.taints) if taint == key]):
            path = f"/spec/taints/{index}"
            steps += [{"op": "test", "path": f"{path}/key", "value": key}, {"op": "remove", "path": path}]
        patched = self._client.patch(_Node, node.name, steps, patch_type=PatchType.JSON)
        return _node(await _asked(f"cannot remove the taint {key} of the node {node.name}", patched))

    async def create_event(self, name: str, node: NodeObject, event: NodeEvent, seen: Seen) -> None:
        """Report one event of a Node under this name, of `event_name`. Where it is there already it is a CONFLICT."""
        told = Event(
            metadata=ObjectMeta(name=name, namespace=EVENT_NAMESPACE),
            involvedObject=ObjectReference(apiVersion="v1", kind="Node", name=node.name, uid=node.uid),
            reason=event.reason,
            message=event.message,
            type="Warning" if event.warning else "Normal",
            source=EventSource(component=MANAGER, host=node.name),
            reportingComponent=MANAGER,
            reportingInstance=node.name,
            firstTimestamp=_time(seen.first),
            lastTimestamp=_time(seen.last),
            count=seen.times,
        )
        await _asked(f"cannot tell the event {event.reason}", self._client.create(told))

    async def repeat_event(self, name: str, seen: Seen) -> None:
        """An event that has been reported has happened so often by now."""
        again = {"count": seen.times, "lastTimestamp": _time(seen.last)}
        patched = self._client.patch(Event, name, again, namespace=EVENT_NAMESPACE, patch_type=PatchType.MERGE)
        await _asked(f"cannot count the event {name}", patched)


def event_name(node: NodeObject) -> str:
    """A name for a new event of this Node, which no other has."""
    return f"{node.name}.{time.time_ns():x}"


def _config(kubeconfig: Path | None) -> SingleConfig:
    if kubeconfig is not None:
        found = KubeConfig.from_file(kubeconfig)
    else:
        try:
            found = KubeConfig.from_env()
        except ConfigError as error:
            raise ConfigError(f"there is no token of a service account, and: {error}") from error
    config = found.get()
    if config is None:
        raise ConfigError("the kubeconfig has no current context")
    return config


async def _asked(what: str, answer: Awaitable[T]) -> T:
    with explained(what):
        async with asyncio.timeout(api_transport.DEADLINE):
            return await answer


def _time(at: float) -> datetime:
    """A monotonic moment, by the wall clock as it is set now."""
    return datetime.fromtimestamp(clocks.now().zero + at, UTC).replace(microsecond=0)


def _node(node: _Node) -> NodeObject:
    meta = node.metadata or _Meta("")
    ours = [
        entry.fieldsV1.get("f:metadata", {})
        for entry in meta.managedFields or ()
        if entry.manager == MANAGER and entry.operation == "Apply" and entry.fieldsV1
    ]

    def own(kind: str) -> frozenset[str]:
        return frozenset(key.removeprefix("f:") for entry in ours for key in _keys(entry.get(kind)))

    return NodeObject(
        name=meta.name,
        uid=meta.uid,
        version=meta.resourceVersion,
        labels=meta.labels or {},
        annotations=meta.annotations or {},
        taints=tuple(taint.key for taint in (node.spec.taints if node.spec else None) or ()),
        own_labels=own("f:labels"),
        own_annotations=own("f:annotations"),
    )


def _keys(found: object) -> list[str]:
    """Of a set of fields: `.` is the map itself, and `f:` begins the name of a key."""
    return [key for key in found if key.startswith("f:")] if isinstance(found, dict) else []
