"""Whether the nodes of a pool have a document, judged by the labels that their agents have put on them.

Pure. The labels are what an API server remembers of a node: they lag a little behind it, and those of a node whose
agent is away are as old as its last word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from nodeagent.commands.wait import Answer, Verdict
from nodeagent.model.node import NodeObject
from nodeagent.state.labels import ACCEPTED, APPLIED, BLOB, ERROR, REJECTED, SETTLED, STATE

_LEAST: Final = 7
"""Characters of a blob id that tell it from others."""

_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of the nodes that `selector` selects: at least `least` of them, and all with the document whose git
    blob id begins with `blob`; accepted, or `applied`.
    """

    blob: str
    selector: str
    applied: bool = False
    least: int = 1


def judge_pool(nodes: Sequence[NodeObject], question: Question) -> Answer:
    """Whether all of these nodes have what is asked for, and if not, which do not, and why."""
    blob, done = question.blob[:BLOB], "applied" if question.applied else "accepted"
    pending = [node for node in sorted(nodes, key=lambda node: node.name) if not _has(node, question)]
    rejecting = [node for node in pending if _is(node.labels.get(REJECTED), question.blob)]
    if rejecting:
        return Answer(Verdict.NEVER, "\n  ".join(_rejections(rejecting, blob)))
    few = len(nodes) < question.least
    if not pending and not few:
        who = f"all {len(nodes)} nodes" if len(nodes) > 1 else "the only node"
        has = "have" if len(nodes) > 1 else "has"
        return Answer(Verdict.YES, f"{who} with {question.selector} {has} {done} {blob}")
    if not nodes:
        return Answer(Verdict.NOT_YET, f"there is no node with {question.selector}")
    text = f"{len(nodes) - len(pending)} of {len(nodes)} nodes have {done} {blob}"
    waits = [_waiting_for(pending, question)] if pending else []
    if few:
        waits.append(f"waiting for {question.least} nodes with {question.selector}")
    return Answer(Verdict.NOT_YET, "; ".join([text, *waits]))


def _has(node: NodeObject, question: Question) -> bool:
    """Whether the node has it now. That it was applied is not enough: another document may have been accepted since."""
    labels, blob = node.labels, question.blob
    if not _is(labels.get(ACCEPTED), blob):
        return False
    return not question.applied or _settled(labels, blob)


def _settled(labels: Mapping[str, str], blob: str) -> bool:
    """Whether everything is as the accepted document wants it, which is `blob`. An agent of 0.1.0 does not say so: of
    its labels the state is the nearest, which hides a drain behind anything graver.
    """
    if SETTLED in labels:
        return labels[SETTLED] == "true"
    return _is(labels.get(APPLIED), blob) and labels.get(STATE) != "draining"


def _waiting_for(pending: Sequence[NodeObject], question: Question) -> str:
    named = [f"{node.name} ({_why(node, question)})" for node in pending[:_NAMED]]
    more = len(pending) - len(named)
    return f"waiting for {', '.join(named)}{f' and {more} more' if more else ''}"


def _why(node: NodeObject, question: Question) -> str:
    labels = node.labels
    state, accepted, rejected = labels.get(STATE), labels.get(ACCEPTED), labels.get(REJECTED)
    if _is(accepted, question.blob):
        if labels.get(SETTLED) == "false" and state not in {"draining", "suspended"}:
            return "not settled" if state in {None, "applied"} else f"not settled, {state}"
        return state if state not in {None, "applied"} else "accepted"
    if rejected:
        return f"rejects {rejected}"
    if accepted:
        return f"still has {accepted}"
    return "nothing accepted" if state else "no word of its agent"


def _rejections(nodes: Sequence[NodeObject], blob: str) -> list[str]:
    """Who rejects it, and the errors: once, where they are the same."""
    names = [node.name for node in nodes]
    listed, more = ", ".join(names[:_NAMED]), len(names) - _NAMED
    verb = "reject" if len(names) > 1 else "rejects"
    errors = dict.fromkeys(text for node in nodes if (text := node.annotations.get(ERROR, "").strip()))
    first = f"{listed}{f' and {more} more' if more > 0 else ''} {verb} {blob}"
    return [f"{first}:", *(line for error in errors for line in error.splitlines())] if errors else [first]


def _is(label: str | None, blob: str) -> bool:
    """Whether a label names this document: it carries the beginning of an id, and so may the question."""
    return label is not None and len(label) >= _LEAST and (label.startswith(blob) or blob.startswith(label))
