"""What the kubelet is asking of our plugins, and when it will be quiet: for whoever must not disturb an allocation.

The kubelet chooses ids (GetPreferredAllocation), marks them as taken, calls Allocate, and enters them into its books
when the answer is there. Between the choice and the books they are marked and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

CHOICE_SECONDS = 1.0
"""How long an Allocate may follow a GetPreferredAllocation."""

ANSWER_SECONDS = 0.1
"""How long the kubelet may take to enter what Allocate has answered into its books."""

LULL_SECONDS = 0.02
"""How long it mostly takes at most."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """`chosen` maps resources to when a GetPreferredAllocation was answered that no Allocate has followed;
    `allocated_at` is when the newest Allocate of any resource was answered. Monotonic seconds.
    """

    chosen: Mapping[str, float] = field(default_factory=dict)
    allocated_at: float = float("-inf")


def choice(traffic: Traffic, resource: str, now: float) -> Traffic:
    """A GetPreferredAllocation is answered."""
    chosen = {name: at for name, at in traffic.chosen.items() if now < at + CHOICE_SECONDS}
    return replace(traffic, chosen={**chosen, resource: now})


def allocation(traffic: Traffic, resource: str, now: float) -> Traffic:
    """An Allocate is answered. Pods are admitted one after the other: it is the one that was to follow."""
    return Traffic({name: at for name, at in traffic.chosen.items() if name != resource}, now)


def quiet_at(traffic: Traffic) -> float:
    """From when on nothing is being allocated, nor about to be, if nothing more comes."""
    return max(traffic.allocated_at + ANSWER_SECONDS, _choice_ends(traffic))


def lull_at(traffic: Traffic) -> float:
    """From when on the newest allocation is probably in the kubelet's books, if nothing more comes."""
    return max(traffic.allocated_at + LULL_SECONDS, _choice_ends(traffic))


def _choice_ends(traffic: Traffic) -> float:
    return max((at + CHOICE_SECONDS for at in traffic.chosen.values()), default=float("-inf"))
