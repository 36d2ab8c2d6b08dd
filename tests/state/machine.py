"""A node to which anything may happen in any order: the rules of DESIGN section 5 hold after each step.

Config edits, pods, lost GPUs, restarts of the agent and the kubelet, an agent that dies between disk and stream, plans
performed half, lists that arrive late, looks that overlap with admissions, PodResources that do not answer. At the end
everything comes to rest, and the node must be what the config says, with an empty plan.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nodeagent.model.config import DEFAULT_RESOURCE, Rule, SharingConfig
from nodeagent.model.inventory import GpuHealth, Inventory
from nodeagent.model.kubelet import PodListing
from nodeagent.model.snapshot import ConfigState
from nodeagent.state.drift import drift
from nodeagent.state.nodegpus import unseen
from nodeagent.state.observed import MENTION_SECONDS
from tests.state import make
from tests.state.model_agent import Clock, Disk, ModelAgent
from tests.state.model_kubelet import ModelKubelet
from tests.state.worlds import GPUS, is_as_wanted, rules

LOOK_SECONDS = 2.0
MOMENTS = st.sampled_from([0.1, 0.4, 0.6, 1.0, 1.1, 2.0, 5.0, 10.0])
RESOURCES = [DEFAULT_RESOURCE, make.SHARED, "example.com/whole"]


class Node(RuleBasedStateMachine):
    """The machine: one kubelet, and one agent after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.disk = Disk()
        self.kubelet = ModelKubelet()
        self.inventory = make.inventory(*(make.gpu(index) for index in range(GPUS)))
        self.config: SharingConfig | None = None
        self.agent = ModelAgent(self.kubelet, self.clock, self.disk, self.inventory)
        self.begun: tuple[float, PodListing] | None = None

    @initialize(wanted=rules(), pods=st.lists(st.tuples(st.sampled_from(RESOURCES), st.booleans()), max_size=6))
    def starts(self, wanted: tuple[Rule, ...], pods: list[tuple[str, bool]]) -> None:
        self._edit(make.config(*wanted))
        self.works(1)
        for resource, init in pods:
            self.pod_is_admitted(resource, 1, init)

    # --- Git ---

    @rule(wanted=rules())
    def edited(self, wanted: tuple[Rule, ...]) -> None:
        self._edit(make.config(*wanted))

    @rule(index=st.integers(0, GPUS - 1), wanted=rules())
    def edited_for_one_gpu(self, index: int, wanted: tuple[Rule, ...]) -> None:
        before = self.config
        if before is None or len(before.rules) != GPUS:
            return
        mixed = [*before.rules]
        mixed[index] = wanted[index]
        whole = {one.contract.resource: one.contract for one in mixed if one.contract is not None}
        if all(one.contract is None or whole[one.contract.resource] == one.contract for one in mixed):
            self._edit(replace(before, rules=tuple(mixed)))

    @rule(suspend=st.booleans())
    def suspended(self, suspend: bool) -> None:
        if self.config is not None:
            self._edit(replace(self.config, suspend=suspend))

    def _edit(self, config: SharingConfig) -> None:
        self.config = self.agent.config = config

    # --- the agent ---

    @rule(rounds=st.integers(1, 4))
    def works(self, rounds: int) -> None:
        """Nothing happens but what the agent does all day: look, turn, and its lists arrive."""
        for _ in range(rounds):
            self.time_passes(0.5)
            self.begun = None
            self.looks()
            self.turns()
            self.lists_arrive()

    @rule()
    def turns(self) -> None:
        self.agent.settle()

    @rule(cut=st.integers(0, 6))
    def turns_half(self, cut: int) -> None:
        self.agent.turn(cut)

    @rule(cut=st.integers(0, 6), written=st.booleans(), holds_lost=st.booleans())
    def agent_dies(self, cut: int, written: bool, holds_lost: bool) -> None:
        if written:
            self.agent.turn(cut, publish=False)
        for resource in self.agent.registered:
            self.kubelet.disconnect(resource)
        if holds_lost:
            self.disk.holds = None
        self._agent_starts()

    def _agent_starts(self) -> None:
        self.begun = None
        most = self.agent.most
        self.agent = ModelAgent(self.kubelet, self.clock, self.disk, self.inventory)
        self.agent.config, self.agent.most = self.config, most

    @rule(taken_out=st.none() | st.integers(0, GPUS - 1))
    def node_reboots(self, taken_out: int | None) -> None:
        """Pods come back with what they had, but those whose GPU is gone; what is known of pods is of another boot."""
        self.kubelet.restart()
        self.disk.holds = None
        if taken_out is not None:
            self.gpu_drops_out(taken_out, complete=True)
            for pod in self.kubelet.pods.values():
                pod.finished |= any(share.partition("::")[0] == make.uuid_of(taken_out) for share in pod.ids)
        self.disk.applied = unseen(self.disk.applied)
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
        listing = replace(listing, allocatable=allocatable, checkpoint=frozenset(self.kubelet.checkpoint))
        self.agent.take_in(listing)

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
        self.kubelet.begin_admission(self.agent, resource, size, self.clock.now, init=init, ask=True)

    @precondition(lambda self: self.kubelet.admission is None and self.kubelet.choices())
    @rule(data=st.data(), count=st.integers(1, 4), init=st.booleans(), ask=st.booleans())
    def pods_come(self, data: st.DataObject, count: int, init: bool, ask: bool) -> None:
        """Pods are admitted at once, by GetPreferredAllocation or by the kubelet's own choice."""
        for _ in range(count):
            if choices := self.kubelet.choices():
                resource = data.draw(st.sampled_from(choices))
                self.pod_is_admitted(resource, 1, init, ask=ask)

    def pod_is_admitted(self, resource: str, size: int, init: bool, *, ask: bool = True) -> None:
        self.kubelet.begin_admission(self.agent, resource, size, self.clock.now, init=init, ask=ask)
        self.kubelet.finish_admission(self.agent, self.clock.now, fails=False)

    @precondition(lambda self: self.kubelet.admission is not None)
    @rule(fails=st.booleans())
    def pod_gets_its_shares(self, fails: bool) -> None:
        self.kubelet.finish_admission(self.agent, self.clock.now, fails=fails)

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
        self.kubelet.knows_pods = True

    # --- the hardware ---

    @rule(index=st.integers(0, GPUS - 1), health=st.sampled_from(GpuHealth))
    def gpu_changes_health(self, index: int, health: GpuHealth) -> None:
        gpus = {one.uuid: one for one in self.inventory.gpus}
        gpus[make.uuid_of(index)] = make.gpu(index, health=health)
        self._has(make.inventory(*gpus.values()))

    @rule(index=st.integers(0, GPUS - 1), complete=st.booleans())
    def gpu_drops_out(self, index: int, complete: bool) -> None:
        left = [one for one in self.inventory.gpus if one.uuid != make.uuid_of(index)]
        shifted = [replace(one, index=position) for position, one in enumerate(left)]
        self._has(make.inventory(*shifted, complete=complete))

    def _has(self, inventory: Inventory) -> None:
        self.inventory = self.agent.inventory = inventory

    # --- time ---

    @rule(seconds=MOMENTS)
    def time_passes(self, seconds: float) -> None:
        """An admission under way takes less than two seconds, as does a look."""
        then = self.clock.now + seconds
        if self.kubelet.admission is not None and then >= self.kubelet.admission.begun_at + MENTION_SECONDS:
            self.kubelet.finish_admission(self.agent, self.clock.now, fails=False)
        if self.begun is not None and then >= self.begun[0] + LOOK_SECONDS:
            self.look_ends(False)
        self.clock.now = then

    @rule()
    def an_hour_passes(self) -> None:
        """By then init containers have ended, and a kubelet that restarted knows its pods."""
        self.time_passes(2.0)
        for pod in self.kubelet.pods.values():
            pod.initialising = False
        self.kubelet.knows_pods = True
        self.looks()
        self.clock.now += 3600.0

    # --- what must hold ---

    @invariant()
    def rules_hold(self) -> None:
        self.agent.check()

    def teardown(self) -> None:
        """Pods end, GPUs return, everything answers: the node becomes what the config says."""
        if self.config is None:
            return
        self.kubelet.finish_admission(self.agent, self.clock.now, fails=False)
        self.kubelet.knows_pods = True
        self._has(make.inventory(*(make.gpu(index) for index in range(GPUS))))
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
            made = self.agent.settle()
            if made.converged:
                break
        note(f"{made}\n{self.agent.applied}\n{self.agent.holds}")
        assert made.converged, "the node does not become what the config says"
        agent = self.agent
        assert agent.desired is not None
        assert is_as_wanted(agent)
        for uuid, want in agent.desired.wants.items():
            entry = agent.applied.gpus[uuid]
            if want.contract is not None:
                assert entry.max_shares_per_container == want.rule.max_shares_per_container
        assert agent.registered == agent.desired.resources()
        assert not drift(
            config=ConfigState("config"),
            desired=agent.desired,
            applied=agent.applied,
            inventory=self.inventory,
            registrations=(),
            views={},
        )[1:]
