"""A pipeline's question for every node of a pool, asked again and again until there is an answer."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Final

from nodeagent.commands.exits import OK, Failure
from nodeagent.commands.pool_verdict import PoolNode, Question, judge_pool
from nodeagent.commands.wait import NOT, UNREACHABLE, Verdict

PACE: Final = (2.0, 60.0, 5.0)
"""Seconds between two questions, how long so, and seconds between two after that: many pipelines may ask for hours."""


class NoAnswer(Exception):
    """The API did not answer with nodes. The message says what could not be done, and why."""


Ask = Callable[[float], Sequence[PoolNode]]
"""The nodes as they are now, within so many seconds; raises NoAnswer."""


def wait(ask: Ask, question: Question, timeout: float, pace: tuple[float, float, float] = PACE) -> int:
    """Wait at most `timeout` seconds until all nodes have what is asked for. Raises Failure when they will not."""
    often, at_first, seldom = pace
    begun = time.monotonic()
    told, reached = "", False
    while True:
        left = begun + timeout - time.monotonic()
        try:
            nodes = ask(max(left, 0.1))
        except NoAnswer as error:
            progress = str(error)
        else:
            reached = True
            answer = judge_pool(nodes, question)
            if answer.verdict is Verdict.YES:
                print(f"{answer.message}, after {time.monotonic() - begun:.1f} s")
                return OK
            if answer.verdict is Verdict.NEVER:
                raise Failure(answer.message, NOT)
            progress = answer.message
        if progress != told:
            print(progress, file=sys.stderr, flush=True)
            told = progress
        gone = time.monotonic() - begun
        if gone >= timeout:
            raise Failure(f"not within {timeout:g} s", NOT if reached else UNREACHABLE)
        time.sleep(min(often if gone < at_first else seldom, timeout - gone))
