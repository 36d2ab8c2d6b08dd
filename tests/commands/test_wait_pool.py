"""`nodeagent wait --pool`: a pipeline hears of every change, and of the end as soon as there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import pytest

from nodeagent.cli import main
from nodeagent.commands.exits import Failure
from nodeagent.commands.pool_verdict import Question
from nodeagent.commands.wait_pool import Ask, NoAnswer, wait
from nodeagent.model.node import NodeObject
from nodeagent.state.labels import ACCEPTED, APPLIED, ERROR, REJECTED, STATE

NEW, OLD = "5beb4efc651e", "76045d81ee80"
CANARY = "nodeagent.io/pool=canary"
PACE = (0.01, 60.0, 0.01)

HAS = NodeObject("node-1", {STATE: "applied", ACCEPTED: NEW, APPLIED: NEW})
DRAINS = NodeObject("node-2", {STATE: "draining", ACCEPTED: NEW, APPLIED: OLD})
BEHIND = NodeObject("node-2", {STATE: "applied", ACCEPTED: OLD, APPLIED: OLD})
REJECTS = NodeObject("node-2", {STATE: "rejected", ACCEPTED: OLD, REJECTED: NEW}, {ERROR: "sharing.yaml:9:21: no"})

Step = Sequence[NodeObject] | NoAnswer


def answering(*steps: Step) -> Ask:
    """An API server that gives these answers one after the other, and then the last one for ever."""
    left: Iterator[Step] = iter(steps)
    now: list[Step] = []

    def ask(_within: float) -> Sequence[NodeObject]:
        now[:] = [next(left, *now)]
        if isinstance(now[0], NoAnswer):
            raise now[0]
        return now[0]

    return ask


def test_progress_is_told_once_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    """What changes goes to stderr, once; the end to stdout, with exit code 0."""
    question = Question(NEW, CANARY, applied=True)
    ask = answering([], [HAS, BEHIND], [BEHIND, HAS], [HAS, DRAINS], [HAS, DRAINS], [HAS])
    assert wait(ask, question, 60.0, PACE) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == [
        f"there is no node with {CANARY}",
        f"1 of 2 nodes have applied {NEW}; waiting for node-2 (still has {OLD})",
        f"1 of 2 nodes have applied {NEW}; waiting for node-2 (draining)",
    ]
    assert told.out.startswith(f"the only node with {CANARY} has applied {NEW}, after ")


def test_a_rejection_ends_it_at_once() -> None:
    """Exit code 1 long before the time-out, with the node and its error."""
    with pytest.raises(Failure) as failed:
        wait(answering([HAS, REJECTS]), Question(NEW, CANARY), 3600.0, PACE)
    assert failed.value.code == 1
    assert str(failed.value) == f"node-2 rejects {NEW}:\n  sharing.yaml:9:21: no"


def test_an_api_that_fails_is_asked_again(capsys: pytest.CaptureFixture[str]) -> None:
    """An error is told like progress and forgotten when there is an answer."""
    ask = answering(NoAnswer("cannot list nodes: 500"), NoAnswer("cannot list nodes: 500"), [HAS])
    assert wait(ask, Question(NEW, CANARY), 60.0, PACE) == 0
    assert capsys.readouterr().err == "cannot list nodes: 500\n"


def test_an_api_server_that_wants_to_be_left_alone() -> None:
    """It is not asked again before that, nor longer than the question may last."""
    asked = []

    def ask(_within: float) -> Sequence[NodeObject]:
        asked.append(time.monotonic())
        raise NoAnswer("cannot list nodes: 429", pause=0.3 if len(asked) == 1 else 60.0)

    with pytest.raises(Failure, match="not within"):
        wait(ask, Question(NEW, CANARY), 0.6, PACE)
    assert len(asked) == 3
    assert asked[1] - asked[0] >= 0.3


@pytest.mark.parametrize(
    ("steps", "code", "last"),
    [
        ([[BEHIND]], 1, f"0 of 1 nodes have accepted {NEW}; waiting for node-2 (still has {OLD})"),
        ([[]], 1, f"there is no node with {CANARY}"),
        ([[BEHIND], NoAnswer("cannot list nodes: gone")], 1, "cannot list nodes: gone"),
        ([NoAnswer("cannot list nodes: refused")], 3, "cannot list nodes: refused"),
    ],
)
def test_time_is_limited(steps: list[Step], code: int, last: str, capsys: pytest.CaptureFixture[str]) -> None:
    """After the time-out it is exit code 1, or 3 where the API never answered; the last word is what it was about."""
    with pytest.raises(Failure, match=r"^not within 0\.1 s$") as failed:
        wait(answering(*steps), Question(NEW, CANARY), 0.1, PACE)
    assert failed.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == last


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--nodes", "3"], "--nodes is about a pool: it needs --pool or --selector"),
        (["--kubeconfig", "x"], "--kubeconfig is about a pool: it needs --pool or --selector"),
        (["--pool", "a", "--agent", "gpu-node-7:9400"], "--agent is about one node: it cannot be with --pool"),
        (["--pool", ""], "expected the name of a pool, a label value, got ''"),
        (["--pool", "a,b"], "expected the name of a pool, a label value, got 'a,b'"),
        (["--selector", " "], "expected labels such as gpu=h100,zone=a, got nothing"),
        (["--pool", "a", "--nodes", "0"], "expected a number of nodes, 1 or more, got '0'"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A flag of the one question with the other, or a pool that an empty variable names, is a usage error: nothing is
    asked.
    """
    assert main(["wait", "--blob", NEW, *arguments]) == 64
    assert said in capsys.readouterr().err
