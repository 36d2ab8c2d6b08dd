"""Watches a node with GPUs under MPS while anything happens to it: DESIGN section 5, as far as it can be seen at all.

It sees each list that the kubelet gets, and many times a second the daemons, the files that agent and host leave for
each other, and the pods. A test says beforehand what it is going to do (`commits`, `kills` and so on); what is seen
then and cannot come of that is a fault, told in `faults`, with everything that was done before it in `story`.

What is seen late says little about the moment that it was sent in: lists that come in while this process stands still
are not judged by what is on the disk.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

from nodeagent.durable import atomic
from nodeagent.model.config import Contract, Document
from nodeagent.model.mps import DaemonState
from nodeagent.mps.control import ControlError
from nodeagent.mps.files import Observed, ObservedDaemon, checksum, decode_record
from nodeagent.mps.process import Process, mps_processes
from nodeagent.sim.history import ListMessage
from nodeagent.sim.pods import Phase, Pod
from tests.agent.harness import GPUS, uuid
from tests.agent.mps_node import MpsNode
from tests.soak.layouts import gpu_index
from tests.soak.mps_layouts import UNDER_MPS, Layout, by_gpu, ids_of, under_mps

EVERY = 0.05
LATE = 0.5
"""Seconds. This long after the last look, what a list says is not compared with what is on the disk now."""

NOTICED = 2.5
"""Seconds since the test has ended a daemon in which its shares may still be offered anew."""

UNREST = 6.0
"""Seconds in which the shares of a GPU may come and go after its daemon was disturbed. What the issue promises is less;
a busy machine is no fault."""

LAGS = 2.0
"""Seconds in which lists of an earlier config may still arrive."""

REMEMBERED = 30.0
"""Seconds for which an agent may take a share for held that no pod has any more."""


@dataclass(slots=True)
class _Kept:
    """A daemon that was told to be ready, and so must stay. `excused`: it may have been asked to go."""

    process: Process
    contract: Contract
    excused: bool = True


@dataclass(frozen=True, slots=True)
class _Steady:
    """The shares of a GPU of which nothing is asked."""

    resource: str
    ids: frozenset[str]


class Watch:
    """Use with `async with`. `newest` says which document (git blob) the agent has judged last, as far as is known."""

    def __init__(self, node: MpsNode, newest: Callable[[], str | None]) -> None:
        self.story: list[str] = []
        self.faults: list[str] = []
        self.looks = 0
        self._node = node
        self._newest = newest
        self._begun = self._looked_at = time.monotonic()
        self._blob: str | None = None
        self._layouts: list[tuple[float, Layout]] = []
        self._most: dict[tuple[int, str], int] = {}
        self._sent: dict[str, frozenset[str]] = {}
        self._killed_at: dict[int, float] = {}
        self._owed: dict[int, float] = {}
        self._may_end: dict[Process, float] = {}
        self._halted: set[Process] = set()
        self._altered: set[int] = set()
        self._unrest: dict[int, float] = {}
        self._dead_since: dict[int, float] = {}
        self._out: set[int] = set()
        self._bare: dict[int, float] = {}
        self._kept: dict[int, _Kept] = {}
        self._pods: dict[str, dict[int, Contract | None]] = {}
        self._held_at: dict[tuple[str, str], float] = {}
        self._steady: dict[int, _Steady] = {}
        self._task: asyncio.Task[None] | None = None

    # --- what the test does ---

    @property
    def layout(self) -> Layout:
        """What Git says."""
        return self._layouts[-1][1]

    @property
    def blob(self) -> str | None:
        """The git blob of the document that says so."""
        return self._blob

    def kept(self) -> list[tuple[int, Process]]:
        """The daemons that were told to be ready, by index of their GPU."""
        return [(index, kept.process) for index, kept in sorted(self._kept.items())]

    def commits(self, layout: Layout, document: bytes) -> None:
        """Git is about to say this."""
        self.look()
        before = self._layouts[-1][1] if self._layouts else None
        self._layouts.append((math.inf, layout))
        self._blob = Document("", document).git_blob
        for index, want in layout.wants.items():
            if want is not None:
                key = index, want.contract.resource
                self._most[key] = max(self._most.get(key, 0), want.count)
            if before is None or before.wants[index] != want:
                self._steady.pop(index, None)
        for index, kept in self._kept.items():
            kept.excused |= layout.contract(index) != kept.contract
        self.tell(f"commit {layout}")

    def kills(self, index: int, process: Process) -> None:
        """A daemon is about to be killed."""
        self._may_end[process] = math.inf
        self._killed_at[index] = now = time.monotonic()
        if self._offered(index):
            self._owed[index] = now
        self._halted.discard(process)
        self._disturb(index, UNREST)
        self.tell(f"kill the daemon of GPU {index}, process {process.pid}")

    def halts(self, index: int, process: Process) -> None:
        """A daemon is about to be stopped, so that it does not answer and is killed sooner or later."""
        self._may_end[process] = math.inf
        self._halted.add(process)
        self._disturb(index, math.inf)
        self.tell(f"stop the daemon of GPU {index}, process {process.pid}")

    def continues(self, index: int, process: Process) -> None:
        """A daemon that was stopped is about to go on."""
        self._may_end[process] = time.monotonic() + UNREST  # it may have been given up in this moment
        self._halted.discard(process)
        self._disturb(index, UNREST)
        self.tell(f"continue the daemon of GPU {index}, process {process.pid}")

    def alters(self, index: int) -> None:
        """The limits of a daemon are about to be changed by a client."""
        self._altered.add(index)
        self._disturb(index, math.inf)
        self.tell(f"alter the limits of GPU {index}")

    def agent_starts(self) -> None:
        """An agent is about to start: it has not seen what went before."""
        self._owed.clear()
        self.tell("an agent starts")

    def _disturb(self, index: int, seconds: float) -> None:
        self._steady.pop(index, None)
        self._unrest[index] = time.monotonic() + seconds

    def tell(self, text: str) -> None:
        """Remember that this has happened."""
        self.story.append(f"{time.monotonic() - self._begun:8.3f} {text}")

    def forget(self) -> None:
        """Begin a new story, unless this one is to be told."""
        if self.faults:
            return
        self.story = []
        self.tell(f"as before: {self.layout}")

    def fault(self, text: str) -> None:
        """Something is not as it must be."""
        self.tell(f"FAULT: {text}")
        self.faults.append(text)

    def check(self) -> None:
        """Raises AssertionError when there was a fault."""
        assert not self.faults, "\n".join([*self.faults, "", *self.story])

    # --- looking ---

    async def __aenter__(self) -> Self:
        self._node.kubelet.record.on_message = self._listed
        self._task = asyncio.create_task(self._keep_looking())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._node.kubelet.record.on_message = None
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(EVERY)
            self.look()

    def look(self) -> None:
        """See how everything is now, and whether that can be."""
        if self.faults:
            return
        begun = time.monotonic()
        since = self._looked_at
        for text in (*map(str, self._node.kubelet.crashes), *map(str, self._node.kubelet.violations)):
            self.fault(text)
        desired = self._node.desired()
        observed = self._observed()
        caught_up = self._catch_up(begun)
        self._look_at_daemons(since, desired, observed, caught_up=caught_up)
        self._look_at_pods(desired)
        self._look_at_shares(desired, begun, caught_up=caught_up)
        self._looked_at = begun
        self.looks += 1

    def _observed(self) -> Observed | None:
        with suppress(FileNotFoundError):
            return self._node.observed()
        return None

    def _catch_up(self, now: float) -> bool:
        """Whether the agent has judged the newest document. Lists that follow from an earlier one may be on the way."""
        if self._blob is None or self._newest() != self._blob:
            return False
        if self._layouts[-1][0] == math.inf:
            self._layouts[-1] = now, self._layouts[-1][1]
        if len(self._layouts) > 1 and now > self._layouts[-1][0] + LAGS:
            del self._layouts[:-1]
        return True

    # --- daemons ---

    def _look_at_daemons(
        self, since: float, desired: dict[str, Contract], observed: Observed | None, *, caught_up: bool
    ) -> None:
        running = self._daemons()
        told = {} if observed is None else observed.daemons
        answered = observed is not None and observed.answers == self._asked()
        for index in range(GPUS):
            one = uuid(index)
            kept = self._kept.get(index)
            if kept is not None and kept.process not in running.get(one, ()) and not kept.process.alive():
                self._gone(index, kept, since, asked=desired.get(one))
                del self._kept[index]
                kept = None
            ready = _ready(told.get(one))
            if ready is not None and ready in running.get(one, ()) and (kept is None or kept.process != ready):
                if kept is not None:
                    self.fault(f"GPU {index}: {ready} is told to be its daemon while {kept.process} lives")
                kept = self._kept[index] = _Kept(ready, told[one].contract)
            if kept is None:
                continue
            as_asked = desired.get(one) == kept.contract
            if not as_asked:
                kept.excused = True
            elif caught_up and answered and ready == kept.process and self.layout.contract(index) == kept.contract:
                kept.excused = False

    def _gone(self, index: int, kept: _Kept, since: float, *, asked: Contract | None) -> None:
        """A daemon has ended since the last look. May it?"""
        self._dead_since.setdefault(index, time.monotonic())
        if time.monotonic() < self._may_end.get(kept.process, -math.inf):
            self._disturb(index, UNREST)
            return
        what = f"the daemon of GPU {index}, {kept.process} for {kept.contract}, has ended"
        if not kept.excused and asked == kept.contract:
            self.fault(f"{what}, and nobody has asked for anything else")
        if self._offered(index) and self._bare.get(index, -math.inf) < since:
            self.fault(f"{what} while shares of it were Healthy on the list")
        for pod in self._node.kubelet.pods:
            if pod.active and under_mps(self._pods.get(pod.uid, {}).get(index)):
                self.fault(f"{what} while {pod.name} had a share of it")

    def _daemons(self) -> dict[str, set[Process]]:
        found: dict[str, set[Process]] = {}
        for one in mps_processes(self._node.layout.root):
            if one.kind == "daemon" and one.uuid is not None:
                found.setdefault(one.uuid, set()).add(one.process)
        for index in range(GPUS):
            if found.get(uuid(index)):
                self._dead_since.pop(index, None)
        return found

    def _asked(self) -> str:
        data = atomic.read(self._node.layout.desired)
        return "" if data is None else checksum(data)

    async def limits(self) -> None:
        """See that the daemons that must stay as they are have their limits, and which were given theirs again."""
        for index in self._altered - self._kept.keys():
            self._altered.discard(index)
            self._disturb(index, UNREST)
        for index, kept in list(self._kept.items()):
            limits = kept.contract.limits
            held = any(under_mps(promised.get(index)) for promised in self._pods.values())
            if limits is None or kept.process in self._halted or (kept.excused and not held):
                continue
            try:
                found = await self._node.control(index).limits()
            except ControlError:
                continue  # it is for the host to say whether it is well: this machine may be busy
            if found.fits(*limits.times(limits.most)):
                if index in self._altered:
                    self._altered.discard(index)
                    self._disturb(index, UNREST)
            elif index not in self._altered and self._kept.get(index) is kept and kept.process.alive():
                self.fault(f"GPU {index}: its daemon has {found}, and serves {kept.contract}")

    # --- pods ---

    def _look_at_pods(self, desired: dict[str, Contract]) -> None:
        now = time.monotonic()
        known: dict[str, dict[int, Contract | None]] = {}
        for pod in self._node.kubelet.pods:
            if pod.phase is not Phase.RUNNING:
                continue
            for grants in pod.grants.values():
                for resource, grant in grants.items():
                    self._held_at.update({(resource, id_): now for id_ in grant.ids})
            serving = {index: desired.get(uuid(index)) for index in by_gpu(pod.ids())}
            if pod.uid not in self._pods:
                self._welcome(pod, serving)
            elif self._pods[pod.uid] != serving:
                self.fault(f"{pod.name} was promised {self._pods[pod.uid]}, and now there is {serving}")
            known[pod.uid] = serving
        self._pods = known
        self._held_at = {key: at for key, at in self._held_at.items() if at > now - REMEMBERED}

    def _welcome(self, pod: Pod, serving: dict[int, Contract | None]) -> None:
        """A pod was given what its GPU is asked to be, and told so."""
        for grants in pod.grants.values():
            for resource, grant in grants.items():
                for index, ids in by_gpu(grant.ids).items():
                    contract = serving[index]
                    if (resource in UNDER_MPS) is not under_mps(contract):
                        self.fault(f"{pod.name} has {ids} of {resource} where GPU {index} serves {contract}")
                    elif contract is not None and contract.limits is not None:
                        memory, threads = contract.limits.times(len(ids))
                        told = (
                            grant.envs.get("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"),
                            grant.envs.get("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
                        )
                        if told != (f"0={memory}M", str(threads)) or contract.resource != resource:
                            self.fault(f"{pod.name} is told {grant.envs} where GPU {index} serves {contract}")

    # --- shares ---

    def _listed(self, message: ListMessage) -> None:
        """A list has come in, and is what the kubelet has now."""
        if self.faults:
            return
        before = self._sent.get(message.resource, frozenset())
        self._sent[message.resource] = message.healthy
        late = time.monotonic() > self._looked_at + LATE
        for index, ids in by_gpu(message.healthy - before).items():
            if message.resource in UNDER_MPS and not late:
                self._demand_daemon(index, message.resource)
            self._demand_room(index, message.resource, ids)
        for index in range(GPUS):
            was_offered = index in self._out
            (self._out.add if self._offered(index) else self._out.discard)(index)
            if index not in self._out or not was_offered:
                self._bare[index] = message.at
        for index, steady in self._steady.items():
            if steady.resource == message.resource:
                self._demand_untouched(index, steady, message)

    def _demand_daemon(self, index: int, resource: str) -> None:
        """What is offered anew under MPS has its daemon."""
        if not self._daemons().get(uuid(index)):
            if time.monotonic() > self._killed_at.get(index, -math.inf) + NOTICED:
                self.fault(f"GPU {index}: shares of {resource} are offered, and no daemon runs")
            return
        data = atomic.read(self._node.layout.record(uuid(index)))
        serves = None if data is None else decode_record(data).contract
        asked = self._node.desired().get(uuid(index))
        if serves is None or serves != asked or serves.resource != resource:
            self.fault(f"GPU {index}: shares of {resource} are offered; it serves {serves}, and is to serve {asked}")

    def _demand_room(self, index: int, resource: str, ids: Iterable[str]) -> None:
        """What is offered anew fits into what is wanted, or into what ever was: a GPU may have to wait for its turn.
        What a pod has may come back at any time.
        """
        kubelet = self._node.kubelet
        if all((resource, id_) in self._held_at for id_ in ids):
            return
        for other in kubelet.resources():
            if other == resource:
                continue
            healthy = [id_ for id_ in ids_of(index, kubelet.devices(other)) if kubelet.devices(other)[id_]]
            if taken := [*healthy, *ids_of(index, kubelet.held(other))]:
                self.fault(f"GPU {index}: {ids} of {resource} are offered beside {taken} of {other}")
        out = {*ids_of(index, self._sent[resource]), *ids_of(index, kubelet.held(resource))}
        if len(out) > (room := self._room(index, resource)):
            self.fault(f"GPU {index}: {sorted(out)} of {resource} can be had, wanted are {room}: {ids} are new")

    def _room(self, index: int, resource: str) -> int:
        wants = [want for _, layout in self._layouts if (want := layout.wants[index]) is not None]
        wanted = max((want.count for want in wants if want.contract.resource == resource), default=0)
        return max(wanted, self._most.get((index, resource), 0)) if wants else wanted

    def _demand_untouched(self, index: int, steady: _Steady, message: ListMessage) -> None:
        """A GPU of which nothing else is asked keeps its shares."""
        if frozenset(ids_of(index, message.devices)) != steady.ids or not steady.ids <= message.healthy:
            mine = {id_: message.devices[id_] for id_ in ids_of(index, message.devices)}
            self.fault(f"GPU {index}: nothing else is asked of it, and {message.resource} is listed with {mine}")

    def _look_at_shares(self, desired: dict[str, Contract], now: float, *, caught_up: bool) -> None:
        calm = caught_up and now > self._layouts[-1][0] + LATE
        for index in range(GPUS):
            dead = self._dead_since.get(index, math.inf)
            if now > dead + UNREST + LAGS and self._offered(index):
                self.fault(f"GPU {index}: its daemon ended {now - dead:.1f} s ago, and shares of it are still offered")
            if not self._offered(index) or self._bare.get(index, -math.inf) >= self._owed.get(index, -math.inf):
                self._owed.pop(index, None)
            if now > self._owed.get(index, math.inf) + UNREST:
                self.fault(f"GPU {index}: its daemon was killed, and the kubelet was not told")
            if index not in self._steady and calm and now > self._unrest.get(index, -math.inf):
                steady = self._find_steady(index, desired)
                if steady is not None:
                    self._steady[index] = steady

    def _find_steady(self, index: int, desired: dict[str, Contract]) -> _Steady | None:
        want = self.layout.wants[index]
        if want is None or desired.get(uuid(index)) != (want.contract if under_mps(want.contract) else None):
            return None
        if under_mps(want.contract) and (index not in self._kept or self._kept[index].excused):
            return None
        kubelet, resource = self._node.kubelet, want.contract.resource
        others = [name for name in kubelet.resources() if name != resource]
        if any(any(True for _ in ids_of(index, kubelet.devices(name))) for name in others):
            return None
        devices = kubelet.devices(resource)
        ids = frozenset(ids_of(index, devices))
        return _Steady(resource, ids) if len(ids) == want.count and all(devices[id_] for id_ in ids) else None

    def _offered(self, index: int) -> bool:
        """Whether the kubelet may give away a share of this GPU under MPS."""
        return any(
            gpu_index(id_) == index and healthy
            for resource in UNDER_MPS
            for id_, healthy in self._node.kubelet.devices(resource).items()
        )


def _ready(claim: ObservedDaemon | None) -> Process | None:
    """The process that the host says is well."""
    if claim is None or claim.state is not DaemonState.READY or claim.pid is None or claim.start_time is None:
        return None
    return Process(claim.pid, claim.start_time)
