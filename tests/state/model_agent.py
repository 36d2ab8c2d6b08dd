"""The agent's loop over the state code, with a clock that stands still unless it is told to move.

It does each turn what the reconciler does, and holds every plan against the rules of DESIGN section 5, worked out here
a second time and from the other end: from what the plan's actions do, not from how they were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.model.allocation import ContainerGrant, PreferenceRequest
from nodeagent.model.config import Contract, SharingConfig
from nodeagent.model.health import APPLICATION_XIDS, XidSource
from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.inventory import Gpu, GpuHealth, Inventory
from nodeagent.model.kubelet import PodListing, PodResourcesReason, PodResourcesStatus
from nodeagent.model.mps import MpsReason, MpsStatus
from nodeagent.model.plan import (
    Action,
    Adopt,
    Advertise,
    Diagnose,
    Drop,
    Fence,
    Limit,
    Plan,
    Reconnect,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    ShareAction,
    Start,
    Verdict,
)
from nodeagent.model.shares import Applied, Listing
from nodeagent.state import allocation, daemons, grants, holds
from nodeagent.state.daemons import verified
from nodeagent.state.desired import Desired, check, resolve
from nodeagent.state.effect import perform
from nodeagent.state.health import Symptoms
from nodeagent.state.lists import lists
from nodeagent.state.nodegpus import node_gpus
from nodeagent.state.observed import MENTION_SECONDS, Observed, holdings
from nodeagent.state.plan import plan
from tests.state.model_host import ROOT, ModelHost, ModelView
from tests.state.model_kubelet import ModelKubelet, Pod


@dataclass
class Clock:
    """Monotonic seconds, moved by hand."""

    now: float = 1000.0


@dataclass
class Disk:
    """What outlives the agent. `holds` None: lost. `lost`: all of it was, and what pods have is on the node alone."""

    applied: Applied = field(default_factory=Applied)
    holds: Holds | None = None
    lost: bool = False

    def load(self, now: float) -> Applied:
        """The applied contract as an agent that starts finds it: fences begin anew."""
        return Applied(
            {uuid: replace(one, fences=dict.fromkeys(one.fences, now)) for uuid, one in self.applied.gpus.items()}
        )


class ModelAgent:
    """One run of the agent, from its start to its end; also the `Desk` that the kubelet asks."""

    def __init__(self, kubelet: ModelKubelet, host: ModelHost, clock: Clock, disk: Disk, inventory: Inventory) -> None:
        self.kubelet = kubelet
        self.view = ModelView(host)
        self.clock = clock
        self.disk = disk
        self.inventory = inventory
        self.config: SharingConfig | None = None
        self.applied = disk.load(clock.now)
        self.holds = disk.holds or Holds()
        self.cautious_until = clock.now + holds.GRANT_GRACE if self.applied.gpus else clock.now
        self.desired: Desired | None = None
        self.decided_at = clock.now
        self.pods = PodResourcesStatus()
        self.orphans: Mapping[str, Contract] = host.file or {}
        self.looked_for: frozenset[str] = frozenset()
        self.pressed: frozenset[ShareKey] = frozenset()
        self.named: dict[str, float] = {}
        self.news: dict[XidSource, float] = {}
        self.cleared: frozenset[str] = frozenset()
        self.registered: frozenset[str] = frozenset()
        self.listings: Mapping[str, Listing] = {}
        self.offers: Mapping[str, allocation.Offer] = {}
        self.most: dict[tuple[str, Contract], int] = {
            (uuid, one.contract): len(one.numbers)
            for uuid, one in self.applied.gpus.items()
            if one.contract is not None
        }

    # --- the kubelet's questions ---

    def listing(self, resource: str) -> Listing:
        return self.listings.get(resource) or Listing(resource, 0, ())

    def allocate(self, resource: str, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]:
        offer = self.offers.get(resource) or allocation.Offer(resource)
        given = allocation.allocate(offer, requests)
        found = [(resource, share) for ids in requests for share in ids]
        self.holds = holds.grant(self.holds, found, self.clock.now)
        self.pressed |= {key for key in found if key[1] in offer.leaving}
        return given

    def prefer(self, resource: str, requests: Sequence[PreferenceRequest]) -> list[list[str]]:
        self.named |= {share: self.clock.now for request in requests for share in request.available}
        return allocation.prefer(self.offers.get(resource) or allocation.Offer(resource), requests)

    # --- what it learns ---

    def take_in(self, listing: PodListing) -> None:
        """A look at PodResources has ended."""
        self.pods = PodResourcesStatus(PodResourcesReason.LISTED, "", listing)
        self.looked_for = frozenset()
        self._hold()

    def fail_look(self) -> None:
        """PodResources cannot be read."""
        self.pods = replace(self.pods, reason=PodResourcesReason.TIMEOUT, message="no answer")

    def _hold(self) -> None:
        """Who holds what: a look counts for the GPUs that were known then."""
        uuids = frozenset(self.inventory.by_uuid().keys() | self.applied.gpus.keys())
        if self.pods.listing is not None and not uuids <= self.looked_for:
            self.looked_for = uuids
            self.holds = holds.observe(self.holds, self.pods.listing, uuids, self.clock.now)

    @property
    def mps(self) -> MpsStatus:
        """What is known of the MPS host and its daemons."""
        return self.view.status()

    # --- a turn ---

    def known(self) -> frozenset[ShareKey]:
        """Shares that the agent takes for held."""
        return holds.held(self.holds, self.clock.now)

    def decide(self) -> tuple[Gpu, ...]:
        """What is wanted now, of which GPUs."""
        gpus = node_gpus(self.inventory, self.applied)
        self.orphans = daemons.orphans(self.orphans, self.applied, self.inventory)
        self._hold()
        desired = None
        if self.config is not None and not self.config.suspend:
            desired = resolve(self.config, gpus)
            assert not check(desired, "config")
        if desired != self.desired:
            self.desired, self.decided_at = desired, self.clock.now
        return gpus

    def observe(self) -> Observed:
        """Everything that the planner needs, as of now."""
        gpus = self.decide()
        now = self.clock.now
        self.named = {share: at for share, at in self.named.items() if now < at + MENTION_SECONDS}
        return Observed(
            now=now,
            gpus=gpus,
            listed=frozenset(self.inventory.by_uuid()),
            applied=self.applied,
            held=self.known(),
            pods=self.pods,
            decided_at=self.decided_at,
            cautious_until=self.cautious_until,
            pressed=self.pressed,
            mentions=dict(self.named),
            mps=self.mps,
            orphans=self.orphans,
            symptoms=Symptoms(
                wall=now, news=dict(self.news), cleared=self.cleared, driver_load=self.inventory.driver_load
            ),
            registered=self.registered,
        )

    def turn(self, cut: int | None = None, *, publish: bool = True, want: bool = True) -> Plan:
        """Plan and perform. `cut`: only so many actions; not `publish`: written to disk, and then the agent dies; not
        `want`: it dies before the MPS host is told.
        """
        view = self.observe()
        made = plan(self.desired, view)
        assert made == plan(self.desired, view), "a plan depends on something that is not said"
        self._examine(view, made)
        actions = made.actions[: self._whole(made, cut)]
        shares = share_actions(actions)
        before, self.applied = self.applied, perform(self.applied, shares, view.now)
        self._examine_verdicts(before, cut)
        self.disk.applied, self.disk.holds = self.applied, replace(self.holds, granted={})
        self._note_most()
        if shares:
            self.pressed = frozenset()
        if not publish:
            return made
        for action in actions:
            if isinstance(action, Register):
                self.registered |= {action.resource}
            elif isinstance(action, Retire):
                assert not any(key[0] == action.resource for key in self.kubelet.held()), "retired with a pod on it"
                self.registered -= {action.resource}
                self.kubelet.disconnect(action.resource)
        self.publish(made)
        if cut is None:
            self._examine_lists()
            self.disk.lost &= not view.readable
        if want:
            self._want()
        return made

    def _whole(self, made: Plan, cut: int | None) -> int | None:
        """What is taken over when the state directory was lost is never taken over in part: a plan's share actions are
        written as one, and what is remembered of a node would count for more than what nobody remembers.
        """
        found = [
            number
            for number, one in enumerate(made.actions, 1)
            if isinstance(one, Adopt) and (self.disk.lost or one.uuid in self.orphans)
        ]
        return cut if cut is None else max([cut, *found])

    def _want(self) -> None:
        """Tell the MPS host which daemons there must be."""
        wanted = daemons.daemons(self.applied, self.orphans)
        for uuid, contract in (self.view.wanted or {}).items():
            if wanted.get(uuid) == contract:
                continue
            told = self.kubelet.told.get(contract.resource, {}) if contract.resource in self.registered else {}
            assert not any(share.partition("::")[0] == uuid for share in told), "a daemon leaves before its shares"
            assert not any(key[1].partition("::")[0] == uuid for key in self.known()), "a daemon leaves that a pod has"
        self.view.want(wanted)

    def publish(self, made: Plan) -> None:
        """Lists and answers of what is applied; streams that are gone are opened anew."""
        before = self.listings
        resources = self.registered | self.applied.resources()
        self.listings = lists(self.applied, resources, before)
        self.offers = allocation.offers(self.applied, resources, made, self.known(), self.mps)
        for resource, listing in self.listings.items():
            new = resource in self.registered and resource not in self.kubelet.sent
            if new:
                self.kubelet.connect(resource)
            if resource in self.registered and (new or before.get(resource) is not listing):
                self.kubelet.send(listing)

    def settle(self, rounds: int = 10) -> Plan:
        """Turns without anything happening in between: they must come to an end."""
        made = self.turn()
        for _ in range(rounds):
            if not made.actions:
                return made
            made = self.turn()
        raise AssertionError(f"the plan does not come to an end: {made}")

    # --- the rules, from the other end ---

    def _note_most(self) -> None:
        """How many shares a GPU was ever to have, under its contract."""
        for uuid, entry in self.applied.gpus.items():
            self.most = {key: count for key, count in self.most.items() if key[0] != uuid or key[1] == entry.contract}
            if entry.contract is not None:
                key = uuid, entry.contract
                adopted = holdings(entry, (one for one in self.known() if one[1].partition("::")[0] == uuid)).own
                self.most[key] = max(self.most.get(key, 0), self._wanted(uuid, entry.contract), len(adopted))

    def _wanted(self, uuid: str, contract: Contract | None) -> int:
        want = self.desired.wants.get(uuid) if self.desired is not None else None
        return want.count if want is not None and want.contract == contract else 0

    def _examine(self, view: Observed, made: Plan) -> None:
        shares = share_actions(made.actions)
        after = perform(view.applied, shares, view.now)
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
                offered = [one for one in shares if isinstance(one, Fence | Drop | Release | Start | Restore | Limit)]
                assert not offered, "something was done without a desired state"
                continue
            want = self.desired.wants.get(uuid)
            known = [key for key in view.held if key[1].partition("::")[0] == uuid]
            in_place = (
                want is not None
                and (entry.contract, len(entry.numbers), bool(entry.fences)) == (want.contract, want.count, False)
                and holdings(entry, known).own <= entry.numbers
                and not (known and entry.contract is None)
                and not view.lists(holdings(entry, known).others)
            )
            if in_place:
                harmless = Remember | Diagnose | Limit | Verdict
                touched = [one for one in shares if uuid_of(one) == uuid and not isinstance(one, harmless)]
                assert not touched, f"a GPU that does not change was touched: {touched}"
            if have is None or have.contract is None:
                continue
            own = holdings(have, known).own
            out = len((have.numbers - have.fences.keys()) | own)
            before = (entry.numbers - entry.fences.keys()) | holdings(entry, known).own
            wanted = self._wanted(uuid, have.contract)
            assert out <= max(wanted, len(before), len(own)), f"{out} can be handed out where {wanted} are wanted"
            offered_now = (have.numbers - have.fences.keys()) - (entry.numbers - entry.fences.keys())
            if out > wanted:
                assert offered_now <= own, "a free share was offered although there are too many already"

    def _examine_drop(self, view: Observed, action: Drop, really: set[ShareKey]) -> None:
        entry = view.applied.gpus[action.uuid]
        assert entry.contract is not None
        for number, share in zip(sorted(action.numbers), entry.ids(action.numbers), strict=True):
            assert number in entry.fences, "dropped without a fence"
            assert (entry.contract.resource, share) not in really, "dropped what a pod has"
            assert view.now >= entry.fences[number] + 1.0
            assert share not in self.kubelet.allocatable().get(entry.contract.resource, frozenset())
            assert view.readable

    def _examine_daemon(self, view: Observed, action: Advertise) -> None:
        daemon = self.view.host.daemons.get(action.uuid)
        if action.contract.limits is None:
            assert daemon is None, f"{action.contract} was offered beside an MPS daemon: {daemon}"
        else:
            assert daemon is not None, f"{action.contract} was offered without a daemon"
            assert daemon.ready, f"{action.contract} was offered with {daemon}"
            assert daemon.contract == action.contract, f"{action.contract} was offered with {daemon}"
            assert self.view.wanted is not None
            assert self.view.wanted.get(action.uuid) == action.contract, "nobody looks after this daemon"
            assert verified(action.contract, action.uuid, view.mps)

    def _examine_verdicts(self, before: Applied, cut: int | None) -> None:
        """What is reported of a GPU stands against it from then on, until a person or a reload of the driver clears
        it.
        """
        load = self.inventory.driver_load
        for uuid, entry in self.applied.gpus.items():
            known = before.gpus.get(uuid)
            if known is not None and not known.xids.keys() <= entry.xids.keys():
                assert uuid in self.cleared or known.driver_load != load, f"{uuid} is well again: nobody said so"
            if cut is None:
                assert {one.xid for one in self.news if one.uuid == uuid} - APPLICATION_XIDS <= entry.xids.keys()
            assert not entry.xids.keys() & APPLICATION_XIDS
        if cut is None:
            self.news, self.cleared = {}, frozenset()

    def _examine_lists(self) -> None:
        """An XID, or a daemon that is not verified, makes every share of its own GPU Unhealthy, and no other."""
        mps = self.mps
        if mps.reason is MpsReason.PENDING:
            return
        for uuid, entry in self.applied.gpus.items():
            if entry.contract is None or entry.contract.resource not in self.registered:
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
                assert len(have.numbers) <= max(count, 1), "more shares on the list than were ever wanted"
        for uuid, entry in self.applied.gpus.items():
            if entry.numbers and entry.contract is not None and entry.contract.limits is None:
                assert uuid not in self.view.host.daemons, f"{entry.contract} is on the list beside an MPS daemon"

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


def share_actions(actions: Sequence[Action]) -> list[ShareAction]:
    """The actions that change the applied contract, in their order."""
    return [one for one in actions if not isinstance(one, Register | Retire | Resend | Reconnect)]


def uuid_of(action: ShareAction) -> str:
    """Which GPU an action is about."""
    return action.gpu.uuid if isinstance(action, Remember) else action.uuid


def advertised(made: Plan) -> list[Advertise | Restore]:
    """What a plan offers to new pods."""
    return [one for one in made.actions if isinstance(one, Advertise | Restore)]
