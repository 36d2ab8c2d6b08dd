"""Whether the agent ends itself so that a new process meets the driver: once for each trouble, then ever more seldom.

A library that was loaded before the driver was replaced, and a container that has lost its device nodes, are of no use
any more, whatever this process does: a new container has new ones. It may also have the same trouble again, and then
another end would help no more than the first.

So what was tried is remembered on disk, before the end. The same trouble may end the agent again ten minutes after the
first end, and four times as long after each further one of this boot, up to a day: a trouble that comes back is met
each time that it is rare, and one that does not go costs ever less. Until then whoever finds it stays, and says so.

A trouble is only what this process has seen come: what it found when it began, a new one would find as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from nodeagent.model.inventory import Inventory, InventoryReason, RenewalNote

PATIENCE: Final = 30.0
"""Seconds for which a trouble must last: most that begin with an upgrade of the driver end with it."""

AGAIN_AFTER: Final = 600.0
"""Seconds after the first end until another one for the same trouble."""

AGAIN_AT_MOST: Final = 86400.0
"""The same after very many."""

_MOST_FOURFOLD: Final = 8


class Step(Enum):
    """What is done now: nothing, or the end."""

    NOTHING = "nothing"
    END = "end"


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, what is on disk before it is, and what is said of it beside the trouble."""

    step: Step
    note: RenewalNote
    remark: str = ""


def trouble(inventory: Inventory) -> str | None:
    """What tells one trouble that a new process may not have from every other; None: there is none."""
    if inventory.change is None:
        return None
    return f"{inventory.change.value}/{inventory.kernel_version or 'unknown'}"


def again_after(note: RenewalNote) -> float:
    """Seconds from the last end until another one for a trouble that was tried."""
    return min(AGAIN_AFTER * 4.0 ** min(max(note.times - 1, 0), _MOST_FOURFOLD), AGAIN_AT_MOST)


def decide(note: RenewalNote, inventory: Inventory, lasted: float, now: float, *, wanted: bool) -> Decision:
    """What to do about what the driver is like, which has `lasted` for so many seconds; it is `now` on the clock by
    which the note has the last end.
    """
    found = trouble(inventory)
    if found is None:
        if inventory.reason is InventoryReason.FOUND:
            return Decision(Step.NOTHING, replace(note, helped=note.times > 0))
        failing = inventory.reason is InventoryReason.DRIVER_ERROR and note.times > 0
        return Decision(Step.NOTHING, note, _tried(note) if failing else "")
    if not wanted:
        return Decision(Step.NOTHING, note, "with --restart-on-driver-change the agent would end itself once for it")
    since = now - note.ended if now >= note.ended else lasted  # a clock that went back is another one
    if found in note.tried and since < again_after(note):
        again = f"at the earliest {again_after(note) / 60:g} min after the last time"
        return Decision(Step.NOTHING, note, f"{_tried(note)}; it does so again {again}")
    if lasted < PATIENCE:
        return Decision(Step.NOTHING, note, f"the agent ends itself once if it lasts for {PATIENCE:g} s")
    return Decision(Step.END, RenewalNote(note.tried | {found}, note.times + 1, now), "the agent ends itself")


def _tried(note: RenewalNote) -> str:
    often = "once" if note.times == 1 else f"{note.times} times"
    outcome = "after which the driver was well for a while" if note.helped else "which did not help"
    return f"the agent has ended itself {often} for it on this boot, {outcome}"
