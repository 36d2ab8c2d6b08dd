"""How documents are judged, and what is in force after that."""

from __future__ import annotations

import pytest

from nodeagent.model.config import Document, Loaded, SharingConfig, Stage, Unreadable, Violation, Where
from nodeagent.model.snapshot import ReloadResult
from nodeagent.state.acceptance import Acceptance, Verdict, config_state, judge, resume, wanted
from tests.state import make

GPUS = [make.gpu(0), make.gpu(1)]
GONE = Unreadable("c", missing=True, message="c is missing")


def document(data: bytes, config: SharingConfig | None, *violations: Violation) -> Loaded:
    """A document and what it means."""
    return Loaded(Document("c", data), config, violations)


def broken(data: bytes = b"bad", stage: Stage = Stage.SCHEMA) -> Loaded:
    """A document that nobody can accept."""
    return document(data, None, Violation("c", Where(), "no", stage))


FIRST = document(b"first", make.config(make.sliced(2)))
SECOND = document(b"second", make.config(make.sliced(4)))
SAME = document(b"first, with a comment", make.config(make.sliced(2)))
HUGE = document(b"huge", make.config(make.sliced(100_000)))


def after(*documents: Loaded | Unreadable, gpus: int = 2) -> tuple[Acceptance, Verdict | None]:
    """The state after a series of documents, and the last verdict."""
    state, verdict = Acceptance(), None
    for one in documents:
        state, verdict = judge(state, one, [make.gpu(index) for index in range(gpus)])
    return state, verdict


@pytest.mark.parametrize(
    ("documents", "verdict", "generation"),
    [
        ([FIRST], Verdict(ReloadResult.ACCEPTED), 1),
        ([FIRST, FIRST], None, 1),
        ([FIRST, SAME], Verdict(ReloadResult.UNCHANGED), 1),
        ([FIRST, SECOND], Verdict(ReloadResult.ACCEPTED), 2),
        ([FIRST, broken()], Verdict(ReloadResult.REJECTED, Stage.SCHEMA), 1),
        ([FIRST, broken(), broken()], None, 1),
        ([FIRST, broken(), FIRST], Verdict(ReloadResult.UNCHANGED), 1),
        ([FIRST, GONE], Verdict(ReloadResult.FAILED, Stage.READ), 1),
        ([FIRST, GONE, FIRST], Verdict(ReloadResult.UNCHANGED), 1),
        ([broken(), SECOND], Verdict(ReloadResult.ACCEPTED), 1),
    ],
)
def test_each_document_has_its_verdict(
    documents: list[Loaded | Unreadable], verdict: Verdict | None, generation: int
) -> None:
    """New meaning is accepted, the same meaning is unchanged, the same bytes are no news; the rest changes nothing."""
    state, found = after(*documents)
    assert (found, state.generation) == (verdict, generation)


@pytest.mark.parametrize(
    "bad", [broken(), broken(stage=Stage.PARSE), GONE, HUGE], ids=["schema", "parse", "gone", "huge"]
)
def test_what_cannot_be_accepted_leaves_what_is_in_force(bad: Loaded | Unreadable) -> None:
    """The desired state is the same before and after."""
    before, _ = after(FIRST)
    state, verdict = judge(before, bad, GPUS)
    assert verdict is not None
    assert verdict.result in (ReloadResult.REJECTED, ReloadResult.FAILED)
    assert wanted(state, GPUS) == wanted(before, GPUS) == (make.wanted(GPUS, make.sliced(2)), ())


def test_going_back_to_the_accepted_bytes_clears_the_error() -> None:
    """There is nothing wrong any more."""
    assert after(FIRST, broken())[0].violations
    assert not after(FIRST, broken(), FIRST)[0].violations


def test_a_document_that_does_not_fit_these_gpus_is_judged_again_when_they_change() -> None:
    """A list that is too long with two GPUs is not with one; and the other way round."""
    big = document(b"big", make.config(make.sliced(100_000)))
    state, verdict = after(big)
    assert verdict == Verdict(ReloadResult.REJECTED, Stage.SEMANTIC)
    assert judge(state, big, GPUS) == (state, None)
    state, verdict = judge(state, big, GPUS[:1])
    assert verdict == Verdict(ReloadResult.ACCEPTED)
    desired, obstacles = wanted(state, GPUS)
    assert desired is None
    assert [one.message for one in obstacles] == [one.message for one in judge(state, big, GPUS)[0].violations]


def test_more_gpus_may_make_too_many_shares() -> None:
    """A config that was accepted on fewer GPUs, each list of which the kubelet still takes, is an obstacle when there
    are more: what is applied is kept, and the rule that is to be changed is named.
    """
    big = document(b"big", make.config(*(make.sliced(50_000, one, resource=f"a/{one}") for one in range(3))))
    state, verdict = after(big)
    assert verdict == Verdict(ReloadResult.ACCEPTED)
    gpus = [make.gpu(index) for index in range(3)]
    again, verdict = judge(state, big, gpus)
    assert verdict == Verdict(ReloadResult.REJECTED, Stage.SEMANTIC)
    desired, obstacles = wanted(again, gpus)
    assert desired is None
    assert "got 150000 on 3 GPUs" in obstacles[0].message


def test_the_last_known_good_is_in_force_until_something_is_accepted() -> None:
    """And says so. The same meaning in the mount is then no change."""
    state = resume(after(broken())[0], FIRST)
    assert state.from_store
    assert wanted(state, GPUS) == (make.wanted(GPUS, make.sliced(2)), ())
    state, verdict = judge(state, SAME, GPUS)
    assert verdict == Verdict(ReloadResult.UNCHANGED)
    assert (state.from_store, state.generation) == (False, 1)
    assert resume(Acceptance(), broken()) == Acceptance()


def test_suspended_keeps_what_is_applied() -> None:
    """The document is accepted, and nothing is wanted."""
    state, verdict = after(FIRST, document(b"s", make.config(make.sliced(4), suspend=True)))
    assert verdict == Verdict(ReloadResult.ACCEPTED)
    assert state.suspended
    assert wanted(state, GPUS) == (None, ())
    assert wanted(Acceptance(), GPUS) == (None, ())


def test_the_reports_tell_newest_and_accepted_apart() -> None:
    """Which document is in the mount, which is in force, which was applied, and what is wrong."""
    state, _ = after(FIRST, broken())
    told = config_state(state, path="c", applied=FIRST, last_known_good=FIRST.document, observed_generation=1)
    assert told.newest is not None
    assert told.desired is not None
    assert told.newest.git_blob == Document("c", b"bad").git_blob
    assert told.desired.git_blob == FIRST.document.git_blob
    assert told.applied == told.desired
    assert (told.generation, told.observed_generation, len(told.violations)) == (1, 1, 1)
    missing = config_state(after(FIRST, GONE)[0], path="c", applied=None, last_known_good=None, observed_generation=0)
    assert (missing.newest, missing.problem) == (None, "c is missing")
