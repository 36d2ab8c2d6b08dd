"""Where the kubelet's questions are answered: at once, from the newest lists, without waiting for anything.

The kubelet admits no pod of the node while it waits for Allocate (FACTS). So nothing here awaits, but for one thing and
a tenth of a second: a `List` of ours that is under way could free the device that the kubelet is about to choose (see
`state/looks`). What was given away is noted before the answer, and the loop takes the notes up in its next turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import dataclass, field

from nodeagent.model.allocation import ContainerGrant, PreferenceRequest
from nodeagent.model.holds import ShareKey
from nodeagent.model.shares import Listing
from nodeagent.state import allocation, traffic
from nodeagent.state.observed import MENTION_SECONDS

LIST_SECONDS = 0.1
"""How long the kubelet's choice waits for a `List` of ours at most, which takes some milliseconds."""


@dataclass(slots=True)
class Notes:
    """What the desk has done since the loop last looked: grants with their times, and those of shares that were to
    leave.
    """

    granted: dict[ShareKey, float] = field(default_factory=dict)
    pressed: set[ShareKey] = field(default_factory=set)


class FrontDesk:
    """The `Desk` that the plugin servers ask."""

    def __init__(self, *, clock: Callable[[], float], wake: Callable[[], None]) -> None:
        self._clock = clock
        self._wake = wake
        self._listings: Mapping[str, Listing] = {}
        self._offers: Mapping[str, allocation.Offer] = {}
        self._notes = Notes()
        self._named: dict[str, float] = {}
        self._traffic = traffic.Traffic()
        self._allocated: Callable[[], None] = _nobody
        self._not_listing = asyncio.Event()
        self._not_listing.set()

    def listing(self, resource: str) -> Listing:
        return self._listings.get(resource) or Listing(resource, 0, ())

    def allocate(self, resource: str, requests: Sequence[Sequence[str]]) -> list[ContainerGrant]:
        offer = self._offers.get(resource) or allocation.Offer(resource)
        now = self._clock()
        # Refused or not: the kubelet has an answer, and does something with it.
        self._traffic = traffic.allocation(self._traffic, resource, now)
        self._allocated()
        grants = allocation.allocate(offer, requests)
        for ids in requests:
            for share in ids:
                self._notes.granted[resource, share] = now
                if share in offer.leaving:
                    self._notes.pressed.add((resource, share))
        # The next pod may be here before the loop has seen this one.
        self._offers = allocation.given(self._offers, resource, requests)
        self._wake()
        return grants

    async def choosing(self) -> None:
        """Wait until no `List` of ours is under way, for `LIST_SECONDS` at most."""
        if not self._not_listing.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(LIST_SECONDS):
                    await self._not_listing.wait()

    def prefer(self, resource: str, requests: Sequence[PreferenceRequest]) -> list[list[str]]:
        now = self._clock()
        self._traffic = traffic.choice(self._traffic, resource, now)
        for request in requests:
            self._named.update(dict.fromkeys(request.available, now))
        return allocation.prefer(self._offers.get(resource) or allocation.Offer(resource), requests)

    def quiet_at(self) -> float:
        """From when on nothing of ours is being allocated, nor about to be, if nothing more comes."""
        return traffic.quiet_at(self._traffic)

    def lull_at(self) -> float:
        """From when on nothing of ours is known to be under way, if nothing more comes."""
        return traffic.lull_at(self._traffic)

    def when_allocated(self, call: Callable[[], None]) -> None:
        """Call this whenever an Allocate is answered, granted or not."""
        self._allocated = call

    def list_begins(self) -> None:
        """A `List` of ours goes out."""
        self._not_listing.clear()

    def list_ends(self) -> None:
        """It has come back."""
        self._not_listing.set()

    def show(self, listings: Mapping[str, Listing], offers: Mapping[str, allocation.Offer]) -> None:
        """Answer from these from now on."""
        self._listings, self._offers = listings, offers

    def take_notes(self) -> Notes:
        """What was given away since the last call. To be called every turn: old mentions are forgotten here."""
        notes, self._notes = self._notes, Notes()
        if self._named:
            # Made anew, since a dict that has been large stays so: one call may name all of 40,000 ids.
            now = self._clock()
            self._named = {share: at for share, at in self._named.items() if _recent(at, now)}
        return notes

    def given(self, keys: frozenset[ShareKey]) -> bool:
        """Whether any of the shares was given away since the last `take_notes`."""
        return not keys.isdisjoint(self._notes.granted)

    def mentions(self, among: AbstractSet[str]) -> dict[str, float]:
        """Which of the ids a GetPreferredAllocation named lately, and when."""
        if not self._named:
            return {}
        now = self._clock()
        found = {share: self._named[share] for share in among if share in self._named}
        return {share: at for share, at in found.items() if _recent(at, now)}


def _nobody() -> None:
    """Nobody waits for an Allocate."""


def _recent(at: float, now: float) -> bool:
    return at > now - MENTION_SECONDS
