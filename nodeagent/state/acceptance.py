"""How documents are judged: accepted, unchanged, rejected or unreadable, and which config is in force after that.

A rejected document changes nothing but what is said of it. It is judged again only when its bytes change, or when it
was rejected for what this node's GPUs are and those have changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nodeagent.model.config import Document, Loaded, SharingConfig, Stage, Unreadable, Violation
from nodeagent.model.inventory import Gpu
from nodeagent.model.shares import Applied
from nodeagent.model.snapshot import ConfigState, DocumentInfo, ReloadResult
from nodeagent.state.desired import Desired, check, resolve


@dataclass(frozen=True, slots=True)
class Acceptance:
    """Where the judging stands. `accepted` is the document in force, `violations` what is wrong with `newest`.

    `generation` counts accepted documents. `from_store` says that the document in force is the last known good one, not
    the mounted one.
    """

    newest: Loaded | Unreadable | None = None
    violations: tuple[Violation, ...] = ()
    accepted: Loaded | None = None
    generation: int = 0
    from_store: bool = False

    @property
    def config(self) -> SharingConfig | None:
        return self.accepted.config if self.accepted is not None else None

    @property
    def suspended(self) -> bool:
        return self.config is not None and self.config.suspend


@dataclass(frozen=True, slots=True)
class Verdict:
    """How one look at a document ended; `stage` is where it failed."""

    result: ReloadResult
    stage: Stage | None = None


def judge(before: Acceptance, newest: Loaded | Unreadable, gpus: Sequence[Gpu]) -> tuple[Acceptance, Verdict | None]:
    """Judge the newest document on this node's GPUs. No verdict where nothing new can be said: that other GPUs are at
    odds with it than before is told without one.
    """
    known = newest == before.newest
    if isinstance(newest, Unreadable):
        if known:
            return before, None
        return replace(before, newest=newest, violations=()), Verdict(ReloadResult.FAILED, Stage.READ)
    violations = newest.violations or _on_these(newest, gpus)
    if known and bool(violations) == bool(before.violations):
        return before if violations == before.violations else replace(before, violations=violations), None
    if newest.config is None or violations:
        stage = violations[0].stage if violations else Stage.PARSE
        return replace(before, newest=newest, violations=violations), Verdict(ReloadResult.REJECTED, stage)
    same = before.config == newest.config
    return (
        Acceptance(newest, (), newest, before.generation + (not same), from_store=False),
        Verdict(ReloadResult.UNCHANGED if same else ReloadResult.ACCEPTED),
    )


def resume(before: Acceptance, stored: Loaded) -> Acceptance:
    """Put the last known good document in force, where the mounted one cannot be."""
    if stored.config is None:
        return before
    return replace(before, accepted=stored, generation=before.generation + 1, from_store=True)


def wanted(acceptance: Acceptance, gpus: Sequence[Gpu]) -> tuple[Desired | None, tuple[Violation, ...]]:
    """The desired state; None where what is applied is to be kept: nothing accepted, suspended, or impossible on these
    GPUs, with what makes it so.
    """
    accepted = acceptance.accepted
    if accepted is None or accepted.config is None or acceptance.suspended:
        return None, ()
    desired = resolve(accepted.config, gpus)
    obstacles = check(desired, accepted.document.path)
    return (None if obstacles else desired), obstacles


def unfinished(acceptance: Acceptance, gpus: Sequence[Gpu], applied: Applied) -> Desired | None:
    """What is still to be done while a config suspends that an agent has found as it started: GPUs that had taken the
    very contract which that config gives them, and have nothing on the list yet. None where there is no such GPU.
    """
    config = acceptance.config
    if config is None or not config.suspend:
        return None
    found = resolve(config, gpus)
    begun = {
        uuid: want
        for uuid, want in found.wants.items()
        if (entry := applied.gpus.get(uuid)) is not None
        and entry.contract is not None
        and entry.contract == want.contract
        and not entry.numbers
    }
    return Desired(begun, found.most_unavailable) if begun else None


def config_state(
    acceptance: Acceptance,
    *,
    path: str,
    applied: Loaded | None,
    last_known_good: Document | None,
    observed_generation: int,
    obstacles: tuple[Violation, ...] = (),
    hints: tuple[str, ...] = (),
) -> ConfigState:
    """How the node stands to Git, for the reports. `obstacles` and `hints` are those of the config in force on these
    GPUs.
    """
    newest = acceptance.newest
    unreadable = newest if isinstance(newest, Unreadable) else None
    return ConfigState(
        path=path,
        newest=info(newest) if isinstance(newest, Loaded) else None,
        desired=info(acceptance.accepted),
        applied=info(applied),
        last_known_good=_stored_info(last_known_good, acceptance.accepted),
        violations=acceptance.violations,
        obstacles=obstacles if obstacles != acceptance.violations else (),
        notes=(*acceptance.config.notes, *hints) if acceptance.config is not None else (),
        problem=unreadable.message if unreadable is not None else None,
        generation=acceptance.generation,
        observed_generation=observed_generation,
        suspended=acceptance.suspended,
        using_last_known_good=acceptance.from_store,
    )


def followed(acceptance: Acceptance, given: str) -> str:
    """The file that was looked at last; the path that the agent was `given` until then."""
    newest = acceptance.newest
    if newest is None:
        return given
    return newest.path if isinstance(newest, Unreadable) else newest.document.path


def info(loaded: Loaded | None) -> DocumentInfo | None:
    """What names a document in the reports."""
    if loaded is None:
        return None
    return _document_info(loaded.document, loaded.config)


def _stored_info(document: Document | None, accepted: Loaded | None) -> DocumentInfo | None:
    if document is None:
        return None
    if accepted is not None and accepted.document == document:
        return info(accepted)
    return _document_info(document, None)


def _document_info(document: Document, config: SharingConfig | None) -> DocumentInfo:
    return DocumentInfo(
        path=document.path,
        sha256=document.sha256,
        git_blob=document.git_blob,
        revision=document.revision,
        name=config.name if config is not None else None,
        size=len(document.data),
    )


def _on_these(loaded: Loaded, gpus: Sequence[Gpu]) -> tuple[Violation, ...]:
    return check(resolve(loaded.config, gpus), loaded.document.path) if loaded.config is not None else ()
