"""When a daemon that does not answer has been silent for so long that it is ended, and started again.

That hurts the clients of one that is well, so it takes several checks in a row, and none counts in which the host
itself stood still: stopped, frozen with its container, or starved, it has heard nothing, whatever the daemon has said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from nodeagent.mps.lifecycle import Timing

CHECKS: Final = 3
"""So many failed checks in a row, at least, end a daemon."""


@dataclass(frozen=True, slots=True)
class Silence:
    """The checks that have failed since the last one that did not; `since` is when the first of them began."""

    since: float = 0.0
    checks: int = 0

    def failed(self, begun: float) -> Silence:
        """After one more failed check, which began then."""
        return replace(self, checks=self.checks + 1) if self.checks else Silence(begun, 1)

    def lasts(self, now: float, timing: Timing) -> float:
        """Seconds until the next check is due; 0 when the daemon has been silent for too long."""
        left = self.since + timing.silent_at_most - now
        if left <= 0 and self.checks >= CHECKS:
            return 0.0
        return min(timing.check_every, left) if left > 0 else timing.check_every


def stood_still(begun: float, due: float, now: float, timing: Timing) -> bool:
    """Whether what began then, and was to take at most `due` seconds, has ended so late that the host stood still."""
    return now - begun > due + timing.late_at_most
