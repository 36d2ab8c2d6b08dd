"""What the loop needs of the rooms: small protocols, so that it knows none of them and they do not know it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from nodeagent.model.config import Contract, Document, Following, Loaded, Unreadable
from nodeagent.model.handover import HandOver, HostFiles
from nodeagent.model.health import XidLog
from nodeagent.model.inventory import Inventory
from nodeagent.model.kubelet import Looks, PodResourcesStatus, RegistrationStatus
from nodeagent.model.mps import MpsStatus
from nodeagent.model.node import NodeEvent, NodeReport, NodeStatus


class Reading(Protocol):
    """What the config's room read last, and when the change was noticed (monotonic seconds)."""

    @property
    def loaded(self) -> Loaded | Unreadable: ...
    @property
    def event_at(self) -> float: ...


class Source(Protocol):
    """The mounted document."""

    @property
    def newest(self) -> Reading | None: ...
    @property
    def following(self) -> Following: ...
    def concerns(self, document: Document) -> bool: ...


class Devices(Protocol):
    """The driver."""

    @property
    def inventory(self) -> Inventory: ...
    @property
    def xids(self) -> XidLog: ...


class Pods(Protocol):
    """PodResources and the kubelet's checkpoint."""

    @property
    def status(self) -> PodResourcesStatus: ...
    def request(self) -> None: ...
    def follow(self, looks: Looks) -> None: ...


class Daemons(Protocol):
    """The MPS host, as far as the agent deals with it."""

    @property
    def status(self) -> MpsStatus: ...
    def want(self, daemons: Mapping[str, Contract], *, prepare: bool) -> None: ...


class Host(Protocol):
    """The host's files by which devices are handed over."""

    @property
    def files(self) -> HostFiles: ...
    def need(self, handover: HandOver) -> None: ...


class Node(Protocol):
    """The Node object, and the labels on it."""

    @property
    def status(self) -> NodeStatus: ...
    def want(self, report: NodeReport) -> None: ...
    def tell(self, events: Sequence[NodeEvent]) -> None: ...


class Registrations(Protocol):
    """What a plan may ask for with the kubelet."""

    def register(self, resource: str) -> None: ...
    def retire(self, resource: str) -> None: ...
    def resend(self, resource: str) -> None: ...
    def reconnect(self, resource: str) -> None: ...


class Plugins(Registrations, Protocol):
    """Our resources with the kubelet."""

    def publish(self) -> None: ...
    def statuses(self) -> tuple[RegistrationStatus, ...]: ...
