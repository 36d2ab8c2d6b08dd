"""`nodeagent wait --pool`: a pipeline's question for every node of a pool, answered by what the API knows of them."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nodeagent.commands.exits import NOT, OK, UNREACHABLE, Failure
from nodeagent.commands.pool_verdict import Question, judge_pool
from nodeagent.commands.wait import Verdict
from nodeagent.model.node import NodeObject
from nodeagent.state.labels import POOL

PACE: Final = (2.0, 60.0, 5.0)
"""Seconds between two questions, how long so, and seconds between two after that: many pipelines may ask for hours."""


class NoAnswer(Exception):
    """The API did not answer with nodes. The message says what could not be done, and why; `pause` is for how many
    seconds the API server wants to be left alone.
    """

    def __init__(self, message: str, pause: float = 0.0) -> None:
        super().__init__(message)
        self.pause = pause


Ask = Callable[[float], Sequence[NodeObject]]
"""The nodes as they are now, within so many seconds; raises NoAnswer."""


def execute(arguments: argparse.Namespace) -> int:
    """Ask the API again and again, and say what has changed."""
    selector = arguments.selector or f"{POOL}={arguments.pool}"
    question = Question(arguments.blob, selector, applied=arguments.applied, least=arguments.nodes or 1)
    kubeconfig = Path(arguments.kubeconfig) if arguments.kubeconfig else None
    return wait(connect(kubeconfig, selector), question, arguments.timeout)


def connect(kubeconfig: Path | None, selector: str) -> Ask:
    """Who asks the API. Each question has a connection of its own, so that a token or an address that changes in the
    middle of a long wait is no matter. Raises Failure where the API client is not installed, or is told by nobody where
    the API is.
    """
    try:
        from nodeagent.node.api_client import ApiClient
        from nodeagent.node.api_problem import ApiProblem
    except ModuleNotFoundError as error:
        needs = f"it needs the client of the Kubernetes API ({error}): pip install 'nodeagent[kubernetes]'"
        raise Failure(needs, UNREACHABLE) from error

    try:
        ApiClient(kubeconfig)
    except ApiProblem as problem:
        raise Failure(str(problem), UNREACHABLE) from problem

    async def listed(within: float) -> Sequence[NodeObject]:
        async with asyncio.timeout(within):
            api = ApiClient(kubeconfig)
            try:
                return await api.nodes(selector)
            finally:
                await api.close()

    def ask(within: float) -> Sequence[NodeObject]:
        try:
            return asyncio.run(listed(within))
        except ApiProblem as problem:
            raise NoAnswer(str(problem), problem.retry_after or 0.0) from problem
        except TimeoutError as error:
            raise NoAnswer(f"cannot list nodes with {selector}: no answer within {within:.1f} s") from error

    return ask


def wait(ask: Ask, question: Question, timeout: float, pace: tuple[float, float, float] = PACE) -> int:
    """Wait at most `timeout` seconds until all nodes have what is asked for. Raises Failure when they will not."""
    often, at_first, seldom = pace
    begun = time.monotonic()
    told, reached = "", False
    while True:
        left = begun + timeout - time.monotonic()
        pause = 0.0
        try:
            nodes = ask(max(left, 0.1))
        except NoAnswer as error:
            progress, pause = str(error), error.pause
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
        time.sleep(min(max(often if gone < at_first else seldom, pause), timeout - gone))
