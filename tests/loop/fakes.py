"""What the loop needs of the rooms, as values in memory: the protocols of `nodeagent.collaborators`, moved by hand.

They stand between the real `Reconciler` and a kubelet, an MPS host, a driver and a disk to which anything may happen in
any order, without sockets, processes or time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.desk import FrontDesk
from nodeagent.model import kubelet
from nodeagent.model.config import Document, Following, Loaded, SharingConfig, Unreadable
from nodeagent.model.handover import HandOver, HostFiles
from nodeagent.model.health import EventsReason, XidLog, XidSource, counted
from nodeagent.model.holds import Holds
from nodeagent.model.inventory import Inventory
from nodeagent.model.kubelet import PodListing, PodResourcesReason, PodResourcesStatus, RegistrationState
from nodeagent.model.kubelet import RegistrationStatus as Registered
from nodeagent.model.moment import Moment
from nodeagent.model.node import NodeEvent, NodeReport, NodeStatus
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ChangeClass, ReloadResult
from nodeagent.store import codec
from tests.loop.model_kubelet import ModelKubelet


class Died(Exception):
    """The agent's process ended here."""


@dataclass
class Clock:
    """Monotonic seconds, moved by hand; the wall clock is `ahead` of them, and may be set."""

    now: float = 1000.0
    ahead: float = 1.7e9

    def monotonic(self) -> float:
        return self.now

    def wall(self) -> float:
        return self.now + self.ahead

    def moment(self) -> Moment:
        return Moment(self.now, self.wall())


@dataclass
class Disk:
    """The state directory, as a `Store`: what outlives the agent. `lost`: all of it was, and what pods have is on the
    node alone. While it is not `writable` nothing of it changes. `meanwhile`
    happens while a file, of which it is told, is being written.
    """

    applied: Applied = field(default_factory=Applied)
    holds: Holds | None = None
    document: Document | None = None
    lost: bool = False
    writable: bool = True
    clock: Clock = field(default_factory=Clock)
    zeros: dict[str, float] = field(default_factory=dict)
    meanwhile: Callable[[str], None] | None = None

    def save_applied(self, applied: Applied) -> None:
        self._demand_room("applied.json")
        self.applied = applied

    def save_holds(self, holds: Holds) -> None:
        self._demand_room("holds.json")
        self.holds = replace(holds, granted={})

    def save_last_known_good(self, document: Document) -> None:
        self._demand_room("last-known-good")
        self.document = document

    def load(self, *, same_boot: bool) -> tuple[Applied, Holds]:
        """What an agent that starts finds, as it stands in the files: fences begin anew."""
        now, zero = self.clock.now, self.clock.ahead
        applied = codec.encode_applied(self.applied, zero=self.zeros.get("applied.json", zero))
        holds = codec.encode_holds(self.holds or Holds(), zero=self.zeros.get("holds.json", zero))
        return (
            codec.decode_applied(applied, now, zero=zero, same_boot=same_boot),
            codec.decode_holds(holds, now, zero=zero, same_boot=same_boot),
        )

    def _demand_room(self, file: str) -> None:
        if self.meanwhile is not None:
            self.meanwhile(file)
        if not self.writable:
            raise OSError(28, f"cannot write {file}: no space left on device")
        self.zeros[file] = self.clock.ahead


@dataclass(frozen=True)
class Reading:
    """What was read last, and when the change was noticed."""

    loaded: Loaded | Unreadable
    event_at: float


@dataclass
class Mount:
    """The mounted document, as a `Source`; `meanings` are what all documents so far mean, by their bytes."""

    newest: Reading | None = None
    following: Following = Following.FOLLOWED
    meanings: dict[bytes, SharingConfig] = field(default_factory=dict)

    def concerns(self, document: Document) -> bool:
        """There is one file."""
        return document.path == "sharing.yaml"

    def has(self, config: SharingConfig | None, now: float) -> None:
        """Git says this; None: the file is gone."""
        if config is None:
            self.newest = Reading(Unreadable("sharing.yaml", missing=True, message="no such file"), now)
            return
        document = Document("sharing.yaml", repr(config).encode())
        self.meanings[document.data] = config
        self.newest = Reading(Loaded(document, config), now)

    def read(self, document: Document | None) -> Loaded | None:
        """What a document that was accepted once means."""
        return Loaded(document, self.meanings[document.data]) if document is not None else None


