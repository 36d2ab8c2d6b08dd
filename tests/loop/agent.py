"""The agent's own loop among fakes of what it deals with: one run of it, from its start to its end.

The `Reconciler`, with the desk, the disk's keeper and the executor that it really has, takes a turn when it is told to.
Each of its plans is held against the rules of the design, section 5, worked out here a second time and from the other
end: from what the plan's actions do, not from how they were found.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nodeagent.clearing import Clearing
from nodeagent.desk import FrontDesk
from nodeagent.executor import SAFE_UNWRITTEN, Executor, Performed, share_actions
from nodeagent.model.config import Contract
from nodeagent.model.handover import HandOver
from nodeagent.model.health import APPLICATION_XIDS, HealthPolicy, XidSource
from nodeagent.model.holds import ShareKey
from nodeagent.model.inventory import GpuHealth, Inventory
from nodeagent.model.kubelet import PodListing, PodResourcesReason
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.model.plan import (
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Limit,
    Plan,
    Release,
    Remember,
    ShareAction,
    Start,
    Verdict,
)
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import Snapshot
from nodeagent.reconciler import Reconciler, Remembered
from nodeagent.state import grants, holds
from nodeagent.state.daemons import verified
from nodeagent.state.desired import Desired
from nodeagent.state.effect import perform
from nodeagent.state.health import PLACED_WITHIN
from nodeagent.state.observed import Observed, holdings
from nodeagent.state.summarize import Identity
from tests.loop.fakes import Clock, Died, Disk, Driver, HostDirectory, Looks, Mount, NodeObject, Streams, Tally
from tests.loop.model_host import ROOT, ModelHost, ModelView
from tests.loop.model_kubelet import ModelKubelet, Pod

_LOOP = asyncio.new_event_loop()

HARMLESS = Remember | Diagnose | Limit | Verdict
"""What does nothing to the shares of a GPU."""


@dataclass
class Surroundings:
    """What outlives an agent: the kubelet, the MPS host, the mount, the disk, time. `same_boot` as in Remembered."""

    kubelet: ModelKubelet
    host: ModelHost
    mount: Mount
    disk: Disk
    clock: Clock
    same_boot: bool = True


class Daemons(ModelView):
    """The MPS host as the agent deals with it; `dies` ends the agent before the host is asked for anything."""

    def __init__(self, agent: Agent, host: ModelHost) -> None:
        super().__init__(host)
        self._agent = agent
        self.dies = False

    @property
    def status(self) -> MpsStatus:
        return self.known()

    def want(self, daemons: Mapping[str, Contract], *, prepare: bool = False) -> None:
        if self.dies:
            raise Died
        self._agent.examine_daemons(daemons)
        self.asks(daemons)


class HalfExecutor(Executor):
    """Performs the first `cut` share actions of a plan only, if it is told so."""

    cut: int | None = None

    async def apply(self, applied: Applied, actions: Sequence[ShareAction]) -> Performed:
        return await super().apply(applied, actions[: self.cut])


class Loop(Reconciler):
    """The reconciler, whose plans are examined before they are performed, `cut` actions of each if it is told so."""

    examine: Agent
    cut: int | None = None

    async def _perform(self, plan: Plan, view: Observed) -> None:
        self.examine.examine(view, plan)
        half = HalfExecutor(self._keeper, self._plugins, clock=self._clock)
        half.cut = self.examine.whole(view, plan, self.cut)
        self._executor = half
        await super()._perform(plan, view)

    @property
    def applied(self) -> Applied:
        return self._applied

    @property
    def desired(self) -> Desired | None:
        return self._desired

    @property
    def wishes(self) -> Desired | None:
        """What is wanted; where what is applied is kept, what was wanted last."""
        return self._desired if self._desired is not None else self._wishes

    @property
    def policy(self) -> HealthPolicy:
        """By what XIDs are judged."""
        return self._health_policy() or HealthPolicy()

    def gives_up_writes_after(self, seconds: float) -> None:
        """How long the state directory may take from now on."""
        self._keeper._deadline = seconds  # noqa: SLF001

    @property
    def writes(self) -> bool:
        """Whether a write has not returned yet."""
        _LOOP.run_until_complete(asyncio.sleep(0))
        return self._keeper._errand.busy  # noqa: SLF001

    @property
    def woken(self) -> bool:
        """Whether another turn is due at once."""
        return self._wake.is_set()

    def known(self, now: float) -> frozenset[ShareKey]:
        """The shares that it takes for held."""
        return holds.held(self._holds, now)


class Agent:
    """One run of the agent; `desk` answers the kubelet's questions. `turns` counts those of all of them."""

    turns = 0

    def __init__(self, around: Surroundings, inventory: Inventory) -> None:
        self.around = around
        self.kubelet, self.disk, self.clock = around.kubelet, around.disk, around.clock
        self.driver = Driver(inventory)
        self.looks = Looks()
        self.daemons = Daemons(self, around.host)
        self.node = NodeObject()
        self.tally = Tally()
        self.clearing = Clearing(wake=lambda: None)
        self.desk = FrontDesk(clock=around.clock.monotonic, wake=lambda: None)
        self.streams = Streams(around.kubelet, self.desk)
        around.disk.clock = around.clock
        before, known = around.disk.load(same_boot=around.same_boot)
        self.loop = Loop(
            Identity("node", None, "test", "sharing.yaml", around.clock.now),
            source=around.mount,
            devices=self.driver,
            pods=self.looks,
            plugins=self.streams,
            daemons=self.daemons,
            desk=self.desk,
            clearing=self.clearing,
            host=HostDirectory(),
            node=self.node,
            handover=HandOver(),
            store=around.disk,
            counters=self.tally,
            remembered=Remembered(
                applied=before,
                holds=known,
                last_known_good=around.mount.read(around.disk.document),
                daemons=around.host.file or {},
                same_boot=around.same_boot,
            ),
            wake=asyncio.Event(),
            clock=around.clock.monotonic,
        )
        self.loop.examine = self
        self.most: dict[tuple[str, Contract], int] = {
            (uuid, one.contract): len(one.numbers) for uuid, one in before.gpus.items() if one.contract is not None
        }
        self.views: list[Observed] = []
        self.due: float | None = None
        self.cleared: set[str] = set()
        self.news: set[XidSource] = set()

    # --- what is known of it ---

    @property
    def applied(self) -> Applied:
        return self.loop.applied

    @property
    def desired(self) -> Desired | None:
        return self.loop.desired

    @property
    def snapshot(self) -> Snapshot:
        assert self.loop.snapshot is not None
        return self.loop.snapshot

    @property
    def plan(self) -> Plan:
        """The newest plan: what is still to be done, and what is waited for."""
        return self.snapshot.plan

    @property
    def mps(self) -> MpsStatus:
        return self.daemons.status

    def known(self) -> frozenset[ShareKey]:
        """Shares that the agent takes for held."""
        return self.loop.known(self.clock.now)

    def condition(self, type_: str) -> str:
        """The reason of a condition."""
        found = self.snapshot.condition(type_)
        assert found is not None, f"there is no condition {type_}"
        return found.reason

    # --- what it learns ---

    def take_in(self, listing: PodListing) -> None:
        """A look at PodResources has ended."""
        self.looks.end(listing)

    def fail_look(self) -> None:
        """PodResources cannot be read."""
        self.looks.fail()

    def reports(self, source: XidSource) -> None:
        """The driver reports an XID."""
        self.driver.reports(source, self.clock.now)
        self.news.add(source)

    def clear(self, uuid: str) -> None:
        """A person says that a GPU is well; refused where nothing stands against it."""
        entry = self.applied.gpus.get(uuid)
        if entry is None or not entry.xids or entry.gpu.mig is not None:
            return
        self._clearing_task = _LOOP.create_task(self.clearing.clear(uuid, self.applied))
        _LOOP.run_until_complete(asyncio.sleep(0))
        self.cleared.add(uuid)

    # --- a turn ---

    def turn(self, cut: int | None = None) -> Plan:
        """Take one, of whose plans only so many actions are performed."""
        Agent.turns += 1
        self.loop.cut = cut
        self.views.clear()
        before, load = self.applied, self.driver.inventory.driver_load
        self.due = _LOOP.run_until_complete(self.loop.turn())
        self._examine_verdicts(before, load, cut)
        if cut is None:
            self._examine_lists()
            # What is taken over is remembered by the next agent when it has been written.
            self.disk.lost &= self.looks.status.reason is not PodResourcesReason.LISTED or not self.disk.writable
        return self.plan

    def looks_ahead(self) -> Observed:
        """What it sees as it begins the turn that it takes now."""
        self.turn()
        return self.views[0]

    def turn_and_die(self, *, shown: bool) -> None:
        """Take a turn, in which it dies: before the kubelet is shown anything, or (`shown`) before the MPS host is."""
        self.streams.dies, self.daemons.dies = not shown, True
        with contextlib.suppress(Died):
            _LOOP.run_until_complete(self.loop.turn())
        self.streams.dies = self.daemons.dies = False

    def settle(self, rounds: int = 10) -> Plan:
        """Turns without anything happening in between: they must come to an end. What a disk that cannot be written
        holds up stays in the plan.
        """
        made = self.turn()
        for _ in range(rounds):
            before = self.applied
            if not made.actions:
                return made
            made = self.turn()
            if not self.disk.writable and self.applied == before:
                return made
        raise AssertionError(f"the plan does not come to an end: {made}")

    def whole(self, view: Observed, made: Plan, cut: int | None) -> int | None:
        """What is taken over when the state directory was lost is never taken over in part: a plan's share actions are
        written as one, and what is remembered of a node would count for more than what nobody remembers.
        """
        found = [
            number
            for number, one in enumerate(share_actions(made.actions), 1)
            if isinstance(one, Adopt) and (self.disk.lost or one.uuid in view.orphans)
        ]
        return cut if cut is None else max([cut, *found])

    # --- the rules, from the other end ---

    def examine(self, view: Observed, made: Plan) -> None:
        """A plan that is about to be performed."""
        self.views.append(view)
        assert not made.refused, f"a plan was refused: {made.refused}"
        # What a disk that cannot be written holds up is planned, and not done.
        shares = [one for one in share_actions(made.actions) if self.disk.writable or isinstance(one, SAFE_UNWRITTEN)]
        after = perform(view.applied, shares, view.now)
        self._forget_most(view.applied)
        self._note_most(view.applied)
        self._note_most(after)
        really = self.kubelet.held()
        for action in shares:
            if isinstance(action, Drop):
                self._examine_drop(view, action, really)
            if isinstance(action, Advertise):
                self._examine_daemon(view, action)
        for uuid, entry in view.applied.gpus.items():
            have = after.gpus.get(uuid)
            if holdings(entry, [key for key in really if key[1].partition("::")[0] == uuid]).own:
                assert have is not None, "a GPU was forgotten that a pod has"
                assert have.contract == entry.contract, "the contract of a held share changed"
            if self.desired is None:
                done = [one for one in shares if uuid_of(one) == uuid and isinstance(one, Fence | Drop | Limit)]
                assert not done, "something was taken away without a desired state"
                begun = [one for one in shares if uuid_of(one) == uuid and isinstance(one, Release | Start | Advertise)]
                assert not (begun and entry.numbers), "a GPU changed its contract without a desired state"
                continue
            want = self.desired.wants.get(uuid)
            known = [key for key in view.held if key[1].partition("::")[0] == uuid]
            in_place = (
                want is not None
                and (entry.contract, len(entry.numbers)) == (want.contract, want.count)
                and not (entry.fences or entry.leaving)
                and holdings(entry, known).own <= entry.numbers
                and not (known and entry.contract is None)
                and not view.lists(holdings(entry, known).others)
            )
            if in_place:
                touched = [one for one in shares if uuid_of(one) == uuid and not isinstance(one, HARMLESS)]
                assert not touched, f"a GPU that does not change was touched: {touched}"
            if have is None or have.contract is None:
                continue
            own = holdings(have, known).own
            out = len((have.numbers - have.fences.keys()) | own)
            before = (entry.numbers - entry.fences.keys()) | holdings(entry, known).own
            wanted = self._wanted(uuid, have.contract)
            leaving = want is None or want.contract != have.contract
            most = self.most.get((uuid, have.contract), 0) if leaving else 0
            assert out <= max(wanted, len(before), len(own), most), f"{out} can be handed out where {wanted} are wanted"
            offered_now = (have.numbers - have.fences.keys()) - (entry.numbers - entry.fences.keys())
            if out > max(wanted, most):
                assert offered_now <= own, "a free share was offered although there are too many already"

    def examine_daemons(self, wanted: Mapping[str, Contract]) -> None:
        """The MPS host is about to be asked for these daemons."""
        for uuid, contract in (self.daemons.wanted or {}).items():
            if wanted.get(uuid) == contract:
                continue
            served = contract.resource in self.streams.served
            told = self.kubelet.told.get(contract.resource, {}) if served else {}
            assert not any(share.partition("::")[0] == uuid for share in told), "a daemon leaves before its shares"
            assert not any(key[1].partition("::")[0] == uuid for key in self.known()), "a daemon leaves that a pod has"

    def _forget_most(self, applied: Applied) -> None:
        """What was to be under contracts that have ended. What a plan ends may go on, where it is done in part."""
        contracts = {uuid: entry.contract for uuid, entry in applied.gpus.items()}
        self.most = {key: count for key, count in self.most.items() if contracts.get(key[0], key[1]) == key[1]}

    def _note_most(self, applied: Applied) -> None:
        """How many shares a GPU was ever to have, under its contract."""
        for uuid, entry in applied.gpus.items():
            if entry.contract is not None:
                key = uuid, entry.contract
                adopted = holdings(entry, (one for one in self.known() if one[1].partition("::")[0] == uuid)).own
                self.most[key] = max(self.most.get(key, 0), self._wanted(uuid, entry.contract), len(adopted))

    def _wanted(self, uuid: str, contract: Contract | None) -> int:
        wishes = self.loop.wishes
        want = wishes.wants.get(uuid) if wishes is not None else None
        return want.count if want is not None and want.contract == contract else 0

    def _examine_drop(self, view: Observed, action: Drop, really: set[ShareKey]) -> None:
        entry = view.applied.gpus[action.uuid]
        assert entry.contract is not None
        allocatable = self.kubelet.allocatable().get(entry.contract.resource, frozenset())
        for number, share in zip(sorted(action.numbers), entry.ids(action.numbers), strict=True):
            assert number in entry.fences, "dropped without a fence"
            assert (entry.contract.resource, share) not in really, "dropped what a pod has"
            assert view.now >= entry.fences[number] + 1.0
            assert share not in allocatable
            assert view.readable

    def _examine_daemon(self, view: Observed, action: Advertise) -> None:
        daemon = self.daemons.host.daemons.get(action.uuid)
        if action.contract.limits is None:
            assert daemon is None, f"{action.contract} was offered beside an MPS daemon: {daemon}"
        else:
            assert daemon is not None, f"{action.contract} was offered without a daemon"
            assert daemon.ready, f"{action.contract} was offered with {daemon}"
            assert daemon.contract == action.contract, f"{action.contract} was offered with {daemon}"
            assert self.daemons.wanted is not None
            assert self.daemons.wanted.get(action.uuid) == action.contract, "nobody looks after this daemon"
            assert verified(action.contract, action.uuid, view.mps)

    def _examine_verdicts(self, before: Applied, load: str | None, cut: int | None) -> None:
        """What is reported of a GPU stands against it from then on, until a person or a reload of the driver clears
        it, or until it recovers by itself, which is never before its time.
        """
        policy = self.loop.policy
        passing = policy.recoverable if policy.recover_after is not None else frozenset()
        for uuid, entry in self.applied.gpus.items():
            known = before.gpus.get(uuid)
            if known is not None and not known.xids.keys() <= entry.xids.keys():
                said = entry.gpu.physical in self.cleared or known.driver_load != load
                end = policy.recovers_at(known.xids)
                said |= end is not None and self.clock.now >= end
                assert said, f"{uuid} is well again: nobody said so"
            if cut is None:
                assert {
                    one.xid for one in self.news if one.uuid == uuid
                } - APPLICATION_XIDS - passing <= entry.xids.keys()
            assert not entry.xids.keys() & APPLICATION_XIDS
            self.news -= {one for one in self.news if one.uuid == uuid and one.xid in entry.xids}
        # What is of a GPU that nobody knows is waited for, and no longer than that; what has passed by the policy of
        # this turn may be done with.
        ages = {one: self.clock.now - self.driver.xids.tallies[one].last for one in self.news}
        self.news = {
            one
            for one, age in ages.items()
            if (one.uuid in self.applied.gpus or age < PLACED_WITHIN)
            and not (one.xid in passing and age >= (policy.recover_after or 0.0))
        }
        if cut is None:
            self.news.clear()
            self.cleared.clear()

    def _examine_lists(self) -> None:
        """An XID, or a daemon that is not verified, makes every share of its own GPU Unhealthy, and no other."""
        mps = self.mps
        if mps.reason is MpsReason.PENDING:
            return
        for uuid, entry in self.applied.gpus.items():
            if entry.contract is None or entry.contract.resource not in self.streams.served:
                continue
            well = entry.gpu.health is GpuHealth.OK and not entry.xids and verified(entry.contract, uuid, mps)
            told = self.kubelet.told[entry.contract.resource]
            for number, share in zip(sorted(entry.numbers), entry.ids(entry.numbers), strict=True):
                assert told[share] is (well and number not in entry.fences), f"{share} of {entry}, {mps}"

    def check(self) -> None:
        """What must hold at any moment."""
        for pod in self.kubelet.pods.values() if not self.disk.lost else ():
            for resource, share in pod.has():
                entry = self.applied.gpus[share.partition("::")[0]]
                assert entry.contract is not None, f"{share} is held, and its GPU has no contract"
                assert entry.contract.resource == resource, f"{share} is held as {resource}, not {entry.contract}"
                assert share in set(entry.ids(entry.numbers)), f"{share} is held and not on the list"
                self._check_promise(pod, entry.contract)
        for (uuid, contract), count in self.most.items():
            have = self.applied.gpus.get(uuid)
            if have is not None and have.contract == contract:
                assert len(have.numbers) <= max(count, 1), (
                    f"more shares on the list than the {count} ever wanted: {have}"
                )
        for uuid, entry in self.applied.gpus.items():
            if entry.numbers and entry.contract is not None and entry.contract.limits is None:
                assert uuid not in self.daemons.host.daemons, f"{entry.contract} is on the list beside an MPS daemon"

    def _check_promise(self, pod: Pod, contract: Contract) -> None:
        """What a pod was told when it was admitted is still what its GPU is under."""
        if pod.grant is None:
            return
        envs = pod.grant.envs
        if contract.limits is None:
            assert grants.MEMORY_LIMIT not in envs, f"{pod} is under MPS, and its GPU under {contract}"
        else:
            memory, threads = contract.limits.times(len(pod.ids))
            told = envs[grants.MEMORY_LIMIT], envs[grants.THREAD_PERCENTAGE]
            assert told == (f"0={memory}M", str(threads)), f"{pod} has other limits than {contract}"
            (uuid,) = {share.partition("::")[0] for share in pod.ids}
            assert [mount.host_path for mount in pod.grant.mounts] == [f"{ROOT}/{uuid}/pipe", f"{ROOT}/shm"]


def uuid_of(action: ShareAction) -> str:
    """Which GPU an action is about."""
    return action.gpu.uuid if isinstance(action, Remember) else action.uuid
