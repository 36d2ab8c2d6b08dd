"""The agent's loop over the state code, with a clock that stands still unless it is told to move.

It does each turn what the reconciler does, and holds every plan against the rules of DESIGN section 5, worked out here
a second time and from the other end: from what the plan's actions do, not from how they were found.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from nodeagent.model.allocation import ContainerGrant, PreferenceRequest
from nodeagent.model.config import Contract, SharingConfig
from nodeagent.model.holds import Holds, ShareKey
from nodeagent.model.inventory import Gpu, Inventory
from nodeagent.model.kubelet import PodListing, PodResourcesReason, PodResourcesStatus
from nodeagent.model.plan import (
    Action,
    Advertise,
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
)
from nodeagent.model.shares import Applied, Listing
from nodeagent.state import allocation, holds
from nodeagent.state.desired import Desired, check, resolve
from nodeagent.state.effect import perform
from nodeagent.state.lists import lists
from nodeagent.state.nodegpus import node_gpus
from nodeagent.state.observed import MENTION_SECONDS, Observed, holdings
from nodeagent.state.plan import plan
from tests.state.model_kubelet import ModelKubelet


@dataclass
class Clock:
    """Monotonic seconds, moved by hand."""

    now: float = 1000.0


@dataclass
class Disk:
    """What outlives the agent. `holds` None: lost."""

    applied: Applied = field(default_factory=Applied)
    holds: Holds | None = None

    def load(self, now: float) -> Applied:
        """The applied contract as an agent that starts finds it: fences begin anew."""
        return Applied(
            {uuid: replace(one, fences=dict.fromkeys(one.fences, now)) for uuid, one in self.applied.gpus.items()}
        )


class ModelAgent:
    """One run of the agent, from its start to its end; also the `Desk` that the kubelet asks."""

    def __init__(self, kubelet: ModelKubelet, clock: Clock, disk: Disk, inventory: Inventory) -> None:
        self.kubelet = kubelet
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
        self.pressed: frozenset[ShareKey] = frozenset()
        self.named: dict[str, float] = {}
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
        grants = allocation.allocate(offer, requests)
        found = [(resource, share) for ids in requests for share in ids]
        self.holds = holds.grant(self.holds, found, self.clock.now)
        self.pressed |= {key for key in found if key[1] in offer.leaving}
        return grants

    def prefer(self, resource: str, requests: Sequence[PreferenceRequest]) -> list[list[str]]:
        self.named |= {share: self.clock.now for request in requests for share in request.available}
        return allocation.prefer(self.offers.get(resource) or allocation.Offer(resource), requests)

    # --- what it learns ---

    def take_in(self, listing: PodListing) -> None:
        """A look at PodResources has ended."""
        self.pods = PodResourcesStatus(PodResourcesReason.LISTED, "", listing)
        uuids = self.inventory.by_uuid().keys() | self.applied.gpus.keys()
        self.holds = holds.observe(self.holds, listing, uuids, self.clock.now)

    def fail_look(self) -> None:
        """PodResources cannot be read."""
        self.pods = replace(self.pods, reason=PodResourcesReason.TIMEOUT, message="no answer")

    # --- a turn ---

    def known(self) -> frozenset[ShareKey]:
        """Shares that the agent takes for held."""
        return holds.held(self.holds, self.clock.now)

    def decide(self) -> tuple[Gpu, ...]:
        """What is wanted now, of which GPUs."""
        gpus = node_gpus(self.inventory, self.applied)
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
            registered=self.registered,
        )

    def turn(self, cut: int | None = None, *, publish: bool = True) -> Plan:
        """Plan and perform. `cut`: only so many actions; not `publish`: written to disk, and then the agent dies."""
        view = self.observe()
        made = plan(self.desired, view)
        assert made == plan(self.desired, view), "a plan depends on something that is not said"
        self._examine(view, made)
        actions = made.actions[:cut]
        shares = share_actions(actions)
        self.applied = perform(self.applied, shares, view.now)
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
        return made

    def publish(self, made: Plan) -> None:
        """Lists and answers of what is applied; streams that are gone are opened anew."""
        before = self.listings
        resources = self.registered | self.applied.resources()
        self.listings = lists(self.applied, resources, before)
        self.offers = allocation.offers(self.applied, resources, made, self.known())
        for resource, listing in self.listings.items():
            new = resource in self.registered and resource not in self.kubelet.sent
            if new:
                self.kubelet.connect(resource)
            if new or before.get(resource) is not listing:
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
        for uuid, entry in view.applied.gpus.items():
            have = after.gpus.get(uuid)
            if holdings(entry, [key for key in really if key[1].partition("::")[0] == uuid]).own:
                assert have is not None, "a GPU was forgotten that a pod has"
                assert have.contract == entry.contract, "the contract of a held share changed"
            if self.desired is None:
                offered = [one for one in shares if isinstance(one, Fence | Drop | Release | Restore | Limit)]
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
                touched = [one for one in shares if uuid_of(one) == uuid and not isinstance(one, Remember | Limit)]
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

    def check(self) -> None:
        """What must hold at any moment."""
        for resource, share in self.kubelet.held():
            entry = self.applied.gpus[share.partition("::")[0]]
            assert entry.contract is not None, f"{share} is held, and its GPU has no contract"
            assert entry.contract.resource == resource, f"{share} is held as {resource}, not {entry.contract}"
            assert share in set(entry.ids(entry.numbers)), f"{share} is held and not on the list"
        for (uuid, contract), count in self.most.items():
            have = self.applied.gpus.get(uuid)
            if have is not None and have.contract == contract:
                assert len(have.numbers) <= max(count, 1), "more shares on the list than were ever wanted"


def share_actions(actions: Sequence[Action]) -> list[ShareAction]:
    """The actions that change the applied contract, in their order."""
    return [one for one in actions if not isinstance(one, Register | Retire | Resend | Reconnect)]


def uuid_of(action: ShareAction) -> str:
    """Which GPU an action is about."""
    return action.gpu.uuid if isinstance(action, Remember) else action.uuid


def advertised(made: Plan) -> list[Advertise | Restore]:
    """What a plan offers to new pods."""
    return [one for one in made.actions if isinstance(one, Advertise | Restore)]
