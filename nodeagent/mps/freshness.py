"""Whether what an MPS host tells is of today: a file that cannot be written any more goes on saying what once was true.

A host writes its observed.json every few seconds with another number in it. Whoever holds the lock and does not, hangs,
or has no room to write in. A host of an older version has no such number: of it only what the daemons themselves
confirm is believed, as of every host. Time in which this process itself stood still does not count.
"""

from __future__ import annotations

from nodeagent.mps.look import Seen


class Freshness:
    """Told of each look, one each `interval` seconds or more often; what is unchanged for `limit` seconds is old."""

    def __init__(self, interval: float, limit: float) -> None:
        self._longest = 2 * interval
        self.limit = limit
        self._word: tuple[str, int] | None = None
        self._silent = 0.0
        self._looked_at: float | None = None

    @property
    def is_stale(self) -> bool:
        """Whether what was told last is not to be believed."""
        return self._silent > self.limit

    def stale(self, seen: Seen, now: float) -> bool:
        """Take a look into account; whether what it saw is old."""
        since, self._looked_at = self._looked_at, now
        observed = seen.observed
        word = (observed.life, observed.beat) if observed is not None and observed.life else None
        if not seen.runs or word is None or word != self._word or since is None:
            self._word, self._silent = word, 0.0
        else:
            self._silent += min(now - since, self._longest)
        return self.is_stale
