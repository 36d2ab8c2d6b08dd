"""A kubelet as a value in memory: as unkind as the real one (FACTS of the device manager), without sockets or time.

It hands out shares by its own view, which lags behind what it was sent; it admits a pod in two steps, with a set of ids
from before the first; it forgets nothing of a finished pod until the next admission; and after a restart it shows
nothing until its pods have come from the API server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from nodeagent.model.allocation import ContainerGrant, Desk, PreferenceRequest, Refused
from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import CheckpointEntry, Holder
from nodeagent.model.shares import Listing


@dataclass
class Pod:
    """An admitted pod: what its init container and its main container have of one resource, and what Allocate said."""

    uid: str
    resource: str
    ids: tuple[str, ...]
    init: bool
    since: float
    initialising: bool = True
    finished: bool = False
    grant: ContainerGrant | None = None

    def has(self) -> set[ShareKey]:
        """What it really has now."""
        gone = self.finished or (self.init and not self.initialising)
        return set() if gone else {(self.resource, share) for share in self.ids}


@dataclass(frozen=True)
class Admission:
    """A pod that is being admitted: its ids are chosen, Allocate has not been called."""

    resource: str
    ids: tuple[str, ...]
    init: bool
    begun_at: float


@dataclass
class ModelKubelet:
    """`views` is what this kubelet believes of each resource with a stream; `sent` what has not arrived yet; `begun`
    are the UIDs of pods that have got a cgroup.
    """

    generation: int = 1
    pods: dict[str, Pod] = field(default_factory=dict)
    checkpoint: set[CheckpointEntry] = field(default_factory=set)
    views: dict[str, dict[str, bool]] = field(default_factory=dict)
    sent: dict[str, deque[Listing]] = field(default_factory=dict)
    told: dict[str, dict[str, bool]] = field(default_factory=dict)
    knows_pods: bool = True
    begun: set[str] = field(default_factory=set)
    admission: Admission | None = None
    admitted: int = 0
    least: dict[str, int] = field(default_factory=dict)
    """The fewest healthy devices of each resource that any list had which arrived, since this was emptied."""

    @property
    def name(self) -> str:
        return f"kubelet-{self.generation}"

    # --- what a plugin does ---

    def connect(self, resource: str) -> None:
        """Somebody registers the resource, and its stream opens."""
        self.views.setdefault(resource, {})
        self.sent[resource] = deque()

    def send(self, listing: Listing) -> None:
        """A list goes into the stream. It must be one that cannot make the real kubelet crash."""
        news = {device.id: device.healthy for device in listing.devices}
        before = self.told.get(listing.resource, {})
        for share in before.keys() - news.keys():
            assert not before[share], f"{share} left the list without a fence"
            assert not self.views.get(listing.resource, {}).get(share), f"{share} left while it could be handed out"
            assert (listing.resource, share) not in self.held(), f"{share} left while a pod has it"
        self.told[listing.resource] = news
        if listing.resource in self.sent:
            self.sent[listing.resource].append(listing)

    def arrive(self, resource: str) -> None:
        """The oldest list in the stream arrives."""
        if self.sent.get(resource):
            self.views[resource] = {device.id: device.healthy for device in self.sent[resource].popleft().devices}
            healthy = sum(self.views[resource].values())
            self.least[resource] = min(self.least.get(resource, healthy), healthy)

    def arrive_all(self) -> None:
        """Every list arrives."""
        for resource in self.sent:
            while self.sent[resource]:
                self.arrive(resource)

    def disconnect(self, resource: str) -> None:
        """The stream of a resource ends: its devices are there, and none of them is healthy."""
        self.views[resource] = dict.fromkeys(self.views.get(resource, {}), False)
        self.told[resource] = dict.fromkeys(self.told.get(resource, {}), False)
        self.sent.pop(resource, None)

    # --- what it does itself ---

    def held(self) -> set[ShareKey]:
        """What pods really have: what no rule may take from them."""
        return set().union(*(pod.has() for pod in self.pods.values()))

    def free(self, resource: str) -> list[str]:
        """Healthy, and not allocated, by id."""
        taken = {entry.id for entry in self.checkpoint if entry.resource == resource}
        return sorted(
            share for share, healthy in self.views.get(resource, {}).items() if healthy and share not in taken
        )

    def choices(self) -> list[str]:
        """Resources of which a pod could be given something now."""
        return sorted(resource for resource in self.sent if self.knows_pods and self.free(resource))

    def purge(self) -> None:
        """What an admission begins with: finished pods are forgotten."""
        alive = {pod.uid for pod in self.pods.values() if not pod.finished}
        self.pods = {uid: pod for uid, pod in self.pods.items() if uid in alive}
        self.checkpoint = {entry for entry in self.checkpoint if entry.pod_uid in alive}

    def begin_admission(self, desk: Desk, resource: str, size: int, now: float, *, init: bool, ask: bool) -> None:
        """Choose ids for a pod, of what is believed to be free now."""
        self.purge()
        available = self.free(resource)
        if len(available) < size:
            return
        try:
            chosen: Sequence[str] = (
                desk.prefer(resource, [PreferenceRequest(available, (), size)])[0] if ask else available[-size:]
            )
        except Refused:
            chosen = available[:size]
        assert set(chosen) <= set(available)
        assert len(set(chosen)) == size
        self.admission = Admission(resource, tuple(chosen), init, now)

    def finish_admission(self, desk: Desk, now: float, *, fails: bool) -> None:
        """Call Allocate for the ids chosen before; `fails`: the pod is not admitted for another reason."""
        admission, self.admission = self.admission, None
        if admission is None or admission.resource not in self.sent:
            return
        for share in admission.ids:
            assert share in self.views[admission.resource], f"the kubelet crashed: {share} vanished under its hands"
        try:
            (grant,) = desk.allocate(admission.resource, [admission.ids])
        except Refused:
            return
        self.admitted += 1
        uid = f"pod-{self.admitted}"
        container = "init" if admission.init else "main"
        self.checkpoint |= {CheckpointEntry(uid, container, admission.resource, share) for share in admission.ids}
        if not fails:
            self.begun.add(uid)
        self.pods[uid] = Pod(uid, admission.resource, admission.ids, admission.init, now, finished=fails, grant=grant)

    def restart(self, *, reboots: bool = False) -> None:
        """A new process: no streams, and no pods known until the API server has been asked. A machine that `reboots`
        runs none of them before that.
        """
        self.generation += 1
        self.views.clear()
        self.told.clear()
        self.sent.clear()
        self.knows_pods = False
        self.admission = None
        if reboots:
            self.begun.clear()

    def learns_pods(self) -> None:
        """The API server has told it of its pods, and they run."""
        self.knows_pods = True
        self.begun |= {uid for uid, pod in self.pods.items() if not pod.finished}

    # --- what it says ---

    def holders(self) -> tuple[Holder, ...]:
        """`List`: without init containers, and nothing for a while after a restart."""
        if not self.knows_pods:
            return ()
        return tuple(
            Holder("default", pod.uid, "main", pod.resource, pod.ids)
            for pod in self.pods.values()
            if not pod.init and not pod.finished
        )

    def cgroups(self) -> frozenset[str]:
        """The pods of the checkpoint of which something runs."""
        alive = {uid for uid, pod in self.pods.items() if not pod.finished}
        return frozenset(alive & self.begun & {entry.pod_uid for entry in self.checkpoint})

    def allocatable(self) -> dict[str, frozenset[str]]:
        """`GetAllocatableResources`: healthy ids, allocated or not."""
        return {
            resource: frozenset(share for share, healthy in view.items() if healthy)
            for resource, view in self.views.items()
        }
