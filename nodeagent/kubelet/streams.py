"""Which open ListAndWatch is the kubelet's, and which belong to guests.

Any process on the node that may connect to our socket can open a stream: a monitoring tool, a health check. Nothing in
a call says who makes it: the sockets of clients have no names, and outside our own namespace all processes look alike.
What separates them is the moment. The kubelet opens one stream, right after our Register, and never another one on the
same socket. So what opens within that moment may be the kubelet's, and what opens before or after it is a guest's.

A guest can come within that moment as well. Then the streams cannot be told apart, and all of them count as the
kubelet's until they end. That one of several ends, or that one was refused, is a doubt: whoever has the registration
then asks the kubelet whether it still shows our devices.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import chain
from typing import Final

GUESTS: Final = 4
"""How many guests may have a stream. For each, at most one list is buffered: 4 MiB where it is a very large one."""

CANDIDATES: Final = 8
"""How many streams may count as the kubelet's. More of them can only come within milliseconds."""

SETTLE: Final = 1.0
"""Seconds after the answer to Register in which the kubelet may still open its stream though another one is open."""


class Stream:
    """One open ListAndWatch. `sent` is what it sent last: (revision of the list, resends asked for by then)."""

    def __init__(self, *, guest: bool) -> None:
        self.guest = guest
        self.wake = asyncio.Event()
        self.sent = (0, -1)


class Streams:
    """The open streams of one socket. `doubts` counts the events after which the kubelet's may be gone unseen."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.doubts = 0
        self._clock = clock
        self._ours: set[Stream] = set()
        self._guests: set[Stream] = set()
        self._expected = False
        self._seen = False
        self._settled_at = float("inf")

    @property
    def live(self) -> bool:
        """Whether the kubelet has a stream, as far as streams can say."""
        return bool(self._ours)

    @property
    def seen(self) -> bool:
        """Whether the kubelet has ever had one."""
        return self._seen

    @property
    def settled(self) -> bool:
        """Whether the kubelet's would have been opened by now."""
        return self._clock() >= self._settled_at

    @property
    def sent_revision(self) -> int:
        """The revision that the kubelet's stream has sent; 0 without one. Where several may be the kubelet's, one that
        is not read must not hold up the others.
        """
        return max((stream.sent[0] for stream in self._ours), default=0)

    def expect(self) -> None:
        """Register is about to be called: from now on a stream may be the kubelet's."""
        self._expected = True

    def registered(self) -> None:
        """Register has been answered: the kubelet opens its stream now, or has done so."""
        self._settled_at = self._clock() + SETTLE

    def open(self) -> Stream | None:
        """Take in a stream; None where it is one too many."""
        # The first one counts however late it is. Once the kubelet has had its own, no other one is the kubelet's, also
        # when that one has ended and nobody has acted on it yet.
        guest = not self._expected or (self._seen and self.settled)
        group, most = (self._guests, GUESTS) if guest else (self._ours, CANDIDATES)
        if len(group) >= most:
            self.doubts += not guest
            return None
        stream = Stream(guest=guest)
        group.add(stream)
        self._seen |= not guest
        return stream

    def close(self, stream: Stream) -> None:
        """A stream has ended."""
        self._guests.discard(stream)
        if stream in self._ours:
            self._ours.discard(stream)
            self.doubts += self.live

    def wake(self) -> None:
        """Have every stream look for a newer list, the kubelet's first."""
        for stream in chain(self._ours, self._guests):
            stream.wake.set()