@dataclass
class Driver:
    """The driver, as `Devices`: what it lists, and what it has reported since this agent began to listen."""

    inventory: Inventory
    xids: XidLog = field(default_factory=lambda: XidLog(EventsReason.WATCHING, ""))

    def reports(self, source: XidSource, now: float) -> None:
        self.xids = replace(self.xids, tallies=counted(self.xids.tallies, {source: 1}, now))


@dataclass
class Looks:
    """PodResources and the checkpoint, as `Pods`: the newest look at a kubelet."""

    status: PodResourcesStatus = field(default_factory=PodResourcesStatus)
    asked: bool = False
    wanted: kubelet.Looks = field(default_factory=kubelet.Looks)

    def request(self) -> None:
        self.asked = True

    def follow(self, looks: kubelet.Looks) -> None:
        self.wanted = looks

    def end(self, listing: PodListing) -> None:
        """A look has ended."""
        self.status = PodResourcesStatus(PodResourcesReason.LISTED, "", listing)

    def fail(self) -> None:
        """PodResources cannot be read."""
        self.status = replace(self.status, reason=PodResourcesReason.TIMEOUT, message="no answer")


class Streams:
    """Our resources with a kubelet, as `Plugins`; `dies` ends the agent before anything is shown."""

    def __init__(self, kubelet: ModelKubelet, desk: FrontDesk) -> None:
        self._kubelet = kubelet
        self._desk = desk
        self._sent: dict[str, int] = {}
        self.dies = False

    @property
    def served(self) -> frozenset[str]:
        return frozenset(self._sent)

    def register(self, resource: str) -> None:
        self._sent[resource] = 0

    def retire(self, resource: str) -> None:
        assert not any(key[0] == resource for key in self._kubelet.held()), "retired with a pod on it"
        del self._sent[resource]
        self._kubelet.disconnect(resource)

    def resend(self, resource: str) -> None:
        self._sent[resource] = 0

    def reconnect(self, resource: str) -> None:
        self._sent[resource] = 0

    def publish(self) -> None:
        """Show what is new; a stream that is gone is opened anew."""
        if self.dies:
            raise Died
        for resource, sent in self._sent.items():
            listing = self._desk.listing(resource)
            anew = resource not in self._kubelet.sent
            if anew:
                self._kubelet.connect(resource)
            if anew or sent != listing.revision:
                self._kubelet.send(listing)
            self._sent[resource] = listing.revision

    def statuses(self) -> tuple[Registered, ...]:
        return tuple(self._status(resource, sent) for resource, sent in sorted(self._sent.items()))

    def _status(self, resource: str, sent: int) -> Registered:
        live = resource in self._kubelet.sent
        state = RegistrationState.LIVE if live else RegistrationState.PENDING
        return Registered(resource, state, streams=int(live), registrations=1, sent_revision=sent)


class HostDirectory:
    """The host's files, as `Host`: none is needed."""

    files = HostFiles()

    def need(self, handover: HandOver) -> None:
        del handover


@dataclass
class NodeObject:
    """The Node object, as `Node`: what was last to be on it, and what was said."""

    status: NodeStatus = field(default_factory=NodeStatus)
    wanted: NodeReport | None = None
    told: list[NodeEvent] = field(default_factory=list)

    def want(self, report: NodeReport) -> None:
        self.wanted = report

    def tell(self, events: Sequence[NodeEvent]) -> None:
        self.told += events


@dataclass
class Tally:
    """What is counted of reloads, as `Counters`."""

    results: list[ReloadResult] = field(default_factory=list)

    def reload(
        self, result: ReloadResult, stage: str | None, change: ChangeClass | None, duration: float | None
    ) -> None:
        del stage, change, duration
        self.results.append(result)
