"""Which GPUs may leave the contract that they have: nothing is withdrawn before what replaces it can be had.

A GPU that changes its contract offers nothing between the old one and the new one. So (DESIGN section 5, rules 10, 11):

- A GPU stays what it is until what its next contract needs to be prepared can be had, whatever else is wrong with it.
- At most `spec.transition.maxUnavailable` devices are on their way at a time: free ones first, then occupied ones, the
  fewest held first. A device is on its way from its first fence to its first new share. While all that are on their way
  wait for pods, a free one goes all the same: it will be back in a moment.
- What offers nothing anyway does not count: a GPU that is lost or unhealthy. If it is free it waits for nobody; if pods
  have shares of it, it could not change now, and begins when it is well again or free.
- Nor does one that is stuck between two contracts, since its daemon does not become ready, or one that must go does
  not. But it counts for those that might end as it did: that are to take a contract under MPS, or to leave one. Where
  that leaves no room one more goes, as a test: one GPU's trouble holds up no other, and a change that works nowhere
  ends with one device more than may be unavailable, of each of the two kinds.
- The last device that offers a resource name which is still wanted leaves only when another one offers that name. Where
  nothing that could is on its way, or waits for its turn, it leaves all the same, in its turn: with one GPU, or where
  two swap their names.

A device that Git wants nothing of does not come back, so it is not counted; but it, too, is not the last of its name to
go while another is to take the name over. `then: plan`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum

from nodeagent.model.config import THROUGH_MIG, Contract
from nodeagent.model.plan import Wait, WaitReason, Waves
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.desired import Desired, Want


class Trouble(Enum):
    """How a daemon keeps its device from what is wanted of it."""

    DOES_NOT_COME = "it does not become ready"
    DOES_NOT_GO = "it, or the compute mode that it needed, is still there"


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or MIG device: what is applied of it, what is wanted (None: it is not of this node any more), which of
    its shares pods have, and what keeps it from changing, whoever else does (None: nothing).
    """

    entry: AppliedGpu
    want: Want | None
    held: frozenset[int] = frozenset()
    kept_by: Wait | None = None
    arriving: bool = False
    """It offers nothing of its old contract any more, and nothing of its new one yet."""
    trouble: Trouble | None = None
    """What is wrong with its daemon: it is arriving and will not be there by itself, or it has arrived and fails."""

    @property
    def uuid(self) -> str:
        return self.entry.gpu.uuid

    @property
    def name(self) -> str:
        """The resource that it is on the list as; empty where it has no contract."""
        return self.entry.contract.resource if self.entry.contract is not None else ""

    @property
    def wanted(self) -> Contract | None:
        """The contract that it is to have; None where no shares of it are wanted."""
        return self.want.contract if self.want is not None else None

    @property
    def wants(self) -> str:
        """The resource that it is to be on the list as; empty for none."""
        return self.wanted.resource if self.wanted is not None else ""

    @property
    def stuck(self) -> bool:
        """Whether it is between two contracts, and will not get on by itself."""
        return self.arriving and self.trouble is not None

    @property
    def risks(self) -> set[Trouble]:
        """What may become of it when it goes."""
        found = {Trouble.DOES_NOT_COME} if self.wanted is not None and self.wanted.limits is not None else set()
        contract = self.entry.contract
        return found | ({Trouble.DOES_NOT_GO} if contract is not None and contract.limits is not None else set())

    @property
    def leaves(self) -> bool:
        """Whether it has a contract that is not the wanted one."""
        return self.entry.contract is not None and self.entry.contract != self.wanted

    @property
    def returns(self) -> bool:
        """Whether shares of it are wanted under any contract."""
        return self.wanted is not None

    @property
    def offers(self) -> bool:
        """Whether the kubelet counts any share of it."""
        return self.entry.healthy and len(self.entry.fences) < len(self.entry.numbers)

    @property
    def arrived(self) -> bool:
        return self.returns and not self.leaves and self.entry.contract is not None and self.offers

    @property
    def waits_for_nobody(self) -> bool:
        """Whether nothing could be had by its staying: it is gone, in MIG mode, or has nothing on the list; or it is
        ill, and free or leaving already.
        """
        gone = self.want is None or self.want.rule == THROUGH_MIG
        ill = not self.entry.healthy
        return gone or not self.entry.numbers or (ill and not self.kept_by and (not self.held or self.entry.leaving))

    @property
    def begun(self) -> bool:
        """Whether it is on its way: it could offer something, and does not, or not for long, since it changes."""
        if not self.returns or not self.entry.well or self.stuck:
            return False
        leaving = self.leaves and self.entry.leaving and not self.waits_for_nobody and not self.kept_by
        return self.arriving or leaving

    @property
    def goes_on(self) -> bool:
        """Whether it has begun to leave, and others decide nothing about it any more: on its way, or for good."""
        return self.begun or (self.leaves and not self.returns and self.entry.leaving and not self.kept_by)

    @property
    def may_offer(self) -> str:
        """The name that it will offer when what is under way has come to its end; empty where it will not."""
        comes = self.begun or (not self.entry.numbers and self.can_come)
        return self.wants if comes and self.entry.well else ""

    @property
    def can_come(self) -> bool:
        """Whether nothing keeps it from what is wanted of it but its turn, its pods, and others."""
        return self.kept_by is None and not self.stuck

    @property
    def rank(self) -> tuple[int, bool, tuple[int, int, int, str]]:
        """In which order devices go; one whose shares are fenced already before its like."""
        return (len(self.held), not self.entry.fences, self.entry.gpu.place)


