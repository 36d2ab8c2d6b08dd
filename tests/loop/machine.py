"""A node to which anything may happen in any order: the rules of DESIGN section 5 hold after each step.

Config edits, pods, lost GPUs, XIDs, restarts of the agent and the kubelet, an agent that dies between disk and stream,
plans performed half, lists that arrive late, looks that overlap with admissions, PodResources that do not answer, MPS
daemons that come and go when they please, a host of theirs that is away for a while, a state directory that is lost. At
the end everything comes to rest, and the node must be what the config says, with an empty plan.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodeagent.model.config import DEFAULT_RESOURCE, Rule, SharingConfig
from nodeagent.model.health import HealthPolicy, XidSource
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory
from nodeagent.model.kubelet import PodListing
from nodeagent.model.mps import DaemonState
from nodeagent.model.snapshot import ConfigState
from nodeagent.state.daemons import daemons
from nodeagent.state.drift import drift
from nodeagent.state.observed import MENTION_SECONDS
from tests.loop.agent import Agent, Surroundings
from tests.loop.fakes import Clock, Disk, Mount
from tests.loop.model_host import TURNED_OUT, ModelHost
from tests.loop.model_kubelet import ModelKubelet
from tests.loop.worlds import GPUS, SLICED_MIG, is_as_wanted, one_meaning, rules
from tests.state import make

LOOK_SECONDS = 2.0
MOMENTS = st.sampled_from([0.1, 0.4, 0.6, 1.0, 1.1, 2.0, 5.0, 10.0])
RESOURCES = ["nvidia.com/mig-1g.10gb", SLICED_MIG, DEFAULT_RESOURCE, make.SHARED, "example.com/whole", make.MPS]
INDICES = st.integers(0, GPUS - 1)


class Node(RuleBasedStateMachine):
    """The machine: one kubelet, and one agent after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.disk = Disk()
        self.kubelet = ModelKubelet()
        self.host = ModelHost(self.kubelet)
        self.driver_loads = 1
        self.instances: dict[int, frozenset[int]] = {}
        self.inventory = self._loaded(make.inventory(*self._all_gpus()))
        self.config: SharingConfig | None = None
        self.around = Surroundings(self.kubelet, self.host, Mount(), self.disk, self.clock)
        self.agent = Agent(self.around, self.inventory)
        self.begun: tuple[float, PodListing] | None = None
        self.listed: PodListing | None = None
        self.shows_cgroups = True

    @initialize(wanted=rules(), pods=st.lists(st.tuples(st.sampled_from(RESOURCES), st.booleans()), max_size=6))
    def starts(self, wanted: tuple[Rule, ...], pods: list[tuple[str, bool]]) -> None:
        self._edit(make.config(*wanted))
        self.works(2)
        for resource, init in pods:
            self.pod_is_admitted(resource, 1, init)

    # --- Git ---

    @rule(wanted=rules())
    def edited(self, wanted: tuple[Rule, ...]) -> None:
        self._edit(make.config(*wanted))

    @rule(index=INDICES, wanted=rules())
    def edited_for_one_gpu(self, index: int, wanted: tuple[Rule, ...]) -> None:
        before = self.config
        if before is None or len(before.rules) != GPUS:
            return
        mixed = [*before.rules]
        mixed[index] = wanted[index]
        if one_meaning(mixed):
            self._edit(replace(before, rules=tuple(mixed)))

    @rule(suspend=st.booleans())
    def suspended(self, suspend: bool) -> None:
        if self.config is not None:
            self._edit(replace(self.config, suspend=suspend))

    @rule(after=st.sampled_from([None, 5.0, 3600.0]))
    def gpus_may_recover(self, after: float | None) -> None:
        if self.config is not None:
            policy = HealthPolicy(recover_after=after, recoverable=frozenset({48}))
            self._edit(replace(self.config, health=policy))

    def _edit(self, config: SharingConfig) -> None:
        self.config = config
        self.around.mount.has(config, self.clock.now)

    # --- the agent ---

    @rule(rounds=st.integers(1, 4))
    def works(self, rounds: int) -> None:
        """Nothing happens but what the agent does all day: look, turn, and its lists arrive."""
        for _ in range(rounds):
            self.time_passes(0.5)
            self.begun = None
            self.looks()
            self.host_works()
            self.turns()
            self.lists_arrive()

    @rule()
    def turns(self) -> None:
        self.agent.settle()

    @rule(cut=st.integers(0, 6))
    def turns_half(self, cut: int) -> None:
        self.agent.turn(cut)

    @rule(cut=st.integers(0, 6), last=st.sampled_from(["", "written", "published"]), holds_lost=st.booleans())
    def agent_dies(self, cut: int, last: str, holds_lost: bool) -> None:
        """Between two turns, or in the middle of one: before the kubelet is told, or before the MPS host is."""
        if last:
            self.agent.loop.cut = cut
            self.agent.turn_and_die(shown=last == "published")
        self._disconnect()
        if holds_lost:
            self.disk.holds = None
        self._agent_starts()

    @precondition(lambda self: self.host.file == daemons(self.disk.applied, {}))
    @rule()
    def state_is_lost(self) -> None:
        """The agent's memory is gone with it, and what it asked of the MPS host is still there. So is who has what, and
        nothing that only a longer memory could tell from it.
        """
        self.kubelet.finish_admission(self.agent.desk, self.clock.now, fails=False)
        for pod in self.kubelet.pods.values():
            pod.finished |= not pod.has()
        self.kubelet.purge()
        self._has(make.inventory(*self._all_gpus()))
        self._disconnect()
        self.disk = self.around.disk = Disk(lost=True)
        self._agent_starts()

    def _disconnect(self) -> None:
        for resource in self.agent.streams.served:
            self.kubelet.disconnect(resource)

    def _agent_starts(self) -> None:
        self.begun = self.listed = None
        self.disk.lost |= not self.disk.writable  # what it has not written since is lost
        most = self.agent.most
        self.agent = Agent(self.around, self.inventory)
        self.agent.most = most
        self.around.same_boot = True

    @precondition(lambda self: not self.disk.lost)
    @rule(taken_out=st.none() | INDICES)
    def node_reboots(self, taken_out: int | None) -> None:
        """Pods come back with what they had, but those whose GPU is gone; what is known of pods is of another boot."""
        self.kubelet.restart(reboots=True)
        self.host.reboots()
        self.disk.holds = None
        if taken_out is not None:
            self.gpu_drops_out(taken_out, complete=True)
            for pod in self.kubelet.pods.values():
                pod.finished |= any(share.partition("::")[0] == make.uuid_of(taken_out) for share in pod.ids)
        self.around.same_boot = False
        self._agent_starts()

    # --- looks at the kubelet ---

    @rule()
    def looks(self) -> None:
        self.look_begins()
        self.look_ends(True)

    @precondition(lambda self: self.begun is None)
    @rule()
    def look_begins(self) -> None:
        now = self.clock.now
        self.begun = now, PodListing(now, self.kubelet.name, self.kubelet.holders(), self.kubelet.allocatable())

    @precondition(lambda self: self.begun is not None)
    @rule(at_once=st.booleans())
    def look_ends(self, at_once: bool) -> None:
        """`List` was answered when the look began; the kubelet's healthy ids then or now; the checkpoint is of now."""
        assert self.begun is not None
        _, listing = self.begun
        self.begun = None
        if listing.kubelet != self.kubelet.name:
            self.agent.fail_look()
            return
        allocatable = listing.allocatable if at_once else self.kubelet.allocatable()
        checkpoint = frozenset(self.kubelet.checkpoint)
        listing = replace(listing, allocatable=allocatable, checkpoint=checkpoint, cgroups=self._cgroups())
        self.listed = listing
        self.agent.take_in(listing)

    @precondition(lambda self: self.listed is not None and self.listed.kubelet == self.kubelet.name)
    @rule()
    def looks_by_get(self) -> None:
        """Who was named by the last `List` of this kubelet and has not ended; and what the checkpoint says of all."""
        assert self.listed is not None
        named = {holder.name for holder in self.listed.holders}
        holders = tuple(holder for holder in self.kubelet.holders() if holder.name in named)
        checkpoint = frozenset(self.kubelet.checkpoint)
        self.agent.take_in(
            PodListing(
                self.clock.now,
                self.kubelet.name,
                holders,
                self.kubelet.allocatable(),
                checkpoint,
                self.listed.listed_at,
                cgroups=self._cgroups(),
            )
        )

    def _cgroups(self) -> frozenset[str] | None:
        return self.kubelet.cgroups() if self.shows_cgroups else None

    @rule(shows=st.booleans())
    def cgroups_are_seen(self, shows: bool) -> None:
        self.shows_cgroups = shows

    @rule()
    def look_fails(self) -> None:
        self.begun = None
        self.agent.fail_look()

    # --- the kubelet and its pods ---

    @rule(resource=st.sampled_from(RESOURCES))
    def list_arrives(self, resource: str) -> None:
        self.kubelet.arrive(resource)

    @rule()
    def lists_arrive(self) -> None:
        self.kubelet.arrive_all()

    @precondition(lambda self: self.kubelet.admission is None and self.kubelet.choices())
    @rule(data=st.data(), size=st.integers(1, 2), init=st.booleans())
    def pod_comes(self, data: st.DataObject, size: int, init: bool) -> None:
        """The first half of an admission: its ids are chosen."""
        resource = data.draw(st.sampled_from(self.kubelet.choices()))
        self.kubelet.begin_admission(self.agent.desk, resource, size, self.clock.now, init=init, ask=True)

    @precondition(lambda self: self.kubelet.admission is None and self.kubelet.choices())
    @rule(data=st.data(), count=st.integers(1, 4), init=st.booleans(), ask=st.booleans())
    def pods_come(self, data: st.DataObject, count: int, init: bool, ask: bool) -> None:
        """Pods are admitted at once, by GetPreferredAllocation or by the kubelet's own choice."""
        for _ in range(count):
            if choices := self.kubelet.choices():
                resource = data.draw(st.sampled_from(choices))
                self.pod_is_admitted(resource, 1, init, ask=ask)

    def pod_is_admitted(self, resource: str, size: int, init: bool, *, ask: bool = True) -> None:
        self.kubelet.begin_admission(self.agent.desk, resource, size, self.clock.now, init=init, ask=ask)
        self.kubelet.finish_admission(self.agent.desk, self.clock.now, fails=False)

    @precondition(lambda self: self.kubelet.admission is not None)
    @rule(fails=st.booleans())
    def pod_gets_its_shares(self, fails: bool) -> None:
        self.kubelet.finish_admission(self.agent.desk, self.clock.now, fails=fails)

    @precondition(lambda self: self.kubelet.pods)
    @rule(data=st.data())
    def pod_ends(self, data: st.DataObject) -> None:
        self.kubelet.pods[data.draw(st.sampled_from(sorted(self.kubelet.pods)))].finished = True

    @precondition(lambda self: self.kubelet.pods)
    @rule(data=st.data())
    def init_container_ends(self, data: st.DataObject) -> None:
        self.kubelet.pods[data.draw(st.sampled_from(sorted(self.kubelet.pods)))].initialising = False

    @rule()
    def kubelet_restarts(self) -> None:
        self.kubelet.restart()

    @rule()
    def kubelet_knows_its_pods(self) -> None:
        self.kubelet.learns_pods()

    # --- MPS ---

    @rule()
    def host_works(self) -> None:
        """The host does what it can, and the agent sees what has come of it."""
        self.host.works()
        self.agent.daemons.looks()

    @rule()
    def host_reads(self) -> None:
        self.host.reads()

    @precondition(lambda self: self.host.daemons)
    @rule(data=st.data(), outcome=st.sampled_from(TURNED_OUT))
    def daemon_moves(self, data: st.DataObject, outcome: DaemonState) -> None:
        self.host.moves(data.draw(st.sampled_from(sorted(self.host.daemons))), outcome)

    @rule()
    def host_is_seen(self) -> None:
        self.agent.daemons.looks()

    @precondition(lambda self: self.host.daemons)
    @rule(data=st.data(), noticed=st.booleans())
    def daemon_dies(self, data: st.DataObject, noticed: bool) -> None:
        uuid = data.draw(st.sampled_from(sorted(self.host.daemons)))
        self.host.daemon_dies(uuid)
        if noticed:
            self.host.moves(uuid)

    @precondition(lambda self: self.host.daemons)
    @rule(data=st.data())
    def limits_are_altered(self, data: st.DataObject) -> None:
        """A client changes what the daemon allows, until the host restores it."""
        one = self.host.daemons[data.draw(st.sampled_from(sorted(self.host.daemons)))]
        if one.ready:
            one.altered = "1 %"

    @rule()
    def host_goes(self) -> None:
        self.host.dies()

    @rule()
    def host_comes(self) -> None:
        self.host.returns()

    # --- the hardware ---

    @rule(index=INDICES, health=st.sampled_from(GpuHealth), forgets_mig=st.booleans())
    def gpu_changes_health(self, index: int, health: GpuHealth, forgets_mig: bool) -> None:
        """A driver may know nothing of the MIG devices of a GPU that does not answer, nor that MIG is in force."""
        ill = health is not GpuHealth.OK
        found = [make.gpu(index, health=health)] if ill and forgets_mig else self._silicon(index, health)
        self._has(make.inventory(*(one for one in self.inventory.gpus if one.physical != make.uuid_of(index)), *found))

    @precondition(lambda self: not self.disk.lost)
    @rule(index=INDICES, complete=st.booleans())
    def gpu_drops_out(self, index: int, complete: bool) -> None:
        left = [one for one in self.inventory.gpus if one.physical != make.uuid_of(index)]
        order = list(dict.fromkeys(one.physical for one in left))
        shifted = [replace(one, index=order.index(one.physical)) for one in left]
        self._has(make.inventory(*shifted, complete=complete))

    @rule(index=INDICES, instances=st.none() | st.frozensets(st.integers(1, 4), max_size=3))
    def mig_changes(self, index: int, instances: frozenset[int] | None) -> None:
        """A GPU is divided, its instances are made and destroyed, and it is made whole again (None)."""
        if any(one.uuid == make.uuid_of(index) and one.health is not GpuHealth.OK for one in self.inventory.gpus):
            return
        self.instances.pop(index, None)
        if instances is not None:
            self.instances[index] = instances
        others = [one for one in self.inventory.gpus if one.physical != make.uuid_of(index)]
        self._has(make.inventory(*others, *self._silicon(index)))

    def _silicon(self, index: int, health: GpuHealth = GpuHealth.OK) -> list[Gpu]:
        """A GPU, with its MIG devices if it has any."""
        if index not in self.instances:
            return [make.gpu(index, health=health)]
        message = "" if health is GpuHealth.OK else f"it is {health.value}"
        parts = [make.mig(index, instance) for instance in sorted(self.instances[index])]
        return [make.with_mig(index, health=health), *(replace(one, health=health, message=message) for one in parts)]

    def _all_gpus(self) -> list[Gpu]:
        return [one for index in range(GPUS) for one in self._silicon(index)]

    # --- the disk and the clock ---

    @rule(writable=st.booleans())
    def disk_fills_or_has_room(self, writable: bool) -> None:
        self.disk.writable = writable

    @rule(seconds=st.sampled_from([-86400.0, -3600.0, 3600.0, 86400.0]))
    def wall_clock_is_set(self, seconds: float) -> None:
        self.clock.ahead += seconds

    @rule(index=INDICES, xid=st.sampled_from([13, 48, 79]))
    def gpu_reports(self, index: int, xid: int) -> None:
        """An XID, critical or not, which an agent that dies before its next turn has not taken in."""
        self.agent.reports(XidSource(make.uuid_of(index), xid))

    @rule(index=INDICES)
    def gpu_is_cleared(self, index: int) -> None:
        self.agent.clear(make.uuid_of(index))

    @rule()
    def driver_is_loaded_anew(self) -> None:
        self.driver_loads += 1
        self._has(self.inventory)

    def _has(self, inventory: Inventory) -> None:
        self.inventory = self.agent.driver.inventory = self._loaded(inventory)

    def _loaded(self, inventory: Inventory) -> Inventory:
        return replace(inventory, driver_load=f"{self.driver_loads}")

    # --- time ---

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds: float) -> None:
        """An admission under way takes less than two seconds, as does a look."""
        then = self.clock.now + seconds
        if self.kubelet.admission is not None and then >= self.kubelet.admission.begun_at + MENTION_SECONDS:
            self.kubelet.finish_admission(self.agent.desk, self.clock.now, fails=False)
        if self.begun is not None and then >= self.begun[0] + LOOK_SECONDS:
            self.look_ends(False)
        self.clock.now = then

    @rule()
    def an_hour_passes(self) -> None:
        """By then init containers have ended, and a kubelet that restarted knows its pods."""
        self.time_passes(2.0)
        for pod in self.kubelet.pods.values():
            pod.initialising = False
        self.kubelet.learns_pods()
        self.looks()
        self.clock.now += 3600.0

    # --- what must hold ---

    @invariant()
    def rules_hold(self) -> None:
        self.agent.check()

    def teardown(self) -> None:
        """Pods end, GPUs return and are reset, everything answers: the node becomes what the config says."""
        if self.config is None:
            return
        self.kubelet.finish_admission(self.agent.desk, self.clock.now, fails=False)
        self.kubelet.learns_pods()
        self.host.returns()
        self.disk.writable = True
        self._has(make.inventory(*self._all_gpus()))
        self.agent.settle()
        self.driver_is_loaded_anew()
        self._edit(replace(self.config, suspend=False))
        for pod in self.kubelet.pods.values():
            pod.finished = True
        self.kubelet.purge()
        self._come_to_rest()
        self.rules_hold()

    def _come_to_rest(self) -> None:
        made = self.agent.turn()
        for _ in range(40):
            self.clock.now += 0.5
            self.kubelet.arrive_all()
            self.begun = None
            self.looks()
            self.host_works()
            made = self.agent.settle()
            if made.converged and self.host.file == self.host.wishes:
                break
        note(f"{made}\n{self.agent.applied}")
        assert made.converged, "the node does not become what the config says"
        agent = self.agent
        assert agent.desired is not None
        assert is_as_wanted(agent)
        for uuid, want in agent.desired.wants.items():
            entry = agent.applied.gpus[uuid]
            if want.contract is not None:
                assert entry.max_shares_per_container == want.rule.max_shares_per_container
        assert agent.streams.served == agent.desired.resources()
        self._daemons_are_as_wanted()
        found = drift(
            config=ConfigState("config"),
            desired=agent.desired,
            applied=agent.applied,
            inventory=self.inventory,
            mps=agent.mps,
            registrations=(),
            views={},
        )
        assert not found[1:], found

    def _daemons_are_as_wanted(self) -> None:
        """One for each GPU under MPS, ready under the contract of its shares, and no other."""
        desired = self.agent.desired
        assert desired is not None
        under_mps = {
            uuid: want.contract
            for uuid, want in desired.wants.items()
            if want.contract is not None and want.contract.limits is not None
        }
        assert self.host.file == under_mps
        assert {uuid: one.contract for uuid, one in self.host.daemons.items()} == under_mps
        assert all(one.ready for one in self.host.daemons.values())
