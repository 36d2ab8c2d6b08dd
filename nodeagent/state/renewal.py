"""Whether the agent ends itself so that a new process meets the driver: once for each trouble, and never in a loop.

A library that was loaded before the driver was replaced, and a container that has lost its device nodes, are of no use
any more, whatever this process does: a new container has new ones. It may also have the same trouble again, and then
another end would help no more than the first.

So what was tried is remembered on disk, before the end. It counts until the driver has been well for long: ten minutes
after the first end, four times as long after each further one of this boot. Whoever finds a trouble that was tried
stays, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from nodeagent.model.inventory import Inventory, RenewalNote

PATIENCE: Final = 30.0
"""Seconds for which a trouble must last: most that begin with an upgrade of the driver end with it."""

PROVEN: Final = 600.0
"""Seconds for which the driver must be well after the first end, before another trouble is a new one."""


class Step(Enum):
    """What is done now: nothing, the end, or only that what was tried is forgotten."""

    NOTHING = "nothing"
    END = "end"
    FORGET = "forget"


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


def decide(note: RenewalNote, found: str | None, lasted: float, *, well: bool, wanted: bool) -> Decision:
    """What to do about the trouble that was `found` and has `lasted` for so many seconds; where there is none, whether
    the driver is `well`, and for how long.
    """
    if found is None:
        proven = PROVEN * 4.0 ** max(note.times - 1, 0)
        if note.tried and well and lasted >= proven:
            return Decision(Step.FORGET, RenewalNote(frozenset(), note.times))
        return Decision(Step.NOTHING, note)
    if not wanted:
        return Decision(Step.NOTHING, note, "with --restart-on-driver-change the agent would end itself once for it")
    if found in note.tried:
        return Decision(Step.NOTHING, note, "the agent has ended itself once for it, which did not help")
    if lasted < PATIENCE:
        return Decision(Step.NOTHING, note, f"the agent ends itself once if it lasts for {PATIENCE:g} s")
    return Decision(Step.END, RenewalNote(note.tried | {found}, note.times + 1), "the agent ends itself")
