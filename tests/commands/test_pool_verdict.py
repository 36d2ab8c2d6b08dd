"""Whether the nodes of a pool have a document: what their labels say, told with the nodes that are missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nodeagent.commands.pool_verdict import Question, judge_pool
from nodeagent.commands.wait import Answer, Verdict
from nodeagent.model.node import NodeObject
from nodeagent.state.labels import ACCEPTED, APPLIED, ERROR, REJECTED, SETTLED, STATE

NEW, OLD, BAD = "5beb4efc651e", "76045d81ee80", "9bcff4c95e6f"
WHOLE_ID = "5beb4efc651e4b07b5ee9de6be5d3635714a72c0"
CANARY = "nodeagent.io/pool=canary"


def node(name: str, state: str, accepted: str | None, applied: str | None, rejected: str | None = None) -> NodeObject:
    """A node with the labels of its agent."""
    labels = {STATE: state, ACCEPTED: accepted, APPLIED: applied, REJECTED: rejected, "kubernetes.io/hostname": name}
    return NodeObject(name, {key: value for key, value in labels.items() if value is not None})


def mute(name: str) -> NodeObject:
    """A node whose agent has never said anything."""
    return NodeObject(name, {"nodeagent.io/pool": "canary"})


A = node("node-a", "applied", NEW, NEW)
B = node("node-b", "applied", NEW, NEW)
DEGRADED = node("node-d", "degraded", NEW, NEW)
DRAINING = node("node-c", "draining", NEW, OLD)
AGAIN = node("node-e", "draining", NEW, NEW)
BEHIND = node("node-o", "applied", OLD, OLD)
REJECTS_ANOTHER = node("node-r", "rejected", OLD, OLD, BAD)
KEEPS = node("node-k", "rejected", NEW, NEW, BAD)


@pytest.mark.parametrize(
    ("nodes", "question", "expected"),
    [
        ([A], Question(NEW, CANARY), Answer(Verdict.YES, f"the only node with {CANARY} has accepted {NEW}")),
        ([B, A], Question(NEW, CANARY), Answer(Verdict.YES, f"all 2 nodes with {CANARY} have accepted {NEW}")),
        (
            [B, A, DRAINING],
            Question(NEW, CANARY),
            Answer(Verdict.YES, f"all 3 nodes with {CANARY} have accepted {NEW}"),
        ),
        (
            [B, A, DRAINING],
            Question(NEW, CANARY, applied=True),
            Answer(Verdict.NOT_YET, f"2 of 3 nodes have applied {NEW}; waiting for node-c (draining)"),
        ),
        (
            [A, DEGRADED, KEEPS],
            Question(NEW, CANARY, applied=True),
            Answer(Verdict.YES, f"all 3 nodes with {CANARY} have applied {NEW}"),
        ),
        (
            [AGAIN],
            Question(NEW, CANARY, applied=True),
            Answer(Verdict.NOT_YET, f"0 of 1 nodes have applied {NEW}; waiting for node-e (draining)"),
        ),
        (
            [A, REJECTS_ANOTHER, BEHIND, mute("node-m"), node("node-n", "rejected", None, None)],
            Question(NEW, CANARY),
            Answer(
                Verdict.NOT_YET,
                f"1 of 5 nodes have accepted {NEW}; waiting for node-m (no word of its agent), "
                f"node-n (nothing accepted), node-o (still has {OLD}), node-r (rejects {BAD})",
            ),
        ),
        (
            [A, *(mute(f"node-{number}") for number in range(8))],
            Question(NEW, CANARY),
            Answer(
                Verdict.NOT_YET,
                f"1 of 9 nodes have accepted {NEW}; waiting for "
                + ", ".join(f"node-{number} (no word of its agent)" for number in range(5))
                + " and 3 more",
            ),
        ),
        ([], Question(NEW, CANARY), Answer(Verdict.NOT_YET, f"there is no node with {CANARY}")),
        (
            [A, B],
            Question(NEW, CANARY, least=3),
            Answer(Verdict.NOT_YET, f"2 of 2 nodes have accepted {NEW}; waiting for 3 nodes with {CANARY}"),
        ),
        (
            [A, BEHIND],
            Question(NEW, CANARY, least=3),
            Answer(
                Verdict.NOT_YET,
                f"1 of 2 nodes have accepted {NEW}; waiting for node-o (still has {OLD}); "
                f"waiting for 3 nodes with {CANARY}",
            ),
        ),
        (
            [A, REJECTS_ANOTHER],
            Question(BAD, CANARY),
            Answer(Verdict.NEVER, f"node-r rejects {BAD}"),
        ),
        (
            [KEEPS],
            Question(BAD, CANARY, applied=True),
            Answer(Verdict.NEVER, f"node-k rejects {BAD}"),
        ),
    ],
)
def test_the_verdict(nodes: list[NodeObject], question: Question, expected: Answer) -> None:
    """All nodes must have accepted it, or with `applied` have nothing left to do for it; one that rejects it ends the
    wait; none at all, or too few, are never enough.
    """
    assert judge_pool(nodes, question) == expected


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (A, "not settled"),
        (DEGRADED, "not settled, degraded"),
        (KEEPS, "not settled, rejected"),
        (AGAIN, "draining"),
        (node("node-s", "suspended", NEW, NEW), "suspended"),
    ],
)
def test_what_a_node_says_of_being_settled_counts(told: NodeObject, why: str) -> None:
    """Whatever the gravest state is: by it a node of an agent that does not say so, of 0.1.0, is judged."""
    question = Question(NEW, CANARY, applied=True)
    settled = replace(told, labels={**told.labels, SETTLED: "true"})
    assert judge_pool([settled], question).verdict is Verdict.YES
    not_yet = replace(told, labels={**told.labels, SETTLED: "false"})
    found = judge_pool([not_yet], question)
    assert found.verdict is Verdict.NOT_YET
    assert found.message.endswith(f"waiting for {told.name} ({why})")
    assert judge_pool([not_yet], Question(NEW, CANARY)).verdict is Verdict.YES
    of_another = replace(settled, labels={**settled.labels, ACCEPTED: OLD})
    assert judge_pool([of_another], question).verdict is Verdict.NOT_YET


@pytest.mark.parametrize("blob", [NEW[:7], NEW, NEW + "4b07", WHOLE_ID])
def test_an_id_may_be_shorter_or_longer_than_the_label(blob: str) -> None:
    """A label has 12 characters of the id, a question 7 to 40: they are compared as far as both go."""
    assert judge_pool([A], Question(blob, CANARY)).verdict is Verdict.YES
    assert judge_pool([BEHIND], Question(blob, CANARY)).verdict is Verdict.NOT_YET


@pytest.mark.parametrize("label", ["", "5", "5beb4e"])
def test_a_label_that_names_no_document_is_no_answer(label: str) -> None:
    """What somebody else wrote there does not count as every document."""
    assert (
        judge_pool([node("node-a", "applied", label, label, label)], Question(NEW, CANARY)).verdict is Verdict.NOT_YET
    )


def test_a_rejection_is_told_with_its_errors() -> None:
    """The annotation says what is wrong; what several nodes say alike is told once, and no line of it is lost."""
    error = "sharing.yaml:9:21: expected a known key\nsharing.yaml:10:1: expected another"
    nodes = [
        NodeObject(f"node-{number}", {ACCEPTED: OLD, REJECTED: BAD}, {ERROR: error if number < 6 else ""})
        for number in range(7)
    ]
    answer = judge_pool([A, *nodes], Question(BAD, CANARY))
    assert answer.verdict is Verdict.NEVER
    assert answer.message.splitlines() == [
        f"node-0, node-1, node-2, node-3, node-4 and 2 more reject {BAD}:",
        "  sharing.yaml:9:21: expected a known key",
        "  sharing.yaml:10:1: expected another",
    ]


def test_a_node_that_came_back_to_it_is_not_rejecting_it() -> None:
    """A document that is in force is accepted, though the node's GPUs have come to be at odds with it."""
    at_odds = node("node-a", "rejected", NEW, NEW, NEW)
    assert judge_pool([at_odds], Question(NEW, CANARY, applied=True)).verdict is Verdict.YES
