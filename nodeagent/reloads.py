"""The story of the reloads: one log line, one metric and one entry of the status for each, told when it is over.

A reload is over when what could be done at once has been done and sent: that is the moment in which an operator's
question 'has it taken?' has an answer. What drains goes on after it, and the line says so.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from nodeagent.model.config import Loaded, Unreadable, mistakes
from nodeagent.model.holds import ShareKey
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.plan import Plan, WaitReason
from nodeagent.model.printable import cut
from nodeagent.model.shares import Listing
from nodeagent.model.snapshot import ChangeClass, Reload, ReloadResult
from nodeagent.state import summary
from nodeagent.state.acceptance import Acceptance, Verdict, info
from nodeagent.state.desired import Desired
from nodeagent.state.observed import Observed

logger = logging.getLogger(__name__)

KEPT = 20

MOST_TOLD = 10
"""Mistakes of a document that its reload names; the status has more of the newest one."""

LONGEST = 3000
"""Characters that a reload says, in the log and in each entry of the status: few say a tenth of it."""

VERIFY_SECONDS = 10.0
"""How long the daemons that a document asks for may take until its reload counts as failed."""


class Counters(Protocol):
    """What is counted of a reload, beside what every snapshot says."""

    def reload(
        self, result: ReloadResult, stage: str | None, change: ChangeClass | None, duration: float | None
    ) -> None: ...


@dataclass(frozen=True, slots=True)
class _Pending:
    acceptance: Acceptance
    verdict: Verdict
    event_at: float
    desired: Desired | None
    view: Observed
    verify_by: float
    concerns: frozenset[str]
    changed: int = 0


class Reloads:
    """Begins, ends and remembers reloads. `clock` in monotonic seconds."""

    def __init__(self, counters: Counters, *, clock: Callable[[], float]) -> None:
        self._counters = counters
        self._clock = clock
        self._pending: _Pending | None = None
        self.history: tuple[Reload, ...] = ()

    def begin(
        self,
        acceptance: Acceptance,
        verdict: Verdict,
        event_at: float,
        desired: Desired | None,
        view: Observed,
        *,
        concerns: frozenset[str],
    ) -> None:
        """A document has been judged. `concerns` are the GPUs of which it asks something else than was asked before.

        One that has not been told yet is overtaken: told as it stands, and what it has asked for is told with this one.
        """
        concerns |= self.concerns
        if self._pending is not None:
            self._end(self._pending, view.held, None)
        verify_by = self._clock() + VERIFY_SECONDS
        self._pending = _Pending(acceptance, verdict, event_at, desired, view, verify_by, concerns)

    @property
    def concerns(self) -> frozenset[str]:
        """The GPUs that the pending reload asks something of. A daemon that is not ready on another one, perhaps for
        days, is not its failure.
        """
        return self._pending.concerns if self._pending is not None else frozenset()

    def ends(self) -> list[float]:
        """When a reload is told though nothing happens, in monotonic seconds."""
        return [self._pending.verify_by] if self._pending is not None else []

    def end(
        self,
        *,
        plan: Plan,
        held: frozenset[ShareKey],
        listings: Mapping[str, Listing],
        registrations: tuple[RegistrationStatus, ...],
        problem: str | None,
        coming: bool,
        unready: str,
    ) -> None:
        """Tell the pending reload if it is over: the newest lists are on every open stream, and the daemons that need
        not wait for pods (`coming`) are verified; or an action has failed (`problem`), or a daemon is still not ready
        (`unready`) in the end.
        """
        pending = self._pending
        if pending is None:
            return
        if plan.waves.changed > pending.changed:
            # Each wave has daemons of its own to start.
            verify_by = self._clock() + VERIFY_SECONDS
            self._pending = pending = replace(pending, verify_by=verify_by, changed=plan.waves.changed)
        failure = ("apply", problem) if problem is not None else ("verify", unready) if unready else None
        if pending.verdict.result is ReloadResult.ACCEPTED:
            deciding = any(
                wait.reason is WaitReason.FRESH_LIST and wait.uuid in pending.concerns for wait in plan.waits
            )
            unverified = (coming or bool(unready)) and self._clock() < pending.verify_by
            if problem is None and (deciding or unverified or not _sent(listings, registrations)):
                return
        elif problem is None or pending.verdict.result is not ReloadResult.UNCHANGED:
            failure = None
        self._pending = None
        self._end(pending, held, failure)

    def _end(self, pending: _Pending, held: frozenset[ShareKey], failure: tuple[str, str] | None) -> None:
        """`failure`: the stage, and what has failed in it."""
        result, stage = pending.verdict.result, pending.verdict.stage
        stage_name = stage.value if stage is not None else None
        problem = None
        if failure is not None:
            told, problem = failure
            if result is ReloadResult.ACCEPTED:
                result, stage_name = ReloadResult.FAILED, told
        accepted = result is ReloadResult.ACCEPTED
        # For pods as they are by now: the look at them that the document asked for has come since.
        change = summary.change(pending.desired, replace(pending.view, held=held))
        newest = pending.acceptance.newest
        reload = Reload(
            at=self._clock(),
            document=info(newest) if isinstance(newest, Loaded) else None,
            result=result,
            change=change.kind if accepted else None,
            message=_message(pending.acceptance, result, change.text, problem),
            duration=self._clock() - pending.event_at,
        )
        _log(reload, change.draining if accepted else 0)
        self.history = (reload, *self.history)[:KEPT]
        self._counters.reload(result, stage_name, reload.change, reload.duration if accepted else None)


def _log(reload: Reload, draining: int) -> None:
    """The whole story in one line."""
    document = reload.document
    source = f"blob {document.git_blob}" if document is not None else "no document"
    if document is not None and document.revision:
        source = f"{source}, revision {document.revision}"
    good = reload.result in (ReloadResult.ACCEPTED, ReloadResult.UNCHANGED)
    kind = f"{reload.change.value}, " if reload.change is not None else ""
    logger.log(
        logging.INFO if good else logging.ERROR,
        "config %s: %s: %s (%s%.0f ms)",
        reload.result.value,
        source,
        reload.message.replace("\n", "; "),
        kind,
        reload.duration * 1000,
        extra={
            "result": reload.result.value,
            "git_blob": document.git_blob if document is not None else None,
            "revision": document.revision if document is not None else None,
            "change": reload.change.value if reload.change is not None else None,
            "draining": draining,
            "duration_seconds": round(reload.duration, 4),
        },
    )


def _message(acceptance: Acceptance, result: ReloadResult, change: str, problem: str | None) -> str:
    if isinstance(acceptance.newest, Unreadable):
        return acceptance.newest.message
    if acceptance.violations:
        told = [str(violation) for violation in acceptance.violations[:MOST_TOLD]]
        rest = mistakes(acceptance.violations[MOST_TOLD:])
        return cut("\n".join([*told, f"and {rest} more"] if rest else told), LONGEST)
    if result is ReloadResult.FAILED:
        return f"{change}: {problem}"
    if acceptance.suspended:
        return "spec.suspend is true: what is applied is kept"
    return change


def _sent(listings: Mapping[str, Listing], registrations: tuple[RegistrationStatus, ...]) -> bool:
    """Whether every open stream has sent the newest list. What is not registered has no stream to send on."""
    newest = {name: listing.revision for name, listing in listings.items()}
    return all(
        entry.sent_revision >= newest.get(entry.resource, 0)
        for entry in registrations
        if entry.state is RegistrationState.LIVE
    )