@dataclass(frozen=True, slots=True)
class Decision:
    """The devices that stay what they are for now, each with what it waits for; all others may go on. `waves` as in the
    plan.
    """

    stay: Mapping[str, Wait] = field(default_factory=dict)
    waves: Waves = field(default_factory=Waves)


def decide(desired: Desired, devices: Iterable[Device]) -> Decision:
    """Who may leave now. Deterministic, and stable from turn to turn: what has begun to leave goes on."""
    devices = tuple(devices)
    turn = _Turn(desired, devices)
    stay: dict[str, Wait] = {}
    candidates = []
    for one in sorted(devices, key=lambda one: one.rank):
        if not one.leaves or one.waits_for_nobody or one.goes_on:
            continue
        if one.kept_by is not None:
            stay[one.uuid] = one.kept_by
        else:
            candidates.append(one)
    waiting: dict[str, tuple[Device, WaitReason]] = {}
    for one in candidates:
        if not one.entry.healthy:
            # Pods have it, so that it could not change now; what is free of it can be given to nobody.
            stay[one.uuid] = Wait(one.uuid, WaitReason.PODS, one.held)
        elif (reason := turn.refuses(one)) is None:
            turn.goes(one)
        else:
            waiting[one.uuid] = one, reason
    for one, reason in tuple(waiting.values()):
        if reason is WaitReason.LAST and turn.nobody_follows(one, waiting.values()):
            del waiting[one.uuid]
            turn.goes(one)
    stay |= {uuid: Wait(uuid, reason, one.entry.numbers) for uuid, (one, reason) in waiting.items()}
    total = [one for one in devices if one.returns and one.entry.well]
    return Decision(
        stay=stay,
        waves=Waves(
            total=len(total),
            changed=sum(one.arrived for one in total),
            limit=turn.limit,
            under_way=tuple(one.uuid for one in turn.under_way),
            waiting=tuple(waiting),
        ),
    )


class _Turn:
    """Who is on the way while it is decided who may follow."""

    def __init__(self, desired: Desired, devices: tuple[Device, ...]) -> None:
        self.limit = desired.most_unavailable
        self.under_way = [one for one in devices if one.begun]
        self._in_trouble = [one for one in devices if one.trouble is not None and one.entry.well]
        self._devices = devices
        self._wanted = desired.resources()
        self._coming = {one.may_offer for one in devices}
        self._offers: dict[str, set[str]] = {}
        for one in devices:
            if one.offers and not one.goes_on and not (one.leaves and one.waits_for_nobody):
                self._offers.setdefault(one.name, set()).add(one.uuid)

    def refuses(self, one: Device) -> WaitReason | None:
        """Why this device must not go yet; None when it may."""
        if one.name in self._wanted and not self._offers.get(one.name, set()) - {one.uuid}:
            return WaitReason.LAST
        return WaitReason.WAVE if self._is_full(one) else None

    def nobody_follows(self, one: Device, waiting: Collection[tuple[Device, WaitReason]]) -> bool:
        """Whether the last device of a name goes all the same: nothing that will offer the name is on its way, or comes
        when others have had their turn, what is to offer it does not wait for something to be prepared, and it is its
        turn. `waiting` are those that do not go now, and why.
        """
        if self._is_full(one) or one.name in self._expected(waiting):
            return False
        if any(other.wants == one.name for other in self._warnings(one)):
            return False
        return any(other.can_come and other.wants == one.name and not self._is_warned(other) for other in self._devices)

    def _expected(self, waiting: Collection[tuple[Device, WaitReason]]) -> set[str]:
        """The names that will be offered sooner or later, also if none goes that is the last of its name."""
        found = set(self._coming)
        found |= {one.wants for one, reason in waiting if reason is WaitReason.WAVE and not self._is_warned(one)}
        last = [one for one, reason in waiting if reason is WaitReason.LAST and not self._is_warned(one)]
        while followed := [one for one in last if one.name in found]:
            found |= {one.wants for one in followed}
            last = [one for one in last if one.name not in found]
        return found

    def goes(self, one: Device) -> None:
        """It begins to leave, or goes on."""
        for offering in self._offers.values():
            offering.discard(one.uuid)
        if one.returns:
            self.under_way.append(one)
            self._coming.add(one.wants)

    def _is_full(self, one: Device) -> bool:
        """Whether as many as may be are on their way, or in trouble as this one might be. While all that are on their
        way wait for pods a free one may follow; beside those in trouble one more goes, until too many are.
        """
        if not one.returns or len(self.under_way) + len(self._warnings(one)) < self.limit:
            return False
        occupied = bool(one.held) and bool(self.under_way)
        return self._is_warned(one) or occupied or not all(other.held for other in self.under_way)

    def _is_warned(self, one: Device) -> bool:
        """Whether so many are in a trouble that this one may come into that somebody has to see to it first."""
        return len(self._warnings(one)) > self.limit

    def _warnings(self, one: Device) -> list[Device]:
        """Others whose daemon does what this one's may do."""
        risks = one.risks
        return [other for other in self._in_trouble if other.trouble in risks and other.uuid != one.uuid]
