"""Each reload is told once, when it is over: what could be done at once has been done, sent and verified."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from nodeagent.model.config import Document, Loaded, Stage, Violation, Where
from nodeagent.model.kubelet import RegistrationState, RegistrationStatus
from nodeagent.model.plan import Plan, Wait, WaitReason
from nodeagent.model.shares import Listing
from nodeagent.model.snapshot import ChangeClass, Reload, ReloadResult
from nodeagent.reloads import KEPT, LONGEST, VERIFY_SECONDS, Reloads
from nodeagent.state.acceptance import Acceptance, Verdict
from tests.state import make

ACCEPTED = Verdict(ReloadResult.ACCEPTED)
BEFORE = make.seen(make.applied(make.entry(0, make.SLICED, range(2)), make.entry(1, make.SLICED, range(2))))
WANTED = make.wanted([make.gpu(0), make.gpu(1)], make.mps(4, 0), make.sliced(2))
CHANGE = f"GPU 0: time-sliced nvidia.com/gpu.shared x2 -> {make.QUARTER} x4"
UNREADY = "GPU 0: its MPS daemon is not as it should be: held by process 7 (python)"
WAITS = Plan(waits=(Wait("GPU-0", WaitReason.DAEMON, frozenset(range(4))),))
CALM = Plan()

Counted = tuple[ReloadResult, str | None, ChangeClass | None, float | None]


@dataclass
class Story:
    """Reloads with clocks that are moved by hand. A document's event is at second 100, its judgement at 100.5."""

    now: float = 100.5
    counted: list[Counted] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.reloads = Reloads(self, clock=lambda: self.now)

    def reload(
        self, result: ReloadResult, stage: str | None, change: ChangeClass | None, duration: float | None
    ) -> None:
        self.counted.append((result, stage, change, duration))

    def begin(self, verdict: Verdict = ACCEPTED, *violations: Violation, concerns: str = "GPU-0") -> None:
        """A document has been judged."""
        loaded = Loaded(Document("c", b"document"), make.config(make.mps(4, 0)), violations)
        judged = Acceptance(newest=loaded, violations=violations)
        self.reloads.begin(judged, verdict, 100.0, WANTED, BEFORE, concerns=frozenset({concerns}))

    def turn(
        self,
        plan: Plan = CALM,
        *,
        after: float = 0.0,
        unready: str = "",
        coming: bool = False,
        problem: str | None = None,
        sent: int = 7,
    ) -> Reload | None:
        """A turn ends, some time after the last one. The newest reload that has been told, if it was told by this."""
        self.now += after
        before = self.reloads.history
        self.reloads.end(
            plan=plan,
            held=frozenset(),
            listings={make.SHARED: Listing(make.SHARED, 7, ())},
            registrations=(RegistrationStatus(make.SHARED, RegistrationState.LIVE, sent_revision=sent),),
            problem=problem,
            coming=coming,
            unready=unready,
        )
        told = self.reloads.history
        return told[0] if told != before else None


@pytest.fixture
def story() -> Story:
    """A document that brings GPU 0 under MPS has been accepted."""
    story = Story()
    story.begin()
    return story


def test_a_reload_is_told_when_its_daemons_are_verified(story: Story) -> None:
    """Not before, and with the time from the file's event to that moment."""
    assert story.turn(coming=True) is None
    assert story.turn(WAITS, after=1.0, unready=UNREADY) is None
    assert story.turn(WAITS, after=2.0, unready=UNREADY) is None
    told = story.turn(after=0.5)
    assert told is not None
    assert (told.result, told.message, told.duration) == (ReloadResult.ACCEPTED, CHANGE, 4.0)
    assert story.counted == [(ReloadResult.ACCEPTED, None, ChangeClass.LIVE, 4.0)]
    assert story.turn() is None
    assert story.reloads.ends() == []


def test_a_daemon_that_is_not_ready_in_the_end_fails_the_reload(story: Story) -> None:
    """With stage `verify` and what the daemon says, after the time that is allowed and not before."""
    assert story.reloads.ends() == [100.5 + VERIFY_SECONDS]
    assert story.turn(WAITS, after=VERIFY_SECONDS - 0.01, unready=UNREADY) is None
    told = story.turn(WAITS, after=0.02, unready=UNREADY)
    assert told is not None
    assert (told.result, told.change, told.message) == (ReloadResult.FAILED, None, f"{CHANGE}: {UNREADY}")
    assert story.counted == [(ReloadResult.FAILED, "verify", None, None)]
    assert story.reloads.ends() == []


def test_a_daemon_that_was_late_but_is_ready_is_no_failure(story: Story) -> None:
    """What counts is how it stands when the reload is told."""
    told = story.turn(after=2 * VERIFY_SECONDS)
    assert told is not None
    assert told.result is ReloadResult.ACCEPTED


def test_a_gpu_that_is_about_to_come_under_mps_is_waited_for(story: Story) -> None:
    """As long as its daemon would be; a kubelet that holds it up for longer is no failure of the daemon."""
    assert story.turn(coming=True, after=VERIFY_SECONDS - 0.1) is None
    told = story.turn(coming=True, after=0.2)
    assert told is not None
    assert told.result is ReloadResult.ACCEPTED


