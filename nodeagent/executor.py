"""From an action to one call on one collaborator, and what came of it. Decides nothing.

Share actions of one plan are one step: the applied contract is written to disk as a whole before any of it is
advertised (DESIGN section 5, rule 9), and a list is sent once, not per action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nodeagent.collaborators import Registrations
from nodeagent.keeper import Keeper
from nodeagent.model.plan import (
    Action,
    Adopt,
    Advertise,
    Diagnose,
    KubeletAction,
    Limit,
    Reconnect,
    Register,
    Release,
    Remember,
    Resend,
    Restore,
    Retire,
    ShareAction,
    Start,
    Verdict,
)
from nodeagent.model.shares import Applied
from nodeagent.state.effect import perform

SAFE_UNWRITTEN = (Remember, Diagnose, Verdict, Adopt, Limit, Restore)
"""What a disk that cannot be written does not hold up. An agent that restarts without knowing of it decides the same
once more: facts come from the driver, what pods have from the kubelet, limits from the document, and a fence on what a
pod has is lifted. A verdict that was not written is not known to it; but a GPU that is ill is not offered because of
that, and an MPS daemon is verified before a share is granted."""


def share_actions(actions: Iterable[Action]) -> list[ShareAction]:
    """The actions that change the applied contract, in their order."""
    return [action for action in actions if not isinstance(action, Register | Retire | Resend | Reconnect)]


def kubelet_actions(actions: Iterable[Action]) -> list[KubeletAction]:
    """The actions on registrations, in their order."""
    return [action for action in actions if isinstance(action, Register | Retire | Resend | Reconnect)]


def without_disk(applied: Applied, actions: Iterable[ShareAction]) -> list[ShareAction]:
    """Those of a plan's share actions that need no disk. Where one that does, and gives a GPU another contract, is left
    out, so is what was decided for that contract: a limit, and the word that its daemon is well again.
    """
    found: list[ShareAction] = []
    held_up = set[str]()
    for action in actions:
        if not isinstance(action, SAFE_UNWRITTEN):
            if _changes_contract(applied, action):
                held_up.add(action.uuid)
        elif not (isinstance(action, Limit | Verdict) and action.uuid in held_up and not _is_fault(action)):
            found.append(action)
    return found


def _changes_contract(applied: Applied, action: ShareAction) -> bool:
    if isinstance(action, Advertise):
        known = applied.gpus.get(action.uuid)
        return known is None or known.contract != action.contract
    return isinstance(action, Release | Start)


def _is_fault(action: Limit | Verdict) -> bool:
    return isinstance(action, Verdict) and bool(action.fault)


@dataclass(frozen=True, slots=True)
class Performed:
    """What came of a plan: the applied contract after it, and those of its share actions that were performed."""

    applied: Applied
    actions: tuple[ShareAction, ...]


class Executor:
    """Performs plans. One at a time: the reconciler is its only caller."""

    def __init__(self, keeper: Keeper, registrations: Registrations, *, clock: Callable[[], float]) -> None:
        self._keeper = keeper
        self._registrations = registrations
        self._clock = clock

    async def apply(self, applied: Applied, actions: Sequence[ShareAction]) -> Performed:
        """Have the applied contract after the actions on disk; when it cannot be written, only those of them that need
        no disk are performed. What is on disk already is not written again; what an earlier step owes to the disk is.
        New fences are as old as the end of the write: nobody has been shown one before.
        """
        if not await self._keeper.keep_applied(perform(applied, actions, self._clock())):
            actions = without_disk(applied, actions)
        return Performed(perform(applied, actions, self._clock()), tuple(actions))

    def register(self, actions: Sequence[KubeletAction]) -> None:
        """Ask the kubelet's room for what the plan says of registrations."""
        for action in actions:
            match action:
                case Register(resource):
                    self._registrations.register(resource)
                case Retire(resource):
                    self._registrations.retire(resource)
                case Resend(resource):
                    self._registrations.resend(resource)
                case Reconnect(resource):
                    self._registrations.reconnect(resource)
