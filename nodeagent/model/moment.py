"""One moment on the two clocks of a machine.

Whatever is decided by time is decided by monotonic seconds: nobody can set that clock. They are what the agent keeps in
memory, also of what it shows. The wall clock may be set at any time, by a day or from 1970 to now, so Unix seconds are
made from them at the edge, at the moment in which they are shown: a step of the wall clock moves all times that are
shown, and no age and no deadline.

On disk both are kept: Unix seconds for an agent from before this, and because monotonic seconds end with the boot. (A
machine that is suspended is no case of ours: while it is, neither clock is asked.)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment in monotonic seconds, which begin near the boot, and in Unix seconds as the wall clock is set now."""

    monotonic: float
    wall: float

    @property
    def zero(self) -> float:
        """The Unix second in which the monotonic clock was 0, as the wall clock is set now."""
        return self.wall - self.monotonic


def remembered(unix: float, zero: float, now: float) -> float:
    """The monotonic second of a time that is known in Unix seconds only, as an agent from before monotonic times or
    from before a reboot has written it. `now` is monotonic, `zero` as in `Moment`.

    Assumed is that the wall clock was right then and is right now, but no more than that it was not before this boot
    and is not to come: with a wall clock that is wrong by any amount it is from the boot until now.
    """
    return min(max(unix - zero, 0.0), now)