def test_what_cannot_be_written_is_told_at_once(story: Story) -> None:
    """The disk comes before the daemons: stage `apply`, though a daemon is not ready either."""
    told = story.turn(WAITS, unready=UNREADY, coming=True, problem="no space left on device")
    assert told is not None
    assert (told.result, told.message) == (ReloadResult.FAILED, f"{CHANGE}: no space left on device")
    assert story.counted == [(ReloadResult.FAILED, "apply", None, None)]


def test_a_reload_that_is_not_on_every_stream_is_not_over(story: Story) -> None:
    """However late its daemons are."""
    assert story.turn(sent=6) is None
    assert story.turn(WAITS, after=2 * VERIFY_SECONDS, unready=UNREADY, sent=6) is None
    told = story.turn(WAITS, unready=UNREADY)
    assert told is not None
    assert told.result is ReloadResult.FAILED


def test_a_reload_waits_for_the_look_that_decides(story: Story) -> None:
    """Whether shares are held is known then; what drains or is on its way out goes on after it."""
    deciding = Plan(waits=(Wait("GPU-0", WaitReason.FRESH_LIST, frozenset({0})),))
    assert story.turn(deciding) is None
    draining = Plan(waits=(Wait("GPU-0", WaitReason.PODS, frozenset({0})), Wait("GPU-0", WaitReason.KUBELET)))
    told = story.turn(draining)
    assert told is not None
    assert told.result is ReloadResult.ACCEPTED


def test_a_reload_that_is_overtaken_is_told_as_it_stands(story: Story) -> None:
    """The next document has its own time for its own daemons."""
    assert story.turn(WAITS, after=VERIFY_SECONDS - 1, unready=UNREADY) is None
    story.begin()
    (overtaken,) = story.reloads.history
    assert overtaken.result is ReloadResult.ACCEPTED
    assert story.reloads.ends() == [story.now + VERIFY_SECONDS]
    assert story.turn(WAITS, after=2.0, unready=UNREADY) is None
    told = story.turn(WAITS, after=VERIFY_SECONDS, unready=UNREADY)
    assert told is not None
    assert told.result is ReloadResult.FAILED


@pytest.mark.parametrize(
    ("verdict", "violations"),
    [
        (Verdict(ReloadResult.UNCHANGED), ()),
        (Verdict(ReloadResult.REJECTED, Stage.SCHEMA), (Violation("c", Where(), "no", Stage.SCHEMA),)),
    ],
    ids=["unchanged", "rejected"],
)
def test_a_document_that_changes_nothing_waits_for_no_daemon(
    verdict: Verdict, violations: tuple[Violation, ...]
) -> None:
    """What is wrong with daemons then is not its doing."""
    story = Story()
    story.begin(verdict, *violations)
    told = story.turn(WAITS, unready=UNREADY, coming=True)
    assert told is not None
    assert told.result is verdict.result
    stage = verdict.stage.value if verdict.stage is not None else None
    assert story.counted == [(verdict.result, stage, None, None)]


def test_a_reload_concerns_the_gpus_of_the_one_that_it_overtakes(story: Story) -> None:
    """Beside its own. What an earlier one asked for, and was told of, is not its failure."""
    assert story.reloads.concerns == {"GPU-0"}
    story.begin(concerns="GPU-1")
    assert story.reloads.concerns == {"GPU-0", "GPU-1"}
    story.turn()
    assert story.reloads.concerns == frozenset()
    story.begin(concerns="GPU-1")
    assert story.reloads.concerns == {"GPU-1"}


def test_the_last_reloads_are_remembered() -> None:
    """The newest first, and no more than so many."""
    story = Story()
    for _ in range(KEPT + 5):
        story.begin()
        story.turn(after=1.0)
    assert len(story.reloads.history) == KEPT
    assert story.reloads.history[0].at > story.reloads.history[-1].at


def test_the_worst_documents_one_after_the_other() -> None:
    """What is remembered of them, as what is logged, is bounded, however much is wrong with each."""
    story = Story()
    worst = Violation("c" * 200, Where("p" * 400), "\u202e" * 10**6, Stage.SCHEMA)
    for _ in range(KEPT + 5):
        story.begin(Verdict(ReloadResult.REJECTED, Stage.SCHEMA), *[worst] * 50)
        story.turn(after=1.0)
    assert sum(len(reload.message) for reload in story.reloads.history) <= KEPT * LONGEST
    story.begin(Verdict(ReloadResult.REJECTED, Stage.SCHEMA), *[replace(worst, message="no", where=Where())] * 50)
    told = story.turn()
    assert told is not None
    assert told.message.endswith("no\nand 40 more")


def test_mistakes_that_are_not_listed_are_counted() -> None:
    """One violation stands for all that a document has from there on: they are as many as the other reports say."""
    story = Story()
    one = Violation("c", Where(), "no", Stage.SCHEMA)
    rest = replace(one, message="150 more mistakes from here on", stands_for=150)
    story.begin(Verdict(ReloadResult.REJECTED, Stage.SCHEMA), *[one] * 50, rest)
    told = story.turn()
    assert told is not None
    assert told.message.endswith("no\nand 190 more")
