"""Which GPUs may leave the contract that they have: nothing is withdrawn before what replaces it can be had.

A GPU that changes its contract offers nothing between the old one and the new one. So (DESIGN section 5, rules 10, 11):

- A GPU stays what it is until what its next contract needs to be prepared can be had.
- At most `spec.transition.maxUnavailable` devices are on their way at a time: free ones first, then occupied ones, the
  fewest held first. A device is on its way from its first fence to its first new share. While all that are on their way
  wait for pods, a free one goes all the same: it will be back in a moment.
- What offers nothing anyway never counts and waits for nobody: GPUs that are lost, unhealthy, or withheld.
- The last device that offers a resource name which is still wanted leaves only when another one offers that name. Where
  this holds up every device, the first one goes whose name something will offer then.

A device that Git wants nothing of does not come back, so it is not counted; but it, too, is not the last of its name to
go while another is to take the name over. `then: plan`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from nodeagent.model.config import THROUGH_MIG
from nodeagent.model.inventory import GpuHealth
from nodeagent.model.plan import Wait, WaitReason, Waves
from nodeagent.model.shares import AppliedGpu
from nodeagent.state.desired import Desired, Want


@dataclass(frozen=True, slots=True)
class Device:
    """One GPU or MIG device on its way, or not: what is applied of it, what is wanted (None: it is not of this node any
    more), how many of its shares pods have, and why what it is to become cannot be prepared.
    """

    entry: AppliedGpu
    want: Want | None
    held: int = 0
    missing: str = ""
    arriving: bool = False
    """It has left its old contract, and its new one is not ready yet."""

    @property
    def uuid(self) -> str:
        return self.entry.gpu.uuid

    @property
    def leaves(self) -> bool:
        """Whether it has a contract that is not the wanted one."""
        contract = self.entry.contract
        return contract is not None and (self.want is None or self.want.contract != contract)

    @property
    def returns(self) -> bool:
        """Whether shares of it are wanted under any contract."""
        return self.want is not None and self.want.contract is not None

    @property
    def offers(self) -> bool:
        """Whether the kubelet counts any share of it."""
        return self.entry.healthy and len(self.entry.fences) < len(self.entry.numbers)

    @property
    def arrived(self) -> bool:
        return self.returns and not self.leaves and self.entry.contract is not None and self.offers

    @property
    def must_go(self) -> bool:
        """Whether nothing could be had by its staying: it is gone, in MIG mode, ill, or has nothing on the list."""
        gone = self.want is None or self.want.rule == THROUGH_MIG
        ill = not self.entry.healthy or self.entry.gpu.health is not GpuHealth.OK
        return gone or ill or not self.entry.numbers

    @property
    def under_way(self) -> bool:
        """Whether it counts: it could offer something, and does not, or not for long, since it changes."""
        if not self.returns or not self.entry.well:
            return False
        return self.arriving or (self.leaves and self.entry.leaving and not self.must_go and not self.missing)

    @property
    def rank(self) -> tuple[bool, int, bool, tuple[int, int, int, str]]:
        """In which order devices go; one whose shares are fenced already before its like."""
        return (self.held > 0, self.held, not self.entry.fences, self.entry.gpu.place)


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
    stay = {
        one.uuid: Wait(one.uuid, WaitReason.DAEMON, one.entry.numbers, one.missing)
        for one in devices
        if one.leaves and one.missing and not one.must_go
    }
    candidates = sorted(
        (one for one in devices if one.leaves and not one.must_go and not one.under_way and one.uuid not in stay),
        key=lambda one: one.rank,
    )
    waiting: dict[str, Wait] = {}
    for one in candidates:
        reason = turn.refuses(one)
        if reason is None:
            turn.goes(one)
        else:
            waiting[one.uuid] = Wait(one.uuid, reason, one.entry.numbers)
    if waiting and not turn.under_way:
        # Each of them is the last of its name: without this none would ever go.
        first = next((one for one in candidates if one.uuid in waiting and turn.can_be_replaced(one)), None)
        if first is not None:
            del waiting[first.uuid]
            turn.goes(first)
    total = [one for one in devices if one.returns]
    return Decision(
        stay={**stay, **waiting},
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
        self.under_way = [one for one in devices if one.under_way]
        self._devices = devices
        self._wanted = desired.resources()
        self._offers: dict[str, set[str]] = {}
        on_their_way = {one.uuid for one in self.under_way}
        for one in devices:
            if one.offers and one.uuid not in on_their_way:
                self._offers.setdefault(_name(one), set()).add(one.uuid)

    def refuses(self, one: Device) -> WaitReason | None:
        """Why this device must not go yet; None when it may."""
        name = _name(one)
        if name in self._wanted and one.offers and not self._offers.get(name, set()) - {one.uuid}:
            return WaitReason.LAST
        if one.returns and len(self.under_way) >= self.limit and (one.held or not self._all_wait_for_pods()):
            return WaitReason.WAVE
        return None

    def can_be_replaced(self, one: Device) -> bool:
        """Whether what is to offer its name then, if only a GPU that is ill, waits for nothing to be prepared."""
        name = _name(one)
        to_offer = [
            other
            for other in self._devices
            if other.want is not None and (wanted := other.want.contract) is not None and wanted.resource == name
        ]
        return any(not other.missing for other in to_offer)

    def goes(self, one: Device) -> None:
        """It begins to leave, or goes on."""
        for offering in self._offers.values():
            offering.discard(one.uuid)
        if one.returns:
            self.under_way.append(one)

    def _all_wait_for_pods(self) -> bool:
        return all(one.held for one in self.under_way)


def _name(one: Device) -> str:
    """The resource that it is on the list as; empty where it has no contract."""
    return one.entry.contract.resource if one.entry.contract is not None else ""
